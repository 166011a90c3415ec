"""Parity of pruning methods, pick by pick: `python -m tests.parity methods DIR`. Sets that DIR may hold:

NAME.safetensors + NAME.json    what the reference code of method NAME kept, and the features or attention that it was given

A tensor is called CASE.TENSOR; the JSON lists each case with its settings and its tensors, and one that is not there as listed
is an excess. Positions must be the same, so there is no tolerance.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import torch
from parity_windows import omnizip_case, seats_case, seats_schedule
from safetensors.torch import load_file
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaDecoderLayer, LlamaRotaryEmbedding

from fastav.layout import TokenLayout
from fastav.methods import Method, lengths
from fastav.methods.cut import candidates
from fastav.methods.divprune import farthest
from fastav.methods.evs import EVS
from fastav.methods.fastv import FastV
from fastav.methods.pyramiddrop import PyramidDrop
from fastav.methods.vidcom2 import ranked
from fastav.methods.vtw import VTW
from fastav.seen import LayerSeen
from fastav.selection import Positions, selections_of, take, with_features

N_LAYERS = 32


@torch.inference_mode()
def compare(folder: Path, report, names=()) -> None:
    """All methods of the table below, or those of these names."""
    for name in names or METHODS:
        files = [folder / f"{name}{suffix}" for suffix in (".safetensors", ".json")]
        if not any(file.is_file() for file in files):  # without one of the two the set is broken, not absent
            report.missing(name)
            continue
        report.found(name)
        with report.reading(name):
            tensors = load_file(files[0])
            told = json.loads(files[1].read_text())
            if name == "seats":
                seats_schedule(told, report)
            for case in told["cases"]:
                label, listed = f"{name} {case['name']}", case["tensors"]
                different = [key for key in listed if key not in tensors or list(tensors[key].shape) != listed[key]["shape"]]
                report.same(label, "tensors missing or not as listed", different, [])
                given = {key.removeprefix(case["name"] + "."): tensors[key] for key in listed}
                METHODS[name](label, case["settings"], given, report)


class Row(Positions):
    """What a score sees: the last query's attention [heads, N], as it was recorded."""

    def __init__(self, positions: torch.Tensor, heads: torch.Tensor):
        super().__init__(positions)
        object.__setattr__(self, "_heads", heads)

    def attention(self, weights: str = "own", rows: torch.Tensor | None = None) -> torch.Tensor:
        return take(self._heads.mean(0)[None], self.positions)[:, None]


def kept(method: Method, layout: TokenLayout, features=None, heads=None) -> list[int]:
    """Positions that the method's only layer of cuts leaves, of features [N, D] or attention [heads, N]."""
    (cuts,) = selections_of([method.cuts(layout, N_LAYERS)], len(layout)).values()
    positions = torch.arange(len(layout))[None]
    for selection in cuts:
        selection, _ = with_features(selection, [layout], None if features is None else features[None])
        positions = take(positions, selection.choose(Row(positions, heads), positions))
    return positions[0].tolist()


def _same(report, label: str, got: list[int], want: torch.Tensor) -> None:
    """want: positions, or bool for each position."""
    want = want.nonzero()[:, 0] if want.dtype == torch.bool else want
    report.same(label, f"unlike among {len(want)} kept", sorted(set(got) ^ set(want.tolist())), [])


def _divprune(label: str, settings: dict, given: dict, report) -> None:
    picked = farthest(given["features"], round(settings["keep_ratio"] * len(given["features"])))
    report.same(label, "picked", picked.tolist(), given["picked"].tolist())
    _same(report, label, picked.tolist(), given["keep"])


def _fastv(label: str, settings: dict, given: dict, report) -> None:
    n = given["attention"].shape[1]
    if settings["variant"] == "original":
        begin, length = settings["start"], settings["length"]
        layout = TokenLayout.of(("text", begin), ("video", length), ("text", n - begin - length))
        method = FastV(video=1 - settings["R"], weights="own")
    else:
        layout = _of_kinds(given["kind"])
        method = FastV(video=settings["keep_video"], audio=settings["keep_audio"])
    _same(report, label, kept(method, layout, heads=given["attention"]), given["keep"])


