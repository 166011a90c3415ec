"""DivPrune: the tokens that are farthest from one another stay (arXiv:2503.02175)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fastav.layout import TokenLayout
from fastav.methods.cut import OneCut, candidates
from fastav.methods.scores import FromFeatures
from fastav.methods.setting import setting

_BLOCK = 1024  # rows of the distance matrix held at a time


@dataclass(frozen=True)
class DivPrune(OneCut):
    """Max-min diversity on the projected tokens, d = 1 - cosine, before the decoder and without attention or question.

    First argmax_j min_{i != j} d_ij, then again and again argmax_j min_{i kept} d_ij among those not kept (section 3 of the
    paper). keep 0.098 is the paper's for LLaVA-1.5.
    Deviations: audio and video tokens are one pool where the paper has image tokens alone; positions stay original where the
    reference code renumbers them; a kept token is never taken twice, which the reference code can do with equal tokens.
    Written from the paper's rule; the reference code is licensed CC BY-NC 4.0 and nothing of it is used.
    """

    name = "divprune"

    start: int | None = setting(
        0,
        "first layer that computes on what is kept; 0, as in the paper: before the decoder",
        low=0,
        layer=True,
        label="Start layer",
    )
    keep: float = setting(0.098, "share of the audio and video tokens that stays", low=0, high=1)

    def score(self, layout: TokenLayout) -> FromFeatures:
        media, n_kept = np.flatnonzero(candidates(layout)), self.n_kept(layout)

        def compute(layout, features):
            import torch

            at = torch.from_numpy(media).to(features.device)
            values = torch.zeros(len(features), device=features.device)
            values[at[farthest(features[at], n_kept)]] = 1
            return values, None

        return FromFeatures(compute)


def farthest(features, n_kept: int, beside: np.ndarray | None = None):
    """LongTensor [n_kept]: tokens of features [n, D] in the order in which they are picked. Of equals the first; no host sync.

    beside   int64: tokens that stay anyway. The picks are far from them, too, and others.
    """
    import torch

    unit = torch.nn.functional.normalize(features.to(torch.promote_types(features.dtype, torch.float32)), dim=-1)
    began = beside is not None and len(beside) > 0
    if began:
        there = torch.from_numpy(beside).to(unit.device)
        nearest = (1 - unit @ unit.index_select(0, there).T).min(1).values.index_fill(0, there, -torch.inf)
    else:
        nearest = torch.cat([_nearest_other(unit, begin) for begin in range(0, len(unit), _BLOCK)])
    picked = []
    for _ in range(n_kept):
        pick = nearest.argmax()[None]
        distance = 1 - (unit @ unit.index_select(0, pick).T)[:, 0]
        nearest = torch.minimum(nearest, distance) if picked or began else distance
        picked.append(pick)
        nearest = nearest.index_fill(0, torch.cat(picked), -torch.inf)
    return torch.cat(picked) if picked else torch.zeros(0, dtype=torch.long, device=features.device)


def _nearest_other(unit, begin: int):
    """Distance from each token of one block to the nearest other token."""
    distance = 1 - unit[begin : begin + _BLOCK] @ unit.T
    distance.diagonal(begin).fill_(float("inf"))
    return distance.min(1).values
