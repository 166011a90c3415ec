"""Bytes of a run: the KV cache after prefill, and peak memory."""

from __future__ import annotations

import os
import re
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from typing import BinaryIO

import torch

_STDERR = threading.Lock()  # see _without_profiler_lines


def kv_bytes(cache, lengths: Sequence[int]) -> int:
    """Bytes of the prompt's keys and values in a transformers cache, from its own tensors; lengths [L] are the
    prompt's tokens per layer.

    Tokens generated since (the cache's tail) are left out, so that answers of different lengths compare.
    """
    return sum(
        t[..., :n, :].numel() * t.element_size()
        for layer, n in zip(cache.layers, lengths, strict=True)
        for t in (layer.keys, layer.values)
    )


def peak_memory(run: Callable[[], object], device: torch.device) -> tuple[int, int | None]:
    """(peak bytes above what was allocated before `run`, total peak bytes incl. weights or None on CPU).

    CUDA asks the allocator. On CPU it is the running sum of the profiler's allocation events, which repeats exactly where the
    process's resident memory does not; the profiler slows the run, so never time it.
    """
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        run()
        torch.cuda.synchronize(device)
        total = torch.cuda.max_memory_allocated(device)
        return total - before, total
    from torch.profiler import ProfilerActivity, profile

    profiler = profile(activities=[ProfilerActivity.CPU], profile_memory=True)
    with _without_profiler_lines():
        profiler.start()
    try:
        run()
    finally:
        with _without_profiler_lines():
            profiler.stop()
    current = peak = 0
    events = [e for e in profiler.profiler.kineto_results.events() if e.name() == "[memory]"]
    for event in sorted(events, key=lambda e: e.start_ns()):
        current += event.nbytes()
        peak = max(peak, current)
    return peak, None


@contextmanager
def _without_profiler_lines() -> Iterator[None]:
    """Inside this the process's standard error goes to a file. At the end the file is written out without the lines of torch's
    profiler: that it starts or stops ("USDT:..."), and in which thread ("ERROR: External init callback ...").

    Those lines come from C++: sys.stderr does not see them, and no log level leaves them out. Lines of other threads come some
    hundredths of a second late. A process that another thread starts meanwhile keeps the file as its standard error. One thread
    at a time: a second one would take the first one's file for the standard error, and leave it there.
    """
    with _STDERR, tempfile.TemporaryFile() as held, ExitStack() as at_end:
        with suppress(OSError):  # nobody reads a standard error that is closed
            stderr = os.dup(2)
            at_end.callback(_let_out, held, stderr)
            os.dup2(held.fileno(), 2)
        yield


def _let_out(held: BinaryIO, stderr: int) -> None:
    """Give the standard error its own file descriptor back, and what it missed."""
    os.dup2(stderr, 2)
    os.close(stderr)
    held.seek(0)
    rest = re.sub(rb"(USDT:|ERROR: External init callback)[^\n]*\n", b"", held.read())
    with suppress(OSError):  # its reader has gone
        while rest:
            rest = rest[os.write(2, rest) :]
