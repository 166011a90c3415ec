"""FastV: after an early layer the last query chooses which audio and video tokens stay (arXiv:2403.06764)."""

from __future__ import annotations

from dataclasses import dataclass

from fastav.layout import AUDIO, VIDEO, TokenLayout
from fastav.methods.cut import Cut, Method, candidates, first_cuts
from fastav.methods.scores import LastQuery
from fastav.methods.setting import setting

WEIGHTS = {"again": "on the layer's output, as in FastV-om", "own": "on its input, as in FastV"}


@dataclass(frozen=True)
class FastV(Method):
    """Before layer `start`, of n tokens of each modality the max(1, round(share * n)) stay that the last query attends to most.

    With `weights=own,audio=1` it is FastV as its code has it: K = start, R = 1 - share, image tokens alone. Section 4 of the
    paper says the mean attention from all tokens; the code takes the last query. With a share for each modality it is FastV-om,
    the baseline of SEATS (arXiv:2605.20035), whose score is `again`: the weights of layer start - 1 on that layer's output. A
    share q of SEATS follows from its layer-averaged r: q = (r L - K) / (L - K).
    Deviations: at least one token of each modality stays, also where R = 1; K does not scale with the number of layers, as the
    authors take 2 for 32 and 40 layers alike; K = 0, random tokens in their code, is the method `random`. Positions stay
    original, as in both codes.
    Cost: `own` projects one query; `again` all tokens once more for each modality that loses some: FLOPs count these keys.
    Written from the rule; the reference codes came without a licence (FastV) and with MIT (SEATS), and no line of them is used.
    """

    name = "fastv"

    start: int = setting(2, "first layer that computes on what is kept (K of the paper)", low=1, layer=True, label="Start layer")
    video: float = setting(0.5, "share of the video tokens that stays", low=0, high=1, label="Video kept")
    audio: float = setting(0.5, "share of the audio tokens that stays", low=0, high=1, label="Audio kept")
    weights: str = setting("again", "which attention of the last query ranks them", choices=WEIGHTS, label="Attention")

    def cuts(self, layout: TokenLayout, n_layers: int) -> dict[int, tuple[Cut, ...]]:
        def cut(kind: int, share: float) -> Cut:
            free = candidates(layout) & (layout.kind == kind)
            n = int(free.sum())
            return Cut(n - min(n, max(1, round(share * n))), free, LastQuery(self.weights))

        cuts = first_cuts(layout, cut(VIDEO, self.video), cut(AUDIO, self.audio))
        return {self.fit(n_layers).start - 1: cuts} if cuts else {}
