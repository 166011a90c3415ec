"""Recordings of the methods' reference code: `python -m tests.parity methods DIR`.

DIR holds, for each method, a JSON that names the method, its cases and their settings, and beside it the tensors of the same
name: `seats.json`, `seats.safetensors`. A tensor is called `case.name`. COMPARED lists the methods that are compared.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from parity import Report
from safetensors.torch import load_file

from fastav.layout import AUDIO, VIDEO, TokenLayout
from fastav.methods import divprune, omnizip, seats
from fastav.methods.scores import best_of_groups
from fastav.methods.windows import runs


class Given(dict):
    """The tensors of one case, without the case's name."""

    def __init__(self, tensors: dict, case: str):
        super().__init__({name.partition(".")[2]: tensor for name, tensor in tensors.items() if name.startswith(f"{case}.")})


def layout_of_kinds(kind: torch.Tensor) -> TokenLayout:
    """A layout of these kinds in which nothing else is known."""
    return TokenLayout.of(*((("text", "video", "audio")[k], 1) for k in kind.tolist())).with_facts(kind=kind.numpy())


def compare_divprune(told: dict, tensors: dict, report: Report) -> None:
    for case in told["cases"]:
        given = Given(tensors, case["name"])
        features = given["features"]
        picked = divprune.farthest(features, round(case["settings"]["keep_ratio"] * len(features)))
        report.same(case["name"], "picked, in order", picked.tolist(), given["picked"].tolist())


def compare_omnizip(told: dict, tensors: dict, report: Report) -> None:
    """Windows are the recording's runs, also in `one_chunk`, which time windows would divide."""
    for case in told["cases"]:
        given, settings, name = Given(tensors, case["name"]), case["settings"], case["name"]
        constants = [settings[each] for each in ("contextual_ratio", "k", "rho_min", "rho_max")]
        report.same(name, "constants", [omnizip.ANCHORS, omnizip.NEIGHBOURS, omnizip.LEAST, omnizip.MOST], constants)
        layout, importance = layout_of_kinds(given["kind"]), np.zeros(len(given["kind"]), np.float32)
        video, audio = (layout.kind == kind for kind in (VIDEO, AUDIO))
        grid = np.arange(video.sum()) // settings["tokens_per_grid"]
        layout.step[video] = np.minimum(grid, settings["grids"] - 1)
        importance[audio] = given["audio_attention"].numpy()
        layout = layout.with_facts(importance_in_clip=importance)
        method = omnizip.OmniZip(1 - settings["rho_audio"], 1 - settings["rho_video"], settings["g"])
        chosen = method.choose(layout, runs(layout))
        report.close(name, "rates", chosen.rates[: len(given["rates"])], given["rates"], 1e-6)
        values, rows = chosen.compute(layout, given["embeds"])
        report.same(name, "tokens that enter", _at((values > 0) | ~torch.from_numpy(layout.media)), _at(given["keep"]))
        report.same(name, "number of tokens that enter", chosen.n_kept, int(given["keep"][layout.media].sum()))
        report.same(name, "rows replaced", _at((rows != given["embeds"]).any(1)), given["anchors"].tolist())
        report.close(name, "merged anchors", rows[given["anchors"]], given["merged"], 1e-5)


def compare_seats(told: dict, tensors: dict, report: Report) -> None:
    for want in told.get("schedule", ()):
        case, late = f"schedule, {want['layers']} layers", want["late_block_layer_1based"]
        got = seats.ratios(want["drop_layers_1based"], late, want["layers"])
        for stream in ("keep_video", "keep_audio"):
            report.same(case, f"{stream} of {want['target_' + stream[5:]]}", got, want[stream])
        if want["layers"] == 28:
            report.same(case, "layers", seats.schedule_layers(28), (want["drop_layers_1based"], late))
    for case in told["cases"]:
        first = case["settings"]["stage"].startswith("I ")
        (_seats_entering if first else _seats_by_window)(case, Given(tensors, case["name"]), report)


def _seats_entering(case: dict, given: Given, report: Report) -> None:
    features, told = given["features"], case["settings"]
    keep = torch.zeros(len(features), dtype=torch.bool)
    for at, n_kept in seats.token_windows(np.arange(len(features)), told["window_tokens"], told["keep_ratio"]):
        at = torch.from_numpy(at)
        keep[at] = seats.farthest_weighted(features[at], given["attention"][at], n_kept) > 0
    report.same(case["name"], "tokens that enter", _at(keep), _at(given["keep"]))


def _seats_by_window(case: dict, given: Given, report: Report) -> None:
    """Windows are the recording's runs: in `s2_single` one of each, which a time window would divide."""
    layout, told = layout_of_kinds(given["kind"]), case["settings"]
    window, n = runs(layout), [int((layout.kind == kind).sum()) for kind in (VIDEO, AUDIO)]
    n_kept = [max(1, round(told[share] * each)) for share, each in zip(("keep_video", "keep_audio"), n, strict=True)]
    score, group = given["score"][None], torch.from_numpy(layout.kind).long()[None]
    report.same(case["name"], "temperature", seats.TEMPERATURE, told["temperature"])
    per_group = torch.tensor([[0, *n_kept]])  # one window: the best of each stream
    if window.max():
        budgets = seats.budgets(layout, window, *n_kept)
        group = torch.from_numpy(budgets.group)[None]
        per_group = budgets.per_group(score, group)
        report.same(case["name"], "budgets", per_group[0, :-1].view(-1, 2).tolist(), given["budgets"].tolist())
    chosen = best_of_groups(score, group, per_group)[0] > 0
    report.same(case["name"], "tokens that go on", _at(chosen | ~torch.from_numpy(layout.media)), _at(given["keep"]))


def _at(mask: torch.Tensor) -> list[int]:
    return mask.nonzero().flatten().tolist()


COMPARED: dict[str, Callable[[dict, dict, Report], None]] = {
    "divprune": compare_divprune,
    "omnizip": compare_omnizip,
    "seats": compare_seats,
}


def recording(path: Path) -> tuple[dict, dict]:
    """(what the JSON tells, the tensors beside it)."""
    return json.loads(path.read_text()), load_file(path.with_suffix(".safetensors"))


def compare(folder: Path, report: Report) -> None:
    for path in sorted(folder.glob("*.json")):
        with report.reading(path.stem):
            told, tensors = recording(path)
            if told["method"] in COMPARED:
                report.found(told["method"])
                COMPARED[told["method"]](told, tensors, report)
            else:
                report.missing(told["method"], "of a method that is not here")
