"""Parity of the methods that choose by windows, OmniZip and SEATS: one function for a case of their recordings."""

from __future__ import annotations

import numpy as np
import torch

from fastav.layout import AUDIO, VIDEO, TokenLayout
from fastav.methods import omnizip, seats
from fastav.methods.scores import best_of_groups
from fastav.methods.windows import runs


def layout_of_kinds(kind: torch.Tensor) -> TokenLayout:
    """A layout of these kinds in which nothing else is known."""
    return TokenLayout.of(*((("text", "video", "audio")[k], 1) for k in kind.tolist())).with_facts(kind=kind.numpy())


def omnizip_case(name: str, settings: dict, given: dict, report) -> None:
    """Windows are the recording's runs, also in `one_chunk`, which time windows would divide."""
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


def seats_schedule(told: dict, report) -> None:
    """What the recording tells of the schedule, for each number of layers."""
    for want in told.get("schedule", ()):
        case, late = f"seats schedule, {want['layers']} layers", want["late_block_layer_1based"]
        got = seats.ratios(want["drop_layers_1based"], late, want["layers"])
        for stream in ("keep_video", "keep_audio"):
            report.same(case, f"{stream} of {want['target_' + stream[5:]]}", got, want[stream])
        if want["layers"] == 28:
            report.same(case, "layers", seats.schedule_layers(28), (want["drop_layers_1based"], late))


def seats_case(label: str, settings: dict, given: dict, report) -> None:
    entering = settings["stage"].startswith("I ")
    (_seats_entering if entering else _seats_by_window)(label, settings, given, report)


def _seats_entering(label: str, settings: dict, given: dict, report) -> None:
    features = given["features"]
    keep = torch.zeros(len(features), dtype=torch.bool)
    for at, n_kept in seats.token_windows(np.arange(len(features)), settings["window_tokens"], settings["keep_ratio"]):
        at = torch.from_numpy(at)
        keep[at] = seats.farthest_weighted(features[at], given["attention"][at], n_kept) > 0
    report.same(label, "tokens that enter", _at(keep), _at(given["keep"]))


def _seats_by_window(label: str, settings: dict, given: dict, report) -> None:
    """Windows are the recording's runs: in `s2_single` one of each, which a time window would divide."""
    layout = layout_of_kinds(given["kind"])
    window, n = runs(layout), [int((layout.kind == kind).sum()) for kind in (VIDEO, AUDIO)]
    n_kept = [max(1, round(settings[share] * each)) for share, each in zip(("keep_video", "keep_audio"), n, strict=True)]
    score, group = given["score"][None], torch.from_numpy(layout.kind).long()[None]
    report.same(label, "temperature", seats.TEMPERATURE, settings["temperature"])
    per_group = torch.tensor([[0, *n_kept]])  # one window: the best of each stream
    if window.max():
        budgets = seats.budgets(layout, window, *n_kept)
        group = torch.from_numpy(budgets.group)[None]
        per_group = budgets.per_group(score, group)
        report.same(label, "budgets", per_group[0, :-1].view(-1, 2).tolist(), given["budgets"].tolist())
    chosen = best_of_groups(score, group, per_group)[0] > 0
    report.same(label, "tokens that go on", _at(chosen | ~torch.from_numpy(layout.media)), _at(given["keep"]))


def _at(mask: torch.Tensor) -> list[int]:
    return mask.nonzero().flatten().tolist()