def _of_kinds(kind: torch.Tensor) -> TokenLayout:
    """The layout of kind [N]: 0 text, 1 video, 2 audio."""
    return TokenLayout.of(*(("text" if each == 0 else "video" if each == 1 else "audio", 1) for each in kind.tolist()))


def _vtw(label: str, settings: dict, given: dict, report) -> None:
    """K itself is given to the method: which one the reference chose by logits is not compared."""
    begin, n_visual = settings["visual_start"], settings["visual_tokens"]
    layout = TokenLayout.of(("text", begin), ("video", n_visual), ("text", settings["N"] - begin - n_visual))
    method = VTW(start=settings["K"])
    n_layers = lengths(method, layout, settings["layers"]).count(len(layout))
    report.same(label, "layers on all tokens", n_layers, settings["K"])
    _same(report, label, kept(method, layout), given["keep"])


def _pyramiddrop(label: str, settings: dict, given: dict, report) -> None:
    """One stage at a time: how many leave follows from all that entered, which of them from what is left."""
    begin, n_now, stage = settings["visual_start"], settings["visual_tokens_now"], settings["stage"]
    end = len(given["hidden"]) - begin - n_now
    entered = TokenLayout.of(("text", begin), ("video", settings["visual_tokens_original"]), ("text", end))
    left = TokenLayout.of(("text", begin), ("video", n_now), ("text", end))
    layer, (cut,) = list(PyramidDrop(*settings["ratios"][1:]).cuts(entered, N_LAYERS).items())[stage]
    want = (N_LAYERS // 4 * (stage + 1) - 1, n_now - settings["visual_tokens_next"])
    report.same(label, "after which layer, how many leave", (layer, cut.n_removed), want)
    seen = _standing_in(settings, given)
    report.close(label, "score", cut.score.values(seen)[0], given["score"], 1e-6)
    (selection,) = selections_of([{layer: (replace(cut, candidates=candidates(left)),)}], len(left))[layer]
    _same(report, label, selection.choose(seen, seen.positions)[0].tolist(), given["keep"])


def _standing_in(settings: dict, given: dict) -> LayerSeen:
    """What a score sees between some layer and the next, of which norm, queries and keys were recorded. The first may be any."""
    config = LlamaConfig(
        hidden_size=given["hidden"].shape[1],
        num_attention_heads=settings["heads"],
        head_dim=settings["head_dim"],
        rope_theta=settings["rope_theta"],
        rms_norm_eps=settings["rms_eps"],
        num_hidden_layers=2,
        attn_implementation="eager",
    )
    layer, following, hidden = LlamaDecoderLayer(config, 0), LlamaDecoderLayer(config, 1), given["hidden"][None]
    following.input_layernorm.weight.data = given["norm_weight"]
    following.self_attn.q_proj.weight.data, following.self_attn.k_proj.weight.data = given["w_q"], given["w_k"]
    positions = torch.arange(hidden.shape[1])[None]
    cos_sin = LlamaRotaryEmbedding(config)(hidden, positions)
    return LayerSeen(positions, layer, following, None, hidden, cos_sin, None, None, set())


def _evs(label: str, settings: dict, given: dict, report) -> None:
    layout = TokenLayout.of(("video", len(given["features"]), settings["frames"]), ("text", 1))
    features = torch.cat([given["features"], torch.zeros(1, given["features"].shape[1])])
    _same(report, label, kept(EVS(keep=1 - settings["q"]), layout, features)[:-1], given["keep"])


def _vidcom2(label: str, settings: dict, given: dict, report) -> None:
    """The reference's own count follows from the features, the method's from the layout: one ranking serves both."""
    frames, n = settings["frames"], settings["tokens_per_frame"]
    values = ranked(given["features"], [n] * frames, settings["base_keep"])
    report.same(label, "kept of each frame", (values > 0.5).view(frames, n).sum(1).tolist(), settings["per_frame"])
    _same(report, label, (values > 0.5).nonzero()[:, 0].tolist(), given["keep"])


METHODS = {
    "divprune": _divprune,
    "evs": _evs,
    "fastv": _fastv,
    "omnizip": omnizip_case,
    "pyramiddrop": _pyramiddrop,
    "seats": seats_case,
    "vidcom2": _vidcom2,
    "vtw": _vtw,
}
