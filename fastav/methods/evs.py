"""EVS: video tokens that differ from the frame before stay (efficient video sampling, arXiv:2510.14624)."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from fastav.layout import VIDEO, TokenLayout
from fastav.methods.cut import BEFORE, Cut, Method, candidates, first_cuts
from fastav.methods.scores import FromFeatures
from fastav.methods.setting import setting

_NEW = 255.0  # the score of a token that has no other to be compared with; all others have at most 2


@dataclass(frozen=True)
class EVS(Method):
    """Before the decoder, of n video tokens those max(one time step, floor(keep * n)) stay that changed most.

    Change is 1 - cosine between a token's embedding and that at the same place of the time step before. A token without such a
    place is new and goes before all others: all of the first step, which therefore stays whole, of a step with another grid, and
    a time token where the step before had fewer. So steps keep unequal numbers, and a video of one step stays whole; that is also
    what happens where the layout knows no steps. Without grids, steps of equal length are compared place by place. Newline
    tokens never change and leave early. Audio stays. keep is 1 - q, with q 0.7 in Nemotron 3 Nano Omni.
    The rule is that of the code in transformers (nemotron_h_omni) and vLLM: the paper compares RGB patches with a threshold.
    Deviations: positions stay original, for the text behind the video, too, which vLLM pulls up and transformers renumbers;
    cosines are computed in float32.
    Cost: one cosine for each video token, once. FLOPs do not count it.
    Written from the rule; both codes are Apache-2.0 and no line of them is used.
    """

    name = "evs"

    keep: float = setting(0.3, "share of the video tokens that stays (1 - q)", low=0, high=1)

    def cuts(self, layout: TokenLayout, n_layers: int) -> dict[int, tuple[Cut, ...]]:
        free = candidates(layout) & (layout.kind == VIDEO)
        video = np.flatnonzero(free)
        steps = np.split(video, np.flatnonzero(np.diff(layout.step[video])) + 1)
        n_kept = max(len(steps[0]), int(self.keep * len(video)))

        def compute(layout, features):
            import torch

            now, before = (torch.from_numpy(each).to(features.device) for each in _compared(layout, steps))
            wide = torch.promote_types(features.dtype, torch.float32)
            likeness = torch.nn.functional.cosine_similarity(features[now].to(wide), features[before].to(wide), dim=-1)
            values = torch.full((len(features),), _NEW, dtype=wide, device=features.device)
            return values.index_put((now,), 1 - likeness), None

        cuts = first_cuts(layout, Cut(len(video) - n_kept, free, FromFeatures(compute)))
        return {BEFORE: cuts} if cuts else {}


def _compared(layout: TokenLayout, steps: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """int64 [m] each: positions of tokens, and those of the same places one step before. steps: the positions of each."""
    now, before = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
    for first, second in pairwise(steps):
        grids = [layout.grids[layout.step[each[0]]] if layout.grids else len(each) for each in (first, second)]
        n = min(len(first), len(second)) if grids[0] == grids[1] else 0
        now.append(second[:n])
        before.append(first[:n])
    return np.concatenate(now), np.concatenate(before)
