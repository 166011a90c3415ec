"""The twelve silhouettes of the tiny world, drawn analytically with numpy.

Every silhouette is a pair of masks on the square [-1, 1] x [-1, 1] (x to the right, y down): `body`, filled with
the object's colour, and `dark`, the details that stay almost black whatever the colour is. Shape and details tell
the object, only the body tells the colour.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

KINDS = ("bell", "car", "drum", "bird", "phone", "siren", "clock", "kettle", "fan", "dog", "guitar", "bee")
COLORS = ("red", "green", "blue", "yellow", "purple", "white")
RGB = np.array([[215, 35, 35], [35, 165, 55], [45, 80, 225], [240, 210, 40], [150, 45, 190], [245, 245, 245]],
               dtype=np.float32)


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
    body = p.poly((-.25, -.75), (.25, -.75), (.5, .1), (.9, .6), (-.9, .6), (-.5, .1)) | p.disk(0, -.72, .26)
    return body, p.disk(0, .76, .22) | p.box(-.75, .32, .75, .44)


def _car(p):
    body = p.box(-1, -.1, 1, .45) | p.poly((-.65, -.1), (-.4, -.6), (.35, -.6), (.7, -.1))
    return body, (p.disk(-.55, .5, .28) | p.disk(.55, .5, .28) | p.box(-.32, -.45, -.03, -.12)
                  | p.box(.07, -.45, .36, -.12))


def _drum(p):
    body = p.box(-.8, -.35, .8, .6) | p.disk(0, .6, .8, .25) | p.disk(0, -.35, .8, .28)
    return body, ((p.disk(0, -.35, .8, .28) & ~p.disk(0, -.35, .66, .18)) | p.line(-.7, 0, -.25, .7, .06)
                  | p.line(-.25, .7, .25, 0, .06) | p.line(.25, 0, .7, .6, .06)
                  | p.line(-.8, -.95, -.1, -.4, .07) | p.line(.8, -.95, .1, -.4, .07))


def _bird(p):
    body = (p.disk(-.1, .15, .62, .42) | p.disk(.5, -.3, .32) | p.poly((-.6, .1), (-1, -.3), (-1, .35))
            | p.poly((-.45, 0), (-.25, -.85), (.2, 0)))
    return body, (p.disk(.58, -.36, .09) | p.poly((.76, -.36), (1, -.2), (.74, -.14)) | p.line(-.15, .5, -.2, .95, .05)
                  | p.line(.12, .5, .12, .95, .05))


def _phone(p):
    body = p.box(-.5, -1, .5, 1)
    keys = np.zeros(p.x.shape, bool)
    for i in range(3):
        for j in range(3):
            keys |= p.box(-.36 + .27 * i, .18 + .26 * j, -.18 + .27 * i, .34 + .26 * j)
    return body, keys | p.box(-.36, -.8, .36, 0)


def _siren(p):
    body = p.box(-.48, -.3, .48, .45) | p.disk(0, -.3, .48)
    rays = (p.line(0, -.99, 0, -.86, .06) | p.line(-.62, -.78, -.52, -.68, .07) | p.line(.62, -.78, .52, -.68, .07)
            | p.line(-.95, -.25, -.7, -.25, .07) | p.line(.95, -.25, .7, -.25, .07))
    return body, p.box(-.8, .45, .8, .8) | rays | p.line(-.22, -.2, -.22, .3, .08)


def _clock(p):
    body = p.disk(0, 0, .9)
    return body, (p.ring(0, 0, .98, .82) | p.line(0, 0, 0, -.6, .08) | p.line(0, 0, .4, .22, .08)
                  | p.disk(0, .68, .07) | p.disk(.68, 0, .07) | p.disk(-.68, 0, .07))


def _kettle(p):
    body = (p.poly((-.45, -.35), (.45, -.35), (.75, .8), (-.75, .8)) | p.poly((.5, .25), (1, -.35), (1, -.1), (.65, .6)))
    handle = (p.ring(0, -.4, .56, .42) & (p.y < -.35))
    return body, handle | p.box(-.72, .66, .72, .8) | p.disk(0, -.42, .12)


def _fan(p):
    body = np.zeros(p.x.shape, bool)
    for angle in (90, 210, 330):
        c, s = np.cos(np.radians(angle)), np.sin(np.radians(angle))
        u, v = p.x * c + (p.y + .2) * s, -p.x * s + (p.y + .2) * c
        body |= ((u - .42) / .38) ** 2 + ((v - .08) / .27) ** 2 <= 1
    return body, p.ring(0, -.2, .8, .7) | p.disk(0, -.2, .13) | p.box(-.07, .58, .07, .9) | p.box(-.45, .84, .45, 1)


def _dog(p):
    body = (p.box(-.75, -.15, .4, .35) | p.disk(.55, -.35, .36) | p.box(.6, -.35, .98, -.08)
            | p.line(-.72, -.1, -.95, -.6, .08) | p.box(-.75, .3, -.52, .95) | p.box(.15, .3, .38, .95)
            | p.box(-.42, .3, -.24, .8))
    return body, p.poly((.2, -.75), (.5, -.65), (.3, .05), (.12, -.1)) | p.disk(.66, -.42, .07) | p.disk(.95, -.24, .09)


def _guitar(p):
    body = p.disk(-.3, .5, .48) | p.disk(.08, .08, .34)
    return body, p.line(.05, .1, .8, -.78, .1) | p.disk(-.2, .36, .16) | p.box(.68, -1, .98, -.72) | p.line(-.6, .6, -.4, .8, .06)


def _bee(p):
    body = p.disk(0, .2, .82, .45)
    wings = p.disk(-.25, -.5, .24, .42) | p.disk(.3, -.5, .24, .42)
    stripes = body & (p.box(-.5, -1, -.28, 1) | p.box(-.08, -1, .14, 1) | p.box(.34, -1, .52, 1))
    outline = wings & ~(p.disk(-.25, -.5, .14, .32) | p.disk(.3, -.5, .14, .32))
    return body | wings, stripes | outline


_DRAW = dict(zip(KINDS, (_bell, _car, _drum, _bird, _phone, _siren, _clock, _kettle, _fan, _dog, _guitar, _bee),
                 strict=True))


@lru_cache(maxsize=None)
def sprite(kind: str, size: int) -> np.ndarray:
    """[size, size, 2] float32: share of each pixel that is covered at all, and that is dark (4 x 4 samples)."""
    axis = (np.arange(size * 4) + .5) / (size * 2) - 1
    body, dark = _DRAW[kind](_Pen(*np.meshgrid(axis, axis)))
    masks = np.stack([body | dark, dark], -1).astype(np.float32)
    return masks.reshape(size, 4, size, 4, 2).mean((1, 3))
