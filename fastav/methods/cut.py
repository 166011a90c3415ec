"""Cut: what a pruning method answers after a layer, and the lengths that follow from it. Pure: numpy only.

A method never touches tensors of the model. It says, before prefill, how many tokens leave after each layer and by which
score; the engine carries it out. So every length is known before the model runs and nothing waits for the GPU.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from fastav.errors import UserError
from fastav.layout import PAD, TokenLayout
from fastav.methods.scores import FromFeatures, Known, Score
from fastav.methods.setting import check, setting, settings

BEFORE = -1  # the layer after which cuts before layer 0 are said to come


@dataclass(frozen=True, eq=False)
class Cut:
    """Remove `n_removed` of the candidates still present, by score.

    candidates  bool [N] by original position; all others are protected.
    score       what they are ranked by, see fastav/methods/scores.py.
    remove      "low": the lowest scores leave; "high": the highest. Of equals, the later position leaves.
    """

    n_removed: int
    candidates: np.ndarray
    score: Score | FromFeatures
    remove: str = "low"


class Method(ABC):
    """What session and engine ask of a pruning method: a frozen dataclass whose fields are its settings.

    Positions are original and stay so, but for what `enters` leaves out. Raises UserError when built with an impossible setting.
    """

    name: ClassVar[str]  # what a person types

    def __post_init__(self):
        check(self)

    def enters(self, layout: TokenLayout) -> np.ndarray:
        """bool [N]: the tokens that enter the decoder. The others are left out of the prompt: positions are renumbered from 0,
        and `cuts` is asked about the shorter layout.
        """
        return np.ones(len(layout), bool)

    @abstractmethod
    def cuts(self, layout: TokenLayout, n_layers: int) -> dict[int, tuple[Cut, ...]]:
        """Layer l -> the cuts carried out, in order, after layer l and before layer l + 1; BEFORE: before layer 0.

        How many leave follows from the layout alone.
        """

    def fit(self, n_layers: int) -> Method:
        """The same with the middle layer wherever none was given. Raises UserError for a layer that the model does not have."""
        layers = {}
        for each in settings(type(self)):
            if each.layer:
                given = getattr(self, each.name)
                layers[each.name] = layer = n_layers // 2 if given is None else given
                if not each.low <= layer < n_layers:
                    allowed = f"from {each.low} to {n_layers - 1} for this model of {n_layers} layers"
                    raise UserError(f"{each.name} must be {allowed}, got {layer}")
        return replace(self, **layers)

    @property
    def title(self) -> str:
        """Its name as a person writes it."""
        return type(self).__name__

    def __str__(self) -> str:
        """The text form, with every setting."""
        given = {each.name: getattr(self, each.name) for each in settings(type(self))}
        text = ",".join(f"{name}={written(value)}" for name, value in given.items() if value is not None)
        return f"{self.name}:{text}" if text else self.name


@dataclass(frozen=True)
class OneCut(Method):
    """A method of a single cut: of the audio and video tokens round(keep * n) stay (half to even), ranked by `score`."""

    start: int | None = setting(
        None, "first layer that computes on what is kept; 0: before the decoder", low=0, layer=True, label="Start layer"
    )
    keep: float = setting(0.5, "share of the audio and video tokens that stays", low=0, high=1)

    @abstractmethod
    def score(self, layout: TokenLayout) -> Score | FromFeatures:
        """The highest stay."""

    def n_kept(self, layout: TokenLayout) -> int:
        return round(self.keep * int(candidates(layout).sum()))

    def cuts(self, layout: TokenLayout, n_layers: int) -> dict[int, tuple[Cut, ...]]:
        free, before = candidates(layout), self.fit(n_layers).start - 1
        cuts = first_cuts(layout, Cut(int(free.sum()) - self.n_kept(layout), free, self.score(layout)))
        return {before: cuts} if cuts else {}


def written(value) -> str:
    """As a browser writes it, too: true for True, 1 for 1.0."""
    if isinstance(value, bool):
        return str(value).lower()
    return str(value).removesuffix(".0") if isinstance(value, float) else str(value)


def candidates(layout: TokenLayout) -> np.ndarray:
    """bool [N]: audio and video tokens. Never the last token, which asks the question, whatever its kind."""
    free = layout.media.copy()
    free[-1] = False
    return free


def first_cuts(layout: TokenLayout, *cuts: Cut) -> tuple[Cut, ...]:
    """The cuts of the first layer that has any: those of `cuts` that remove something, then left padding. () if none does."""
    pads = layout.kind == PAD
    cuts = tuple(cut for cut in cuts if cut.n_removed)
    return (*cuts, Cut(int(pads.sum()), pads, Known(np.zeros(len(layout), np.float32)))) if cuts and pads.any() else cuts


def lengths(method: Method, layout: TokenLayout, n_layers: int) -> list[int]:
    """[L] tokens that each layer computes on at prefill: arithmetic on the cuts, no model needed."""
    return lengths_of(method.cuts(layout, n_layers), len(layout), n_layers)


def keys_again(cuts: dict[int, tuple[Cut, ...]], n_tokens: int) -> int:
    """How many tokens' keys are projected once more for scores, of `n_tokens` in the prompt: each such score takes all tokens
    that its layer saw. Not counted is what else choosing costs: rows of attention, distances of embeddings.
    """
    total = 0
    for layer in sorted(cuts):
        total += n_tokens * sum(_again(cut.score) for cut in cuts[layer])
        n_tokens -= sum(cut.n_removed for cut in cuts[layer])
    return total


def _again(score) -> bool:
    """Whether a score, or the one inside it, asks by other weights than those that just ran."""
    return _again(score.score) if hasattr(score, "score") else getattr(score, "weights", "own") != "own"


def lengths_of(cuts: dict[int, tuple[Cut, ...]], n_tokens: int, n_layers: int) -> list[int]:
    """[L] tokens that each layer computes on, of `n_tokens` in the prompt."""
    result = []
    for layer in range(n_layers):
        n_tokens -= sum(cut.n_removed for cut in cuts.get(layer - 1, ()))
        result.append(n_tokens)
    return result
