"""Scores: by what a cut ranks the tokens that are left. A score is an object with its own maths; the engine knows none by name.

Shapes: R layouts, B rows of a batch, N prompt tokens, n tokens left, q queries, D model width.
torch is imported where something is computed, so that a page can read method names without it. A score's arrays are numpy when a
method makes it; the engine makes them tensors with a first dimension R, 1 for all rows or one for each, and sends them to the
device before layer 0.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from fastav.layout import TokenLayout


class Seen(Protocol):
    """What a score may look at in the layer that its cut follows, during prefill.

    positions  LongTensor [B or 1, n]: original positions of the tokens left, ascending.
    """

    positions: Any

    def attention(self, weights: str, rows: Any = None) -> Any:
        """Attention rows, mean over heads, in float32 or wider, [B, q, n]; each sums to 1 over the tokens that it can see.

        weights  "own": this layer's on its own input; "again": this layer's on its output; "next": the next layer's on this
                 layer's output, which is the row that it would compute if nothing left.
        rows     LongTensor [q]: original positions that ask, all of them still there; None: the last token alone.
        """


class Score(Protocol):
    def values(self, seen: Seen) -> Any:
        """[B or 1, n], one value for each token left. Of a cut's candidates the lowest leave, or the highest."""


@dataclass(frozen=True, eq=False)
class Known:
    """Values by original position, float32 [N], known from the layout alone."""

    by_position: np.ndarray

    def values(self, seen: Seen):
        return _at(self.by_position, seen.positions)


@dataclass(frozen=True, eq=False)
class FromFeatures:
    """Values made once, before layer 0, from the decoder's input embeddings; after that they are Known.

    compute(layout, features [N, D]) -> (values [N], rows [N, D] or None), on the features' device. `rows` takes the place of the
    embeddings, for methods that merge tokens into others; only the first cut before layer 0 may give it.
    """

    compute: Callable[[TokenLayout, Any], tuple[Any, Any | None]]


@dataclass(frozen=True)
class LastQuery:
    """What the last token attends to: s = mean over heads of softmax(q_last K^T / sqrt(d)) (eq. 4 of the paper)."""

    weights: str = "own"

    def values(self, seen: Seen):
        return seen.attention(self.weights)[:, 0]


@dataclass(frozen=True, eq=False)
class QuestionMean:
    """What the question's tokens attend to, mean over them; question int64 [q]: their original positions."""

    question: np.ndarray
    weights: str = "own"

    def values(self, seen: Seen):
        return seen.attention(self.weights, self.question).mean(1)


@dataclass(frozen=True, eq=False)
class BestOfGroups:
    """1 for the best n_kept[g] tokens of each group g by another score, 0 for the others: a top-k in every window.

    group   int64 [N]: the group of each original position, 0..G-1.
    n_kept  int64 [G].
    """

    score: Score
    group: np.ndarray
    n_kept: np.ndarray

    def values(self, seen: Seen):
        score = self.score.values(seen)
        return best_of_groups(score, _at(self.group, seen.positions).expand(score.shape), self.n_kept)


def best_of_groups(score, group, n_kept):
    """[B, n]: 1 for the n_kept [R, G] best of each group, of equals the first, 0 for the others; score and group [B, n]."""
    import torch

    best = score.argsort(dim=-1, descending=True, stable=True)
    order = best.gather(-1, group.gather(-1, best).argsort(dim=-1, stable=True))  # by group, and from the best down inside it
    grouped = group.gather(-1, order)
    place = torch.arange(score.shape[-1], device=score.device) - torch.searchsorted(grouped, grouped)
    chosen = (place < _at(n_kept, grouped)).to(score.dtype)
    return torch.empty_like(score).scatter(-1, order, chosen)


def _at(values, index):
    """values [R, N] at index [B or 1, n] -> [B or R, n]."""
    rows = max(len(values), len(index))
    return values.expand(rows, -1).gather(-1, index.expand(rows, -1))
