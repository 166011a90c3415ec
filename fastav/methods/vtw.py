"""VTW: from one layer on, no audio and video tokens are left (visual tokens withdrawal, arXiv:2405.05803)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fastav.layout import TokenLayout
from fastav.methods.cut import Cut, Method, candidates, first_cuts
from fastav.methods.scores import Known
from fastav.methods.setting import setting


@dataclass(frozen=True)
class VTW(Method):
    """All audio and video tokens leave before layer `start` (K of the paper).

    The paper takes the smallest K from 5 on at which the first output distribution of 20 samples changes by a mean KL divergence
    of at most 0.003: 15 or 16 of 32 layers, 20 of 40. Here K is given; half of the layers unless set.
    Deviations: audio leaves, too, where the paper has image tokens alone; a media token that ends the prompt stays. Positions
    stay original, as in the reference code, and earlier layers' caches keep all tokens.
    Cost: none, nothing is ranked.
    Written from the rule; the reference code came without a licence and no line of it is used.
    """

    name = "vtw"

    start: int | None = setting(
        None, "first layer that computes on text alone (K of the paper)", low=1, layer=True, label="Start layer"
    )

    def cuts(self, layout: TokenLayout, n_layers: int) -> dict[int, tuple[Cut, ...]]:
        free = candidates(layout)
        cuts = first_cuts(layout, Cut(int(free.sum()), free, Known(np.zeros(len(layout), np.float32))))
        return {self.fit(n_layers).start - 1: cuts} if cuts else {}
