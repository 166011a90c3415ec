"""Vanilla: no pruning. The stock path of transformers, with nothing of FastAV in it."""

from __future__ import annotations

from dataclasses import dataclass

from fastav.layout import TokenLayout
from fastav.methods.cut import Cut, Method


@dataclass(frozen=True)
class Vanilla(Method):
    """Every layer computes on all tokens. Run with a plain DynamicCache, so that it *is* the stock model."""

    name = "vanilla"

    def cuts(self, layout: TokenLayout, n_layers: int) -> dict[int, tuple[Cut, ...]]:
        return {}
