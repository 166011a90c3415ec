"""Cuts of a method -> selections of one request: the same arithmetic as tensors, ready for the device.

Shapes: R layouts, 1 for all rows of a batch or one for each; B rows, N prompt tokens, n left of them, D model width.
Positions are original positions; an index counts in what is left.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, is_dataclass, replace

import numpy as np
import torch

from fastav.errors import UserError
from fastav.layout import TokenLayout
from fastav.methods.cut import Cut
from fastav.methods.scores import FromFeatures, Known


@dataclass(frozen=True, eq=False)
class Selection:
    """One cut. `index` is there where it follows from the layouts alone: then nothing is computed on the device."""

    n_kept: int
    high: bool
    candidates: torch.Tensor  # bool [R, N]
    score: object  # its arrays as tensors [R, ...]; a tuple of FromFeatures, one for each layout, until layer 0 is entered
    index: torch.Tensor | None = None  # LongTensor [R, n_kept]

    def to(self, device) -> Selection:
        index = None if self.index is None else self.index.to(device, non_blocking=True)
        candidates = self.candidates.to(device, non_blocking=True)
        return replace(self, candidates=candidates, score=_moved(self.score, device), index=index)

    def choose(self, seen, here: torch.Tensor) -> torch.Tensor:
        """LongTensor [B or R, n_kept]: the index of what stays of the tokens at positions `here`."""
        if self.index is not None:
            return self.index
        return select(self.score.values(seen), take(self.candidates, here), self.n_kept, self.high)


@dataclass(frozen=True)
class Positions:
    """All that a known score looks at."""

    positions: torch.Tensor


def selections_of(cuts: Sequence[dict[int, tuple[Cut, ...]]], n_tokens: int) -> dict[int, list[Selection]]:
    """The cuts of each layout -> layer -> its selections. Raises UserError where layouts are cut in unlike ways."""
    left: torch.Tensor | None = torch.arange(n_tokens).expand(len(cuts), -1)
    n_left, found = n_tokens, {}
    for layer in sorted(cuts[0]):
        for stage in zip(*(each.get(layer, ()) for each in cuts), strict=True):
            n_left -= stage[0].n_removed
            candidates = torch.from_numpy(np.stack([cut.candidates for cut in stage]))
            selection = Selection(n_left, stage[0].remove == "high", candidates, _joined([cut.score for cut in stage]))
            if left is not None and isinstance(selection.score, Known):
                selection = replace(selection, index=selection.choose(Positions(left), left))
                left = left.gather(1, selection.index)
            else:
                left = None
            found.setdefault(layer, []).append(selection)
    return found


def with_features(selection: Selection, layouts: Sequence[TokenLayout], features: torch.Tensor) -> tuple[Selection, torch.Tensor]:
    """(the selection with known scores, the features, merged where the score merges) from the embeddings [B, N, D] of layer 0."""
    if not isinstance(selection.score, tuple):
        return selection, features
    shared = len(selection.score) == 1
    owners = [0 if shared else row for row in range(len(features))]
    found = [selection.score[owner].compute(layouts[owner], each) for owner, each in zip(owners, features, strict=True)]
    rows = torch.stack([each if merged is None else merged for each, (_, merged) in zip(features, found, strict=True)])
    return replace(selection, score=Known(torch.stack([values for values, _ in found]))), rows


def select(score: torch.Tensor, candidates: torch.Tensor, n_kept: int, high: bool = False) -> torch.Tensor:
    """Indices [B, n_kept], ascending, of what stays of [B, n] tokens: all but the candidates with the lowest score.

    `high`: the highest leave instead. Of equal scores the later one leaves (the sort is stable). No host sync.
    """
    ranked = torch.where(candidates, -score if high else score, torch.inf)
    return ranked.sort(dim=-1, descending=True, stable=True).indices[:, :n_kept].sort(dim=-1).values


def take(values: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """values [B or 1, n] at index [B or 1, k] -> [B or 1, k]; indices are valid by construction, so nothing is checked."""
    rows = max(len(values), len(index))
    return values.expand(rows, -1).gather(1, index.expand(rows, -1))


def _joined(scores: list):
    """One score for all layouts, with tensors [R, ...] for arrays."""
    if isinstance(scores[0], FromFeatures):
        return tuple(scores)
    if len({type(score) for score in scores}) > 1:
        raise UserError("the rows of a batch rank by unlike scores; give them methods that rank alike")
    made = {}
    for field in fields(scores[0]):
        values = [getattr(score, field.name) for score in scores]
        if isinstance(values[0], np.ndarray):
            if len({value.shape for value in values}) > 1:
                raise UserError(f"the rows of a batch differ in {field.name}; batch only rows of equal counts")
            made[field.name] = torch.from_numpy(np.stack(values))
        elif is_dataclass(values[0]):
            made[field.name] = _joined(values)
        elif len(set(values)) > 1:
            raise UserError(f"the rows of a batch rank by unlike {field.name}: {', '.join(map(str, values))}")
    return replace(scores[0], **made)


def _moved(score, device):
    """The score with its tensors on the device."""
    if isinstance(score, tuple):
        return score
    made = {field.name: getattr(score, field.name) for field in fields(score)}
    made = {
        name: value.to(device, non_blocking=True) if isinstance(value, torch.Tensor) else _moved(value, device)
        for name, value in made.items()
        if isinstance(value, torch.Tensor) or is_dataclass(value)
    }
    return replace(score, **made)
