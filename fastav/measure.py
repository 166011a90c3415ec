"""Timings to rely on: several requests in turn, warmed up, and the quartiles of what they took. The only place that repeats."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence

import numpy as np

from fastav.run import Request, Run, generate


def interleaved(
    model, requests: Sequence[Request], repeats: int, n_new_tokens: int, progress: Callable[[], object] = lambda: None
) -> list[list[Run]]:
    """`repeats` runs of each request, in the order of `requests`, each with `n_new_tokens` forced; `progress` is called after
    every run, the warm-up of each request included.

    Each repeat begins with the next request, so that none profits from the others' warm caches.
    """
    runs: list[list[Run]] = [[] for _ in requests]
    for request in requests:
        generate(model, request, n_new_tokens, forced=True)
        progress()
    for repeat in range(repeats):
        for i in (np.arange(len(requests)) + repeat) % len(requests):
            runs[i].append(generate(model, requests[i], n_new_tokens, forced=True))
            progress()
    return runs


def seconds(runs: Sequence[Run]) -> dict[str, list[float]]:
    """Field of a Result -> its value in each run."""
    return {
        "prefill_sec": [run.seconds[0] for run in runs],
        "per_token_sec": [statistics.mean(run.seconds[1:]) for run in runs],
        "total_sec": [sum(run.seconds) for run in runs],
    }


def quartiles(values: Sequence[float]) -> list[float]:
    """[lower quartile, median, upper quartile]"""
    return np.percentile(values, (25, 50, 75)).tolist()
