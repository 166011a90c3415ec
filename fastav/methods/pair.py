"""Pairs: one method before the decoder, then FastAV inside it, as in `evs+fastav`. Ours: no paper measures them."""

from __future__ import annotations

from dataclasses import dataclass

from fastav.errors import UserError
from fastav.layout import TokenLayout
from fastav.methods.cut import BEFORE, Cut, Method

FIRSTS = ("evs", "divprune")  # before FastAV


@dataclass(frozen=True)
class Pair(Method):
    """The first method acts before layer 0, then FastAV on what it leaves.

    FastAV's rule names positions. Which of them have gone is not known before the run, so it keeps as many as are expected to be
    left of them: of each cut of the first method the share that stays.
    Raises UserError for any other pair, and for a `first` that acts later than before layer 0.
    """

    first: Method
    second: Method

    def __post_init__(self):
        if self.first.name not in FIRSTS or self.second.name.partition("@")[0] != "fastav":
            allowed = ", ".join(f"{name}+fastav" for name in FIRSTS)
            raise UserError(f"{self.first.name}+{self.second.name} is no pair; allowed: {allowed}, and trim before any method")
        if getattr(self.first, "start", 0) != 0:
            raise UserError(f"in a pair {self.first.name} acts before the decoder, got start={self.first.start}; allowed: 0")

    @property
    def name(self) -> str:
        return f"{self.first.name}+{self.second.name}"

    @property
    def title(self) -> str:
        return f"{self.first.title} + {self.second.title}"

    def __str__(self) -> str:
        return f"{self.first}+{self.second}"

    def fit(self, n_layers: int) -> Pair:
        return Pair(self.first.fit(n_layers), self.second.fit(n_layers))

    def cuts(self, layout: TokenLayout, n_layers: int) -> dict[int, tuple[Cut, ...]]:
        before = self.first.cuts(layout, n_layers)
        return {**before, **self.second.cuts_after(layout, n_layers, before.get(BEFORE, ()))}
