"""The background of cluttered clips of the tiny world: patterns and distractors behind the objects, a shaking and noisy
camera in front of them, hum and clicks below the sounds.

Nothing here is ever asked about. Every function draws from a numpy Generator alone, so a seed gives the same clip.
Positions and sizes are pixels, x to the right and y down; times are fractions of the clip.
"""

from __future__ import annotations

import numpy as np

from fastav.tiny.drawing import RGB
from fastav.tiny.sampling import RATE, SIDE

MAX_SHIFT = 3


def background(rng: np.random.Generator, times) -> np.ndarray:
    """float32 [F, 112, 112, 3]: a muted texture, stripes or checks at the F `times`, still or moving.

    The mean of the clip is 60 to 170. The channels of a pixel stay closer together than those of any colored object.
    """
    times = np.asarray(times, np.float32)
    speed = rng.uniform(-40, 40, 2) * (rng.random() < 0.6)  # pixels per clip in x and y
    scroll = (times[:, None] * speed).astype(np.float32)
    pattern = (_texture, _stripes, _checks)[rng.integers(3)](rng, scroll)
    pattern -= pattern.mean()
    tint = rng.uniform(-25, 25, 3)
    base = rng.uniform(60, 170) + tint - tint.mean()
    contrast = rng.uniform(12, 30) * rng.uniform(0.6, 1.3, 3)
    frames = np.empty((*pattern.shape, 3), np.float32)
    for channel in range(3):  # three long loops are faster than one broadcast over a last axis of 3
        frames[..., channel] = pattern * np.float32(contrast[channel]) + np.float32(base[channel])
    return frames


def _texture(rng, scroll):
    """Smooth random texture: a periodic grid of 3 to 9 random values a side, bilinear in between."""
    cells = int(rng.integers(3, 10))
    grid = rng.uniform(-1, 1, (cells, cells)).astype(np.float32)
    at = (np.arange(SIDE, dtype=np.float32) - scroll[..., None]) * np.float32(cells / SIDE)  # [F, 2, 112]
    away = np.abs((at[..., None] - np.arange(cells, dtype=np.float32) + cells / 2) % cells - cells / 2)
    x, y = np.moveaxis(np.maximum(1 - away, 0), 1, 0)
    return y @ grid @ x.swapaxes(1, 2)


def _waves(rng, scroll, angle):
    """Stripes of period 8 to 40 pixels across direction `angle`, from soft (a sine) to hard edges; -1 to 1."""
    turn = 2 * np.pi / rng.uniform(8, 40)
    wave = np.array([turn * np.cos(angle), turn * np.sin(angle)], np.float32)
    phase = np.float32(rng.uniform(0, 2 * np.pi)) - scroll @ wave
    axis = np.arange(SIDE, dtype=np.float32)
    waves = np.sin(phase[:, None, None] + (axis[:, None] * wave[1] + axis * wave[0]))
    waves *= np.float32(rng.choice((1, 8)))
    return np.clip(waves, -1, 1, out=waves)


def _stripes(rng, scroll):
    return _waves(rng, scroll, rng.uniform(0, np.pi))


def _checks(rng, scroll):
    angle = rng.uniform(0, np.pi / 2)
    return _waves(rng, scroll, angle) * _waves(rng, scroll, angle + np.pi / 2)


def distractors(rng: np.random.Generator, frames: np.ndarray, times) -> None:
    """Paint 0 to 5 plain blobs and bars in the objects' colors into `frames` [F, 112, 112, 3], in place.

    Half of them move slowly, half are present for a part of the clip only. They are small or thin and have no dark
    details, unlike every silhouette.
    """
    for _ in range(rng.integers(6)):
        mask = _mask(rng)[..., None].repeat(3, -1)
        keep, paint = 1 - mask, mask * RGB[rng.integers(len(RGB))]
        half = len(mask) // 2
        center, moved = rng.uniform(0, SIDE, 2), rng.uniform(-20, 20, 2) * (rng.random() < 0.5)
        length = rng.uniform(0.2, 0.7) if rng.random() < 0.5 else 1.0
        begin = rng.uniform(0, 1 - length)
        for frame, time in zip(frames, times, strict=True):
            if begin <= time <= begin + length:
                x, y = np.floor(center + moved * time).astype(int) - half
                inside = np.s_[max(-y, 0) : max(SIDE - y, 0), max(-x, 0) : max(SIDE - x, 0)]
                patch = frame[max(y, 0) : max(y + len(mask), 0), max(x, 0) : max(x + len(mask), 0)]
                patch *= keep[inside]
                patch += paint[inside]


