"""One record of figures per method, and what they are held to: what eval/speed.py measures."""

from __future__ import annotations

import time
import warnings
from statistics import median
from unittest.mock import patch

import torch

from eval.decoder import Case
from fastav import engine, flops, memory
from fastav.decoder import decoder_layers
from fastav.measure import interleaved, quartiles, seconds
from fastav.run import Run, generate

N_NEW_TOKENS = 32
GOAL_P = 20
CPU_SLACK, GPU_GOAL = 0.03, 0.59  # on a CPU, prefill time may exceed the FLOPs ratio by this; on a GPU it is at most this
GOALS = {"cpu": [("videollama2.1-av", "scaled")], "cuda": [("videollama2.1-av", "real")]}  # where there is one


def measure(model, todo: list[Case], repeats: int, progress) -> list[dict]:
    """One record per case, the first of which is vanilla's."""
    runs = interleaved(model, [case.request for case in todo], repeats, N_NEW_TOKENS, progress.update)
    records = []
    for case, own in zip(todo, runs, strict=True):
        peak = memory.peak_memory(lambda case=case: generate(model, case.request, 1), model.device)[0]
        chosen = [choosing_sec(model, case) for _ in range(min(repeats, 3))]
        records.append(_record(model, case, todo[0], own, runs[0], peak, chosen, host_syncs(model, case, model.device)))
        progress.update()
    return records


def _record(
    model,
    case: Case,
    vanilla: Case,
    own: list[Run],
    others: list[Run],
    peak_bytes: int,
    chosen_sec: list[float],
    n_host_syncs: int | None,
) -> dict:
    """Field names carry units; every time is [lower quartile, median, upper quartile].

    prefill_relative is each repeat's prefill over vanilla's of the same repeat, so that a machine that slows down counts little.
    """
    times, base = seconds(own), seconds(others)["prefill_sec"]
    formulas = {"flops_relative": flops.gqa_flops, "flops_paper_relative": flops.paper_flops}
    return {
        "method": case.label,
        "lengths": case.lengths,
        **{
            name: count(case.lengths, model.config, case.keys_again) / count(vanilla.lengths, model.config)
            for name, count in formulas.items()
        },
        "prefill_sec": quartiles(times["prefill_sec"]),
        "prefill_relative": quartiles([a / b for a, b in zip(times["prefill_sec"], base, strict=True)]),
        "per_token_sec": quartiles(times["per_token_sec"]),
        "choosing_sec": median(chosen_sec),
        "choosing_relative": median(chosen_sec) / median(base),
        "peak_bytes": peak_bytes,
        "kv_bytes": own[0].kv_bytes,
        "host_syncs_between_layers": n_host_syncs,
    }


def choosing_sec(model, case: Case) -> float:
    """Seconds of one prefill that go into planning, scores and selecting. Taking the tokens that stay is not in it."""
    spent = []

    def timed(call):
        def run(*args):
            _wait(model.device)
            began = time.perf_counter()
            result = call(*args)
            _wait(model.device)
            spent.append(time.perf_counter() - began)
            return result

        return run

    with (
        patch.object(engine, "cache_of", timed(engine.cache_of)),
        patch.object(engine.PrunedCache, "_start", timed(engine.PrunedCache._start)),
        patch.object(engine.PrunedCache, "_remove", timed(engine.PrunedCache._remove)),
    ):
        generate(model, case.request, 1)
    return sum(spent)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def host_syncs(model, case: Case, device: torch.device) -> int | None:
    """How often the host waited for the GPU between entering layer 0 and entering the last layer of a prefill; None on a CPU."""
    if device.type != "cuda":
        return None
    first, last = (decoder_layers(model)[i] for i in (0, -1))
    # Registered after the engine's own hooks: what it sends to the device before layer 0 is not counted.
    handles = [
        first.register_forward_pre_hook(lambda *args: torch.cuda.set_sync_debug_mode("warn")),
        last.register_forward_pre_hook(lambda *args: torch.cuda.set_sync_debug_mode("default")),
    ]
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            generate(model, case.request, 1)
    finally:
        torch.cuda.set_sync_debug_mode("default")
        for handle in handles:
            handle.remove()
    return sum("synchronizing CUDA operation" in str(warning.message) for warning in caught)


def goal(records: list[dict], device: torch.device) -> dict | None:
    """What FastAV at P = 20 is held to on this kind of machine; None when it was not measured."""
    record = next((r for r in records if r["method"] == f"fastav:p={GOAL_P}"), None)
    if record is None:
        return None
    limit = GPU_GOAL if device.type == "cuda" else record["flops_relative"] + CPU_SLACK
    found = record["prefill_relative"][1]
    return {"method": record["method"], "limit": limit, "found": found, "met": found <= limit}
