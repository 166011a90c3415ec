"""The twelve silhouettes of the tiny world, drawn analytically with numpy.

Every silhouette is a pair of masks on the square [-1, 1] x [-1, 1] (x to the right, y down): `body`, filled with
the object's colour, and `dark`, the details that stay almost black whatever the colour is. Shape and details tell
the object, only the body tells the colour.
"""

from __future__ import annotations

from functools import cache

import numpy as np

KINDS = ("bell", "car", "drum", "bird", "phone", "siren", "clock", "kettle", "fan", "dog", "guitar", "bee")
COLORS = ("red", "green", "blue", "yellow", "purple", "white")
RGB = np.array([[215, 35, 35], [35, 165, 55], [45, 80, 225], [240, 210, 40], [150, 45, 190], [245, 245, 245]], dtype=np.float32)


class _Pen:
    """Masks of simple shapes over a grid of points."""

    def __init__(self, x: np.ndarray, y: np.ndarray):
        self.x, self.y = x, y

    def disk(self, cx, cy, rx, ry=None):
        return ((self.x - cx) / rx) ** 2 + ((self.y - cy) / (ry or rx)) ** 2 <= 1

    def ring(self, cx, cy, outer, inner):
        return self.disk(cx, cy, outer) & ~self.disk(cx, cy, inner)

    def box(self, x0, y0, x1, y1):
        return (self.x >= x0) & (self.x <= x1) & (self.y >= y0) & (self.y <= y1)

    def poly(self, *points):
        """Inside of a polygon by the even-odd rule."""
        inside = np.zeros(self.x.shape, bool)
        for (x0, y0), (x1, y1) in zip(points, points[1:] + points[:1], strict=True):
            if y0 != y1:
                inside ^= ((y0 > self.y) != (y1 > self.y)) & (self.x < (x1 - x0) * (self.y - y0) / (y1 - y0) + x0)
        return inside

    def line(self, x0, y0, x1, y1, width):
        dx, dy = x1 - x0, y1 - y0
        along = np.clip(((self.x - x0) * dx + (self.y - y0) * dy) / (dx * dx + dy * dy), 0, 1)
        return np.hypot(self.x - x0 - along * dx, self.y - y0 - along * dy) <= width


def _bell(p):
    body = p.poly((-0.25, -0.75), (0.25, -0.75), (0.5, 0.1), (0.9, 0.6), (-0.9, 0.6), (-0.5, 0.1)) | p.disk(0, -0.72, 0.26)
    return body, p.disk(0, 0.76, 0.22) | p.box(-0.75, 0.32, 0.75, 0.44)


def _car(p):
    body = p.box(-1, -0.1, 1, 0.45) | p.poly((-0.65, -0.1), (-0.4, -0.6), (0.35, -0.6), (0.7, -0.1))
    return body, (
        p.disk(-0.55, 0.5, 0.28) | p.disk(0.55, 0.5, 0.28) | p.box(-0.32, -0.45, -0.03, -0.12) | p.box(0.07, -0.45, 0.36, -0.12)
    )


def _drum(p):
    body = p.box(-0.8, -0.35, 0.8, 0.6) | p.disk(0, 0.6, 0.8, 0.25) | p.disk(0, -0.35, 0.8, 0.28)
    return body, (
        (p.disk(0, -0.35, 0.8, 0.28) & ~p.disk(0, -0.35, 0.66, 0.18))
        | p.line(-0.7, 0, -0.25, 0.7, 0.06)
        | p.line(-0.25, 0.7, 0.25, 0, 0.06)
        | p.line(0.25, 0, 0.7, 0.6, 0.06)
        | p.line(-0.8, -0.95, -0.1, -0.4, 0.07)
        | p.line(0.8, -0.95, 0.1, -0.4, 0.07)
    )


def _bird(p):
    body = (
        p.disk(-0.1, 0.15, 0.62, 0.42)
        | p.disk(0.5, -0.3, 0.32)
        | p.poly((-0.6, 0.1), (-1, -0.3), (-1, 0.35))
        | p.poly((-0.45, 0), (-0.25, -0.85), (0.2, 0))
    )
    return body, (
        p.disk(0.58, -0.36, 0.09)
        | p.poly((0.76, -0.36), (1, -0.2), (0.74, -0.14))
        | p.line(-0.15, 0.5, -0.2, 0.95, 0.05)
        | p.line(0.12, 0.5, 0.12, 0.95, 0.05)
    )


def _phone(p):
    body = p.box(-0.5, -1, 0.5, 1)
    keys = np.zeros(p.x.shape, bool)
    for i in range(3):
        for j in range(3):
            keys |= p.box(-0.36 + 0.27 * i, 0.18 + 0.26 * j, -0.18 + 0.27 * i, 0.34 + 0.26 * j)
    return body, keys | p.box(-0.36, -0.8, 0.36, 0)


