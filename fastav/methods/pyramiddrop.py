"""PyramidDrop: fewer audio and video tokens after each quarter of the layers (arXiv:2410.17247)."""

from __future__ import annotations

from dataclasses import dataclass

from fastav.errors import UserError
from fastav.layout import TokenLayout
from fastav.methods.cut import Cut, Method, candidates, first_cuts
from fastav.methods.scores import LastQuery
from fastav.methods.setting import setting


@dataclass(frozen=True)
class PyramidDrop(Method):
    """After a quarter, a half and three quarters of the layers, floor(share * n) of the n audio and video tokens stay.

    Shares are of all that entered, not of what is left. Those stay that the last query attends to most in the layer that
    follows, computed on all tokens before any leaves (section 3 of the paper; its code says 0.5, 0.25, 0.125 for 32 layers after
    8, 16 and 24). In L layers it is after round(L / 4), round(L / 2) and round(3 L / 4), counted from 1 and half to even; of
    two that coincide the later share holds, and one with no layer after it falls away.
    Deviations: audio and video tokens are one pool where the paper has image tokens alone; positions stay original where the
    reference code renumbers them from 0 each time, so its later scores differ. Raises UserError for shares that grow.
    Cost: each time all tokens are projected once more, by the next layer. FLOPs count these keys.
    Written from the rule; the reference code is MIT and no line of it is used.
    """

    name = "pyramiddrop"

    first: float = setting(0.5, "share that stays after a quarter of the layers", low=0, high=1, label="Kept after 1/4")
    second: float = setting(0.25, "share that stays after half of the layers", low=0, high=1, label="Kept after 1/2")
    third: float = setting(0.125, "share that stays after three quarters of the layers", low=0, high=1, label="Kept after 3/4")

    def __post_init__(self):
        super().__post_init__()
        if not self.first >= self.second >= self.third:
            raise UserError(f"the shares must not grow, got first={self.first}, second={self.second}, third={self.third}")

    def cuts(self, layout: TokenLayout, n_layers: int) -> dict[int, tuple[Cut, ...]]:
        free, shares = candidates(layout), (self.first, self.second, self.third)
        n = n_left = int(free.sum())
        stages = {max(1, round(quarter * n_layers / 4)): int(share * n) for quarter, share in enumerate(shares, 1)}
        cuts = {}
        for start, n_kept in stages.items():
            if start < n_layers and n_kept < n_left:
                cut = Cut(n_left - n_kept, free, LastQuery("next"))
                cuts[start - 1] = (cut,) if cuts else first_cuts(layout, cut)
                n_left = n_kept
        return cuts
