"""The tiny world: scenes of objects that are seen and sounds that are heard, drawn and played from a seed.

A scene lasts `seconds`; objects move slowly and are visible for a while, sounds come one after another. Both start and
stop anywhere, so what a question asks about may be in the first frame or in the last second; each is in one of the
frames, or long enough in the pieces of sound, that the model takes (sampling.py). Four scenes in ten are cluttered.
Held-out combinations appear in no training clip, and every test clip has at least one: a color c on object o with (o + c) % 6
== 0, and an object o seen while another sound s is heard with (5 o + s) % 7 == 0.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fastav.tiny import clutter
from fastav.tiny.drawing import COLORS, KINDS, RGB, sprite
from fastav.tiny.sampling import N_FRAMES, RATE, SIDE, picked_sec
from fastav.tiny.sounds import sound

SHORTEST_SEC, HEARD_SEC = 0.4, 0.32  # of a sound: its length, and what of it is in the pieces that the model takes
SHARE_CLUTTERED, SHARE_LONG = 0.4, 0.05
LENGTHS = np.array([0.5, 1, 1, 1, 1, 1, 1, 1]) / 7.5  # shares of objects visible for 1..8 frames


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

    @property
    def length(self) -> float:
        return self.end - self.begin


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
            length = 1 + int(rng.choice(N_FRAMES, p=LENGTHS))
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


def random_seconds(rng: np.random.Generator) -> float:
    """How long a clip is: 2 to 12 s, one in twenty 30 to 60 s."""
    return float(rng.uniform(30, 60) if rng.random() < SHARE_LONG else rng.uniform(2, 12))


def random_noises(rng: np.random.Generator, kinds, seconds: float) -> list[Noise]:
    """One sound per kind, in this order in time, without overlap; the first begins with the clip and the last ends with it
    three times in ten.
    """
    while True:
        times = np.sort(rng.uniform(0, 1, 2 * len(kinds)))
        if len(kinds) and rng.random() < 0.3:
            times[0] = 0.0
        if len(kinds) and rng.random() < 0.3:
            times[-1] = 1.0
        noises = [
            Noise(int(kind), float(begin), float(end), float(0.04 * 5 ** rng.random()))
            for kind, begin, end in zip(kinds, times[::2], times[1::2], strict=True)
        ]
        if all(
            n.length * seconds >= SHORTEST_SEC and picked_sec(n.begin * seconds, n.end * seconds, seconds) >= HEARD_SEC
            for n in noises
        ):
            return noises


def draw(
    rng: np.random.Generator, things: list[Thing], n_frames: int = N_FRAMES, cluttered: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """uint8 [n_frames, 112, 112, 3]: frames evenly over the clip; with 8, those at the middle of 8 equal parts. And the
    camera's shift of each in pixels, int [n_frames, 2] (x, y).
    """
    times = (np.arange(n_frames) + 0.5) / n_frames
    if cluttered:
        frames = clutter.background(rng, times)
        clutter.distractors(rng, frames, times)
    else:
        gray = rng.uniform(60, 170) + rng.uniform(-25, 25, 3)
        slope = rng.uniform(-30, 30, 2)
        axis = np.linspace(-0.5, 0.5, SIDE)
        plain = gray + (slope[0] * axis[:, None] + slope[1] * axis[None])[..., None]
        frames = (plain[None] + rng.normal(0, 5, (n_frames, SIDE, SIDE, 1))).astype(np.float32)
    for thing in things:
        mask = sprite(KINDS[thing.kind], thing.size)
        mask = mask[:, ::-1] if thing.mirrored else mask
        whole, dark = mask[..., :1], mask[..., 1:]
        color = RGB[thing.color] * (whole - dark) + 25 * dark
        x0, y0, x1, y1 = thing.path
        for t, at in enumerate(times * N_FRAMES - 0.5):  # in eighths of the clip
            if thing.first - 0.5 <= at < thing.last + 0.5:
                moved = min(max(at / (N_FRAMES - 1), 0), 1)
                x, y = int(x0 + (x1 - x0) * moved), int(y0 + (y1 - y0) * moved)
                patch = frames[t, y : y + thing.size, x : x + thing.size]
                patch *= 1 - whole
                patch += color
    shifts = np.zeros((n_frames, 2), int)
    if cluttered:
        frames, shifts = clutter.camera(rng, frames)
    return np.clip(frames, 0, 255).astype(np.uint8), shifts


def play(rng: np.random.Generator, noises: list[Noise], seconds: float, cluttered: bool = False) -> np.ndarray:
    """float32 [seconds * 16000]: the sounds over a floor of noise."""
    n = int(seconds * RATE)
    wave = clutter.hum(rng, n) if cluttered else rng.normal(0, rng.uniform(0.001, 0.004), n)
    for noise in noises:
        a, b = int(noise.begin * n), int(noise.end * n)
        fade = np.minimum(1, np.minimum(np.arange(b - a), np.arange(b - a)[::-1]) / 400)
        wave[a:b] += noise.level * fade * sound(KINDS[noise.kind], rng, b - a)
    return np.clip(wave, -1, 1).astype(np.float32)
