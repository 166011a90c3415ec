"""Samplers: which frames of a video a model sees. Pure.

A sampler is called with (n_frames, fps, duration_sec) and gives indices by presentation order, 0..n_frames-1, which may repeat.
Two samplers that are equal choose the same frames: a Clip remembers by which its own were chosen.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

Sampler = Callable[[int, float, float], Sequence[int]]


@dataclass(frozen=True)
class uniform:  # noqa: N801  (called like the functions that other samplers are)
    """Sampler: the frame that a player shows at the middle of each of `n` equal parts of the video.

    With fewer than n frames, frames repeat. At a variable rate `read_clip` takes the middle in time.
    """

    n: int

    def __post_init__(self):
        if self.n < 1:
            raise ValueError(f"n must be at least 1, got {self.n}")

    def __call__(self, n_frames: int, fps: float, duration_sec: float) -> list[int]:
        return [(2 * i + 1) * n_frames // (2 * self.n) for i in range(self.n)]


def chosen(sampler: Sampler, times_sec: np.ndarray, duration_sec: float) -> np.ndarray:
    """int64 [F], the indices that the sampler picks of the n frames that start at `times_sec` [n]."""
    n = len(times_sec)
    step = duration_sec / n
    is_constant_rate = np.all(np.abs(times_sec - np.arange(n) * step) < step / 2)
    if isinstance(sampler, uniform) and not is_constant_rate:
        middles_sec = (np.arange(sampler.n) + 0.5) * duration_sec / sampler.n
        return np.searchsorted(times_sec, middles_sec, "right") - 1
    wanted = np.asarray(sampler(n, n / duration_sec, duration_sec))
    if not len(wanted) or wanted.min() < 0 or wanted.max() >= n:
        raise ValueError(f"the sampler must give frame indices in 0..{n - 1}, got {wanted.tolist()}")
    return wanted
