"""Trim: drop encoded audio padding before the decoder, then prune by another method or not at all. Ours, not the paper's."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from fastav.errors import UserError
from fastav.layout import TokenLayout
from fastav.methods.cut import Cut, Method
from fastav.methods.vanilla import Vanilla


@dataclass(frozen=True)
class Trim(Method):
    """Audio tokens that encode zero padding and no sound never enter layer 0 (in VideoLLaMA2 up to 1,496 of 2,206 tokens).

    What is left is a shorter prompt with positions 0..N'-1, on which `inner` works as on any other; rules by position
    count in the shorter prompt. Unlike pruning inside the decoder this changes what every layer sees, so the model's
    answer may differ from vanilla's even without `inner`.
    """

    name = "trim"

    inner: Method = field(default_factory=Vanilla)

    def __str__(self) -> str:
        return "trim" if isinstance(self.inner, Vanilla) else f"trim+{self.inner}"

    @property
    def title(self) -> str:
        return "Trim" if isinstance(self.inner, Vanilla) else f"Trim + {self.inner.title}"

    def fit(self, n_layers: int) -> Trim:
        return Trim(self.inner.fit(n_layers))

    def enters(self, layout: TokenLayout) -> np.ndarray:
        return ~layout.audio_padding

    def cuts(self, layout: TokenLayout, n_layers: int) -> dict[int, tuple[Cut, ...]]:
        """The inner method's cuts of a prompt that has been trimmed already.

        Raises UserError for one that has not: whoever makes the prompt must leave the padding out of it, as a Session does.
        """
        if layout.audio_padding.any():
            raise UserError(
                f"{self} needs a prompt without its {int(layout.audio_padding.sum())} padding tokens: give the model "
                "embeds[:, keep] and layout.subset(keep) with keep = method.enters(layout)"
            )
        return self.inner.cuts(layout, n_layers)


def parts(method: Method) -> tuple[bool, Method]:
    """(whether padding is trimmed first, the method that prunes what is left)."""
    return (True, method.inner) if isinstance(method, Trim) else (False, method)
