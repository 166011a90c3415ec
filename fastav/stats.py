"""Intervals for shares of right answers. Pure; shares are in 0..1, every interval is 95 %.

Questions of one clip are correlated: they are asked of the same pictures and sound. The design effect says how much: n questions
are then worth n / design_effect independent ones, and every interval is taken of the counts divided by it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from math import sqrt

Z = 1.959963984540054  # 97.5 % quantile of the normal distribution


@dataclass(frozen=True)
class Share:
    """Right answers among n, and the interval of their share."""

    n: int
    right: int
    accuracy: float  # 0.0 where nothing was asked
    low: float
    high: float


@dataclass(frozen=True)
class Difference:
    """share(a) - share(b) over the same n questions, and its interval."""

    n: int
    difference: float  # 0.0 where nothing was asked
    low: float
    high: float
    only_a_right: int
    only_b_right: int
    design_effect: float


def wilson(n_right: float, n: float) -> tuple[float, float]:
    """Wilson's score interval of a share; (0, 1) when nothing was asked. Counts need not be whole."""
    if n == 0:
        return 0.0, 1.0
    share, z2 = n_right / n, Z * Z
    middle = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = Z * sqrt(share * (1 - share) / n + z2 / (4 * n * n)) / (1 + z2 / n)
    return max(0.0, middle - half), min(1.0, middle + half)


def design_effect(values: Sequence[float], clips: Sequence[Hashable]) -> float:
    """Variance of the mean of `values` with clips as units over that with questions as units, at least 1.

    1 where each clip has one question, and where all values are equal, which tells nothing of their correlation.
    """
    mean = sum(values) / len(values) if values else 0.0
    by_clip: dict[Hashable, float] = defaultdict(float)
    by_question = 0.0
    for value, clip in zip(values, clips, strict=True):
        by_clip[clip] += value - mean
        by_question += (value - mean) ** 2
    return max(1.0, sum(s * s for s in by_clip.values()) / by_question) if by_question else 1.0


def clustered_wilson(right: Sequence[bool], clips: Sequence[Hashable]) -> tuple[float, float]:
    """Wilson's interval of share(right), widened by the design effect of the clips."""
    effect = design_effect([int(x) for x in right], clips)
    return wilson(sum(right) / effect, len(right) / effect)


def share(right: Sequence[bool], clips: Sequence[Hashable]) -> Share:
    """The share of right answers, with Wilson's interval, widened by the design effect of the clips."""
    n, n_right = len(right), sum(right)
    return Share(n, n_right, n_right / n if n else 0.0, *clustered_wilson(right, clips))


def newcombe_paired(both: float, only_a: float, only_b: float, neither: float) -> tuple[float, float]:
    """Interval of share(a) - share(b) from paired counts: Newcombe 1998, method 10.

    Made of the two Wilson intervals and the correlation of the pairs. Unlike the normal approximation it does not
    shrink to a point when a and b never differ. Counts need not be whole (see `paired`).
    """
    n = both + only_a + only_b + neither
    if n == 0:
        return -1.0, 1.0
    a, b = (both + only_a) / n, (both + only_b) / n
    (low_a, high_a), (low_b, high_b) = wilson(both + only_a, n), wilson(both + only_b, n)
    margins = (both + only_a) * (only_b + neither) * (both + only_b) * (only_a + neither)
    product = both * neither - only_a * only_b
    if product > 0:
        product = max(product - n / 2, 0.0)  # Newcombe's continuity correction
    phi = product / sqrt(margins) if margins else 0.0
    down_a, up_a, down_b, up_b = a - low_a, high_a - a, b - low_b, high_b - b
    below = sqrt(max(0.0, down_a**2 - 2 * phi * down_a * up_b + up_b**2))
    above = sqrt(max(0.0, up_a**2 - 2 * phi * up_a * down_b + down_b**2))
    return a - b - below, a - b + above


def paired(a: Sequence[bool], b: Sequence[bool], clips: Sequence[Hashable]) -> Difference:
    """share(a) - share(b) over the same questions, with its interval: Newcombe's, widened by the design effect of the clips."""
    n = len(a)
    only_a = sum(x and not y for x, y in zip(a, b, strict=True))
    only_b = sum(y and not x for x, y in zip(a, b, strict=True))
    both = sum(x and y for x, y in zip(a, b, strict=True))
    effect = design_effect([int(x) - int(y) for x, y in zip(a, b, strict=True)], clips)
    low, high = newcombe_paired(*(count / effect for count in (both, only_a, only_b, n - both - only_a - only_b)))
    return Difference(n, (only_a - only_b) / n if n else 0.0, low, high, only_a, only_b, effect)
