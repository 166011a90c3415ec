"""The tiny world: scenes of objects that are seen and sounds that are heard, drawn and played from a seed.

A scene lasts `seconds`; objects move slowly and are visible for a while, sounds come one after another. Held-out
combinations appear in no training clip, and every test clip has at least one: a color c on object o with (o + c) % 6
== 0, and an object o seen while another sound s is heard with (5 o + s) % 7 == 0.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fastav.tiny.drawing import COLORS, KINDS, RGB, sprite
from fastav.tiny.sounds import RATE, sound

SIDE = 112
N_FRAMES = 8
SECONDS = 4.0


@dataclass(frozen=True)
class Thing:
    """A visible object: kind and color by number, size in pixels, path of its corner from (x0, y0) to (x1, y1),
    visible from frame `first` to `last` (of 8), mirrored or not."""

    kind: int
    color: int
    size: int
    path: tuple[float, float, float, float]
    first: int
    last: int
    mirrored: bool

    @property
    def center_x(self) -> float:
        return (self.path[0] + self.path[2]) / 2 + self.size / 2


@dataclass(frozen=True)
class Noise:
    """A sound: kind by number, begin and end as fractions of the clip, level as RMS."""

    kind: int
    begin: float
    end: float
    level: float


def held_out_color(kind: int, color: int) -> bool:
    return (kind + color) % 6 == 0


def held_out_pair(seen: int, heard: int) -> bool:
    return seen != heard and (5 * seen + heard) % 7 == 0


def random_things(rng: np.random.Generator, kinds, held_out: bool) -> list[Thing]:
    """One thing per kind, placed without overlap over their whole paths, left to right. With `held_out`, the first has
    a held-out color.
    """
    while True:
        things: list[Thing] = []
        for i, kind in enumerate(kinds):
            wanted = held_out and (i == 0 or rng.random() < 0.5)
            colors = [c for c in range(len(COLORS)) if held_out_color(kind, c) == wanted]
            size = int(rng.integers(32, 49))
            x, y = rng.uniform(0, SIDE - size, 2)
            dx, dy = rng.uniform(-9, 9, 2)
            path = (x, y, *np.clip((x + dx, y + dy), 0, SIDE - size))
            length = int(rng.integers(2, N_FRAMES + 1))
            first = int(rng.integers(0, N_FRAMES - length + 1))
            color = int(rng.choice(colors))
            things.append(
                Thing(int(kind), color, size, tuple(map(float, path)), first, first + length - 1, bool(rng.integers(2)))
            )
        if not any(_touch(a, b) for i, a in enumerate(things) for b in things[:i]) and all(
            abs(t.center_x - SIDE / 2) > 5 for t in things
        ):
            return sorted(things, key=lambda t: t.center_x)


def _touch(a: Thing, b: Thing) -> bool:
    def box(t):
        x0, y0, x1, y1 = t.path
        return min(x0, x1), min(y0, y1), max(x0, x1) + t.size, max(y0, y1) + t.size

    ax0, ay0, ax1, ay1 = box(a)
    bx0, by0, bx1, by1 = box(b)
    # Captions name things from left to right, so their centers must differ clearly too.
    return (ax0 < bx1 and bx0 < ax1 and ay0 < by1 and by0 < ay1) or abs(a.center_x - b.center_x) < 8


def random_noises(rng: np.random.Generator, kinds) -> list[Noise]:
    """One sound per kind in order of time, in disjoint windows of about a quarter to three quarters of the clip."""
    if not len(kinds):
        return []
    cuts = [0.0, 1.0] if len(kinds) == 1 else [0.0, float(rng.uniform(0.4, 0.6)), 1.0]
    noises = []
    for kind, begin, end in zip(kinds, cuts, cuts[1:], strict=False):
        room = end - begin
        length = rng.uniform(0.25, 0.75) if len(kinds) == 1 else rng.uniform(0.6, 0.95) * room
        start = begin + rng.uniform(0, room - length)
        noises.append(Noise(int(kind), float(start), float(start + length), float(rng.uniform(0.05, 0.15))))
    return noises


def draw(rng: np.random.Generator, things: list[Thing], n_frames: int = N_FRAMES) -> np.ndarray:
    """uint8 [n_frames, 112, 112, 3]: frames evenly over the clip; with 8, those at the middle of 8 equal parts."""
    gray = rng.uniform(60, 170) + rng.uniform(-25, 25, 3)
    slope = rng.uniform(-30, 30, 2)
    axis = np.linspace(-0.5, 0.5, SIDE)
    background = gray + (slope[0] * axis[:, None] + slope[1] * axis[None])[..., None]
    frames = background[None] + rng.normal(0, 5, (n_frames, SIDE, SIDE, 1))
    for thing in things:
        mask = sprite(KINDS[thing.kind], thing.size)
        mask = mask[:, ::-1] if thing.mirrored else mask
        whole, dark = mask[..., :1], mask[..., 1:]
        color = RGB[thing.color] * (whole - dark) + 25 * dark
        x0, y0, x1, y1 = thing.path
        for t in range(n_frames):
            at = (t + 0.5) * N_FRAMES / n_frames - 0.5  # in eighths of the clip
            if thing.first - 0.5 <= at < thing.last + 0.5:
                moved = min(max(at / (N_FRAMES - 1), 0), 1)
                x, y = int(x0 + (x1 - x0) * moved), int(y0 + (y1 - y0) * moved)
                patch = frames[t, y : y + thing.size, x : x + thing.size]
                patch *= 1 - whole
                patch += color
    return np.clip(frames, 0, 255).astype(np.uint8)


def play(rng: np.random.Generator, noises: list[Noise], seconds: float = SECONDS) -> np.ndarray:
    """float32 [seconds * 16000]: the sounds over a floor of noise."""
    n = int(seconds * RATE)
    wave = rng.normal(0, rng.uniform(0.001, 0.004), n)
    for noise in noises:
        a, b = int(noise.begin * n), int(noise.end * n)
        fade = np.minimum(1, np.minimum(np.arange(b - a), np.arange(b - a)[::-1]) / 400)
        wave[a:b] += noise.level * fade * sound(KINDS[noise.kind], rng, b - a)
    return np.clip(wave, -1, 1).astype(np.float32)
