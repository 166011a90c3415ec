"""VidCom2: more of the frames, and of each frame the tokens, that are unlike the rest of the video (arXiv:2505.14454)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fastav.layout import VIDEO, TokenLayout
from fastav.methods.cut import BEFORE, Cut, Method, candidates, first_cuts
from fastav.methods.scores import FromFeatures
from fastav.methods.setting import setting

_SHARPNESS = 0.01  # temperature of the frames' softmax
_WIDTHS = (1 / 8, 1 / 4, 1 / 2, 1, 2)  # of the Gaussians


@dataclass(frozen=True)
class VidCom2(Method):
    """Before the decoder, of n video tokens max(one for each time step, round(keep * n)) stay that are least like the rest.

    These are the paper's Frame Compression Adjustment and Adaptive Token Compression, as its code has them. Of the embeddings the
    half of the channels counts that varies least, each row scaled to length 1. A token's likeness to a mean is a sum of five
    Gaussians of their distance; a token ranks by its likeness to the mean of the video and of its time step. The less its tokens
    are like the video, the larger a step's share: s = min(1, keep (1 + p - mean p)), p a softmax over steps at temperature 0.01.
    The token at place i of a step of m, counted from 0, has the value s m - i; the first has infinity.
    Deviations: the reference code keeps round(s m) of each step, at least 1: all values above 1/2. How many these are depends on
    the embeddings, and lengths must be known before the run; so the highest values stay, as many as said above, and a step may
    keep a few more or fewer. A layout that knows no time steps is one step. Audio stays. Positions stay original, as there.
    Cost: the channels' variance and two distances for each video token, once. FLOPs do not count it.
    Written from the rule; the reference code is Apache-2.0 and no line of it is used.
    """

    name = "vidcom2"

    keep: float = setting(0.25, "share of the video tokens that stays (R of the paper)", low=0, high=1)

    def cuts(self, layout: TokenLayout, n_layers: int) -> dict[int, tuple[Cut, ...]]:
        free = candidates(layout) & (layout.kind == VIDEO)
        video = np.flatnonzero(free)
        sizes = np.unique(layout.step[video], return_counts=True)[1].tolist()
        n_kept = max(len(sizes), round(self.keep * len(video)))

        def compute(layout, features):
            import torch

            at = torch.from_numpy(video).to(features.device)
            found = ranked(features[at], sizes, self.keep)
            return torch.zeros(len(features), dtype=found.dtype, device=found.device).index_put((at,), found), None

        cuts = first_cuts(layout, Cut(len(video) - n_kept, free, FromFeatures(compute)))
        return {BEFORE: cuts} if cuts else {}


def ranked(features, sizes: list[int], keep: float):
    """The values [n] of features [n, D], in time steps of these sizes. The reference code keeps those above 1/2. No host sync."""
    import torch

    wide = features.to(torch.promote_types(features.dtype, torch.float32))
    calm = wide.var(0, correction=0).argsort(stable=True)[: wide.shape[1] // 2]
    unit = torch.nn.functional.normalize(wide.index_select(1, calm), dim=-1)
    to_video = _likeness(unit, unit.mean(0)).split(sizes)
    strangeness = -torch.stack([each.mean() for each in to_video])
    p = (strangeness / _SHARPNESS).softmax(0)
    shares = (keep * (1 + p - p.mean())).clamp(max=1)
    values = []
    for step, likeness, share in zip(unit.split(sizes), to_video, shares, strict=True):
        place = (likeness + _likeness(step, step.mean(0))).argsort(stable=True).argsort()
        values.append(torch.where(place == 0, torch.inf, share * len(step) - place))
    return torch.cat(values)


def _likeness(unit, mean):
    """[n]: of rows [n, C] to one row [C]."""
    squared = (unit - mean).square().sum(-1)
    return sum((-squared / (2 * width)).exp() for width in _WIDTHS)
