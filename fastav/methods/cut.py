"""Cut: what a pruning method answers after a layer, and the lengths that follow from it. Pure: numpy only.

A method never touches tensors of the model. It says, before prefill, how many tokens leave after each layer and by which
score; the engine carries it out. So every length is known before the model runs and nothing waits for the GPU.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from fastav.layout import TokenLayout


@dataclass(frozen=True, eq=False)
class Cut:
    """Remove `n_removed` of the candidates still present, by score.

    candidates  bool [N] by original position; all others are protected.
    score       float32 [N] by original position, known in advance (rules by position, random, rollout), or None:
                the last-query score of the layer that the cut follows (eq. 4 of the paper).
    remove      "low": the lowest scores leave; "high": the highest. Of equals, the later position leaves.
    """

    n_removed: int
    candidates: np.ndarray
    score: np.ndarray | None
    remove: str = "low"


class Method(Protocol):
    """What the engine asks of a pruning method."""

    def cuts(self, layout: TokenLayout, n_layers: int) -> dict[int, tuple[Cut, ...]]:
        """Layer l -> the cuts carried out, in order, after layer l and before layer l + 1."""

    def __str__(self) -> str:
        """The text form, with every setting."""


def lengths(method: Method, layout: TokenLayout, n_layers: int) -> list[int]:
    """[L] tokens that each layer computes on at prefill: arithmetic on the cuts, no model needed."""
    cuts = method.cuts(layout, n_layers)
    current, result = len(layout), []
    for layer in range(n_layers):
        result.append(current)
        current -= sum(cut.n_removed for cut in cuts.get(layer, ()))
    return result
