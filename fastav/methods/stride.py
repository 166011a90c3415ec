"""Stride: audio and video tokens at equal distances stay. A baseline that looks at nothing."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fastav.layout import TokenLayout
from fastav.methods.cut import OneCut, candidates
from fastav.methods.scores import Known


@dataclass(frozen=True)
class Stride(OneCut):
    """Of n audio and video tokens in prompt order, those at floor((i + 1/2) n / k) stay, i = 0..k-1. Positions stay original.

    One cut, no fine pruning. Source: none; uniform sampling is the baseline of most papers on token pruning.
    """

    name = "stride"

    def score(self, layout: TokenLayout) -> Known:
        media = np.flatnonzero(candidates(layout))
        values = np.zeros(len(layout), np.float32)
        values[media[evenly(len(media), self.n_kept(layout))]] = 1
        return Known(values)


def evenly(n: int, k: int) -> np.ndarray:
    """int64 [k]: the middles of k equal parts of 0..n-1, floor((i + 1/2) n / k)."""
    return (2 * np.arange(k) + 1) * n // (2 * max(k, 1))
