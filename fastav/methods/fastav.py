"""FastAV: global pruning at the middle layer, then fine pruning by the last query (arXiv:2601.13143)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fastav.errors import UserError
from fastav.layout import AUDIO, PAD, TEXT, VIDEO, TokenLayout, first_positions
from fastav.methods.cut import Cut, Method, candidates
from fastav.methods.random import generator
from fastav.methods.scores import Known, LastQuery, QuestionMean, Score
from fastav.methods.setting import setting
from fastav.plan import Plan

RULES = {
    "model": "keep what the model's rule keeps",
    "all": "keep all",
    "none": "remove all audio and video",
    "no-video": "remove all video",
    "no-audio": "remove all audio",
    "first(N)": "keep the first N positions",
    "random": "remove at random",
    "top-attentive": "remove most attended",
    "low-attentive": "remove least attended",
    "top-informative": "remove most informative",
    "low-informative": "remove least informative",
}
FINE = {
    "low": "remove least attended",
    "top": "remove most attended",
    "random": "remove at random",
    "lookahead": "remove what the text would attend to least in the next layer",
}
PROTECT = {"text": "all text", "last": "the last token alone"}


@dataclass(frozen=True)
class FastAV(Method):
    """Two-stage pruning inside the decoder, without training (sections 2.2 and 2.3, eq. 2-4 of the paper).

    Global: on entering layer `start`, audio and video tokens leave by `rule`. Fine: every layer l >= start but the last
    scores its tokens, s = mean over heads of softmax(q_last K^T / sqrt(d)), and floor(p % of the unprotected tokens) leave
    before layer l + 1. The paper's ablations (tables 2-4, fig. 4) are settings of these fields.

    Deviations: the paper does not say whether text may be fine-pruned nor when a layer's score takes effect; scoring in
    layer l, removing after it, and protecting text is the one reading that gives the published FLOPs 65 / 59 / 56 / 54.

    start    first layer that computes on the globally pruned tokens, counted from 0; None = half of the layers.
    p        whole percent of the unprotected tokens removed after each layer, 0..100.
    rule     what the global stage does with audio and video tokens. model: keep what the checkpoint's rule keeps
             (positions < 750 without one); all: keep all; none: keep none; no-video, no-audio: keep the other stream;
             first(N): keep original positions < N; the others keep as many as `model` does and name what is REMOVED:
             random, or those that the last query of layer start - 1 attends to most / least (attentive), or those with the
             highest / lowest calibrated rollout value (informative). With one stream only (no audio or no video) `model`
             and the ablations keep all.
    fine     what the fine stage removes: the lowest ("low", the paper), the highest ("top") or random tokens. "lookahead" is
             ours: the lowest by the rows of the text after the media, mean over them, with the next layer's weights; each
             layer then projects the keys of its tokens twice. It needs text that is never removed (protect=text).
    keep     share of the audio and video tokens that global pruning keeps, also of a single stream, instead of as many as the
             rule keeps. Ours, to compare methods at equal FLOPs. `model` then keeps what its rule keeps before all else, and of
             both the highest calibrated values, of equals or without values the earlier positions. The rules that say by
             themselves how many stay (all, none, no-video, no-audio, first) do not take it.
    protect  "text": text is never removed; "last": only the last token is safe.
    plan     a calibration file of this model and start that replaces the model's own rule and curve.
    seed     of the random rules, together with the layout's request_id.
    """

    name = "fastav"

    start: int | None = setting(
        None, "first layer that computes on the globally pruned tokens", low=1, layer=True, label="Start layer"
    )
    p: int = setting(
        20, "percent of the unprotected tokens that leave after each layer", low=0, high=100, label="Percent per layer (P)"
    )
    rule: str = setting(
        "model", "which audio and video tokens leave at the start layer", choices=RULES, label="Once, at the start layer"
    )
    fine: str = setting("low", "which tokens fine pruning removes", choices=FINE, label="After every layer from there")
    keep: float | None = setting(
        None, "share of the audio and video tokens that stays there, instead of as many as the rule keeps", low=0, high=1
    )
    protect: str = setting("text", "what fine pruning never removes", choices=PROTECT)
    plan: str | None = setting(None, "a calibration file that takes the place of the model's own rule and curve", file=True)
    seed: int = setting(0, "seeds the random rules, together with clip and question", low=0)

    def __post_init__(self):
        super().__post_init__()
        if (self.fine, self.protect) == ("lookahead", "last"):
            raise UserError("fine=lookahead asks by text that must not be removed; allowed with it: protect=text")

        if self.keep is not None and (self.rule in ("all", "none", "no-video", "no-audio") or self.rule.startswith("first(")):
            raise UserError(f"rule={self.rule} says by itself how many tokens stay; keep goes with the other rules")

    def cuts(self, layout: TokenLayout, n_layers: int) -> dict[int, tuple[Cut, ...]]:
        """See `Method` and `cuts_after`."""
        return self.cuts_after(layout, n_layers, ())

    def cuts_after(self, layout: TokenLayout, n_layers: int, before: tuple[Cut, ...]) -> dict[int, tuple[Cut, ...]]:
        """The cuts where another method's, `before`, come before layer 0.

        Raises UserError when `start` is not a layer of this model, or a needed calibration is missing or of another run.
        """
        start = self.fit(n_layers).start
        if self.plan is not None:
            layout = Plan.read(self.plan, model=layout.model, start=start, n_layers=n_layers).apply(layout)
        cut = self._global_cut(layout, before)
        pads = (layout.kind == PAD) & (not before)
        stages = (Cut(int(pads.sum()), pads, Known(np.zeros(len(layout), np.float32))), cut)
        cuts = {start - 1: tuple(c for c in stages if c.n_removed)}

        free = layout.media if self.protect == "text" else (layout.media | (layout.kind == TEXT))
        free[-1] = False  # the last token asks the question: it is never removed, whatever its kind
        rng = generator(self.seed, layout.request_id, "fine")
        n_free = int(free.sum()) - n_media_gone(layout, before) - cut.n_removed
        for layer in range(start, n_layers - 1):
            n = n_free * self.p // 100
            n_free -= n
            if n:
                cuts[layer] = (Cut(n, free, self._fine_score(layout, rng), "high" if self.fine == "top" else "low"),)
        return cuts

    def _fine_score(self, layout: TokenLayout, rng: np.random.Generator) -> Score:
        if self.fine == "random":
            return Known(rng.random(len(layout), np.float32))
        if self.fine == "lookahead":
            text = np.flatnonzero(layout.kind == TEXT)
            after = text[text > np.flatnonzero(layout.media).max(initial=-1)]
            return QuestionMean(after if after.size else np.array([len(layout) - 1]), "next")
        return LastQuery()

    def _global_cut(self, layout: TokenLayout, before: tuple[Cut, ...]) -> Cut:
        media = candidates(layout)
        keep = self._positions_kept(layout)
        n_left, stays = int(media.sum()) - n_media_gone(layout, before), np.ones(len(layout))
        for cut in before:
            stays[cut.candidates] -= cut.n_removed / cut.candidates.sum()
        n_removed = n_left - round(float(stays[media & keep].sum()) if self.keep is None else self.keep * n_left)
        if self.rule == "random":
            score = Known(generator(self.seed, layout.request_id, "global").random(len(layout), np.float32))
        elif self.rule.endswith("attentive"):
            score = LastQuery()
        elif self.rule.endswith("informative"):
            if layout.influence is None:
                raise UserError(
                    f"rule {self.rule} needs a calibrated curve and this model has none; "
                    "run `python -m fastav calibrate` and give its file as plan=FILE"
                )
            score = Known(layout.influence)
        elif layout.influence is None or (self.keep is None and not before):
            score = Known(keep.astype(np.float32))  # of equals, the later position leaves
        else:
            order = np.lexsort((-np.arange(len(layout)), layout.influence, keep))
            score = Known(np.argsort(order).astype(np.float32))
        return Cut(n_removed, media, score, "high" if self.rule.startswith("top") else "low")

    def _positions_kept(self, layout: TokenLayout) -> np.ndarray:
        """bool [N]: what the rule by position keeps; the other rules keep as many."""
        if self.rule == "none":
            return np.zeros(len(layout), bool)
        if self.rule in ("no-video", "no-audio"):
            return layout.kind == (AUDIO if self.rule == "no-video" else VIDEO)
        if self.rule.startswith("first("):
            return first_positions(layout, int(self.rule[6:-1]))
        if self.rule == "all" or layout.single_stream:
            return layout.media
        return layout.rule_keep if layout.rule_keep is not None else first_positions(layout, 750)


def n_media_gone(layout: TokenLayout, cuts: tuple[Cut, ...]) -> int:
    """How many audio and video tokens these cuts remove."""
    return sum(cut.n_removed for cut in cuts if layout.media[cut.candidates].any())