def _siren(p):
    body = p.box(-0.48, -0.3, 0.48, 0.45) | p.disk(0, -0.3, 0.48)
    rays = (
        p.line(0, -0.99, 0, -0.86, 0.06)
        | p.line(-0.62, -0.78, -0.52, -0.68, 0.07)
        | p.line(0.62, -0.78, 0.52, -0.68, 0.07)
        | p.line(-0.95, -0.25, -0.7, -0.25, 0.07)
        | p.line(0.95, -0.25, 0.7, -0.25, 0.07)
    )
    return body, p.box(-0.8, 0.45, 0.8, 0.8) | rays | p.line(-0.22, -0.2, -0.22, 0.3, 0.08)


def _clock(p):
    body = p.disk(0, 0, 0.9)
    return body, (
        p.ring(0, 0, 0.98, 0.82)
        | p.line(0, 0, 0, -0.6, 0.08)
        | p.line(0, 0, 0.4, 0.22, 0.08)
        | p.disk(0, 0.68, 0.07)
        | p.disk(0.68, 0, 0.07)
        | p.disk(-0.68, 0, 0.07)
    )


def _kettle(p):
    body = p.poly((-0.45, -0.35), (0.45, -0.35), (0.75, 0.8), (-0.75, 0.8)) | p.poly(
        (0.5, 0.25), (1, -0.35), (1, -0.1), (0.65, 0.6)
    )
    handle = p.ring(0, -0.4, 0.56, 0.42) & (p.y < -0.35)
    return body, handle | p.box(-0.72, 0.66, 0.72, 0.8) | p.disk(0, -0.42, 0.12)


def _fan(p):
    body = np.zeros(p.x.shape, bool)
    for angle in (90, 210, 330):
        c, s = np.cos(np.radians(angle)), np.sin(np.radians(angle))
        u, v = p.x * c + (p.y + 0.2) * s, -p.x * s + (p.y + 0.2) * c
        body |= ((u - 0.42) / 0.38) ** 2 + ((v - 0.08) / 0.27) ** 2 <= 1
    return body, p.ring(0, -0.2, 0.8, 0.7) | p.disk(0, -0.2, 0.13) | p.box(-0.07, 0.58, 0.07, 0.9) | p.box(-0.45, 0.84, 0.45, 1)


def _dog(p):
    body = (
        p.box(-0.75, -0.15, 0.4, 0.35)
        | p.disk(0.55, -0.35, 0.36)
        | p.box(0.6, -0.35, 0.98, -0.08)
        | p.line(-0.72, -0.1, -0.95, -0.6, 0.08)
        | p.box(-0.75, 0.3, -0.52, 0.95)
        | p.box(0.15, 0.3, 0.38, 0.95)
        | p.box(-0.42, 0.3, -0.24, 0.8)
    )
    return body, p.poly((0.2, -0.75), (0.5, -0.65), (0.3, 0.05), (0.12, -0.1)) | p.disk(0.66, -0.42, 0.07) | p.disk(
        0.95, -0.24, 0.09
    )


def _guitar(p):
    body = p.disk(-0.3, 0.5, 0.48) | p.disk(0.08, 0.08, 0.34)
    return body, p.line(0.05, 0.1, 0.8, -0.78, 0.1) | p.disk(-0.2, 0.36, 0.16) | p.box(0.68, -1, 0.98, -0.72) | p.line(
        -0.6, 0.6, -0.4, 0.8, 0.06
    )


def _bee(p):
    body = p.disk(0, 0.2, 0.82, 0.45)
    wings = p.disk(-0.25, -0.5, 0.24, 0.42) | p.disk(0.3, -0.5, 0.24, 0.42)
    stripes = body & (p.box(-0.5, -1, -0.28, 1) | p.box(-0.08, -1, 0.14, 1) | p.box(0.34, -1, 0.52, 1))
    outline = wings & ~(p.disk(-0.25, -0.5, 0.14, 0.32) | p.disk(0.3, -0.5, 0.14, 0.32))
    return body | wings, stripes | outline


_DRAW = dict(zip(KINDS, (_bell, _car, _drum, _bird, _phone, _siren, _clock, _kettle, _fan, _dog, _guitar, _bee), strict=True))


@cache
def sprite(kind: str, size: int) -> np.ndarray:
    """[size, size, 2] float32: share of each pixel that is covered at all, and that is dark (4 x 4 samples)."""
    axis = (np.arange(size * 4) + 0.5) / (size * 2) - 1
    body, dark = _DRAW[kind](_Pen(*np.meshgrid(axis, axis)))
    masks = np.stack([body | dark, dark], -1).astype(np.float32)
    return masks.reshape(size, 4, size, 4, 2).mean((1, 3))