def _mask(rng):
    """float32 square: share of each pixel covered by a blob 5 to 16 pixels wide or a bar of 15 to 60 by 3 to 6."""
    blob = rng.random() < 0.5
    a, b = rng.uniform(2.5, 8, 2) if blob else (rng.uniform(7.5, 30), rng.uniform(1.5, 3))
    axis = np.arange(-np.ceil(max(a, b)), np.ceil(max(a, b)) + 1, dtype=np.float32)
    angle = rng.uniform(0, np.pi)
    along, across = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    u = np.abs(axis * along + axis[:, None] * across)
    v = np.abs(axis[:, None] * along - axis * across)
    if not blob:
        return np.clip(np.minimum(a - u, b - v), 0, 1)
    edge = rng.choice((1.0, min(a, b)))  # hard or soft
    return np.clip((1 - np.hypot(u / a, v / b)) * min(a, b) / edge, 0, 1)


def camera(rng: np.random.Generator, frames: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """`frames` [F, 112, 112, 3] as a poor camera sees them, as new float32 frames that may leave 0..255, and its shifts.

    The shifts are int [F, 2], x and y in -3..3: what was at (x, y) of frame f is now at (x + shifts[f, 0], y +
    shifts[f, 1]). Contrast 0.75 to 1.2 around the mean and brightness -25 to 25 belong to the clip and wobble a little
    from frame to frame. Noise of sigma 4 to 14 is the same in a pixel's three channels, as in `world.draw`.
    """
    n = len(frames)
    shifts = rng.integers(-MAX_SHIFT, MAX_SHIFT + 1, (n, 2))
    contrast = (rng.uniform(0.75, 1.2) + rng.uniform(-0.02, 0.02, n)).astype(np.float32)
    brightness = (rng.uniform(-25, 25) + rng.uniform(-2, 2, n)).astype(np.float32)
    noise = rng.standard_normal(frames.shape[:3], dtype=np.float32)
    noise *= np.float32(rng.uniform(4, 14))
    noise += (brightness + (1 - contrast) * frames.mean(dtype=np.float32))[:, None, None]
    seen = shake(frames, shifts)
    seen *= contrast[:, None, None, None]
    for channel in range(3):
        seen[..., channel] += noise
    return seen, shifts


def shake(frames: np.ndarray, shifts: np.ndarray) -> np.ndarray:
    """float32 copy of `frames` [F, 112, 112, ...] moved by `shifts` [F, 2] (x, y); the edge pixels fill what opens."""
    moved = np.empty(frames.shape, np.float32)
    at = np.clip(np.arange(SIDE) - shifts[..., None], 0, SIDE - 1)  # [F, 2, 112]
    for frame, (x, y), out in zip(frames, at, moved, strict=True):
        out[:] = frame[y][:, x]
    return moved


def hum(rng: np.random.Generator, n: int) -> np.ndarray:
    """float64 [n] at 16 kHz: hum of 45 to 130 Hz with two or three overtones (RMS 0.004 to 0.012), hiss (RMS 0.002 to
    0.006) and clicks. The sounds of the world have RMS 0.05 to 0.15.
    """
    weights = np.array([1.0, *rng.uniform(0.2, 0.8, rng.integers(2, 4))])
    weights *= rng.uniform(0.004, 0.012) * np.sqrt(2 / np.sum(weights**2))
    turn = np.arange(n) * (2 * np.pi * rng.uniform(45, 130) / RATE)
    wave = clicks(rng, n)
    wave += rng.standard_normal(n, dtype=np.float32) * np.float32(rng.uniform(0.002, 0.006))
    for k, weight in enumerate(weights, 1):
        wave += weight * np.sin(k * turn + rng.uniform(0, 2 * np.pi))
    return wave


def clicks(rng: np.random.Generator, n: int) -> np.ndarray:
    """float64 [n] at 16 kHz: silence with 2 to 13 decaying bursts of noise, each 3 to 10 ms long with a peak of 0.02 to 0.06."""
    wave = np.zeros(n)
    for _ in range(rng.integers(2, 14)):
        length = int(rng.uniform(0.003, 0.010) * RATE)
        burst = rng.standard_normal(length) * np.exp(-5 * np.arange(length) / length)
        burst *= rng.uniform(0.02, 0.06) / np.abs(burst).max()
        start = int(rng.integers(max(n - length, 0) + 1))
        wave[start : start + length] += burst[: n - start]
    return wave
