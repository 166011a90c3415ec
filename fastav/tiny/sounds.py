"""The twelve sounds of the tiny world: each function gives n samples at 16 kHz of about unit power."""

from __future__ import annotations

import numpy as np

from fastav.tiny.drawing import KINDS
from fastav.tiny.sampling import RATE


def _events(rng, n, low, high, event):
    """Repeat `event(rng) -> samples` every low..high seconds, so that each half second holds about one or more."""
    out, start = np.zeros(n), int(rng.uniform(0, 0.08) * RATE)
    while start < n:
        wave = event(rng)[: n - start]
        out[start : start + len(wave)] += wave
        start += int(rng.uniform(low, high) * RATE)
    return out


def _time(seconds):
    return np.arange(int(seconds * RATE)) / RATE


def _harmonics(phase, count, power=1.0):
    """Sum of sin(k * phase) / k^power, by the Chebyshev recurrence (one sine instead of `count`)."""
    out, before, now, twice = np.zeros_like(phase), np.zeros_like(phase), np.sin(phase), 2 * np.cos(phase)
    for k in range(1, count + 1):
        out += now / k**power
        before, now = now, twice * now - before
    return out


def _bell(rng, n):
    pitch, t = rng.uniform(500, 800), _time(0.9)
    strike = sum(
        a * np.exp(-t * d) * np.sin(2 * np.pi * pitch * f * t)
        for f, a, d in ((1, 1, 4), (2, 0.7, 5), (2.76, 0.6, 6), (5.4, 0.4, 9))
    )
    return _events(rng, n, 0.4, 0.6, lambda _: strike)


def _car(rng, n):
    t = np.arange(n) / RATE
    pitch = rng.uniform(60, 90) * (1 + 0.05 * np.sin(2 * np.pi * rng.uniform(0.3, 1) * t))
    return _harmonics(2 * np.pi * np.cumsum(pitch) / RATE, 14, 0.8)


def _drum(rng, n):
    t = _time(0.3)
    thump = np.exp(-t / 0.09) * np.sin(2 * np.pi * (rng.uniform(60, 80) * t + 2 * (1 - np.exp(-t / 0.03))))
    return _events(rng, n, 0.22, 0.38, lambda r: thump + 0.4 * np.exp(-t / 0.006) * r.standard_normal(len(t)))


def _bird(rng, n):
    base = rng.uniform(2800, 3300)

    def chirp(r):
        t = _time(r.uniform(0.07, 0.12))
        return np.sin(2 * np.pi * (base * t + r.uniform(5000, 9000) * t**2)) * np.hanning(len(t))

    return _events(rng, n, 0.13, 0.25, chirp)


def _phone(rng, n):
    t, first = np.arange(n) / RATE, rng.uniform(850, 1000)
    tone = np.where((t * 20).astype(int) % 2, np.sin(2 * np.pi * first * t), np.sin(2 * np.pi * 1.25 * first * t))
    return tone * ((t + rng.uniform(0, 0.4)) % 0.5 < 0.32)


def _siren(rng, n):
    t = np.arange(n) / RATE
    pitch = 1000 + 400 * np.sin(2 * np.pi * (rng.uniform(0.5, 0.9) * t + rng.uniform()))
    phase = 2 * np.pi * np.cumsum(pitch) / RATE
    return np.sin(phase) + 0.3 * np.sin(2 * phase)


def _clock(rng, n):
    t = _time(0.02)
    pitch = rng.uniform(2000, 2600)
    tick = np.exp(-t / 0.003) * np.sin(2 * np.pi * pitch * t)
    return _events(rng, n, 0.19, 0.21, lambda r: tick * r.uniform(0.8, 1.2))


def _kettle(rng, n):
    t = np.arange(n) / RATE
    pitch = rng.uniform(2000, 2500) * (1 + 0.01 * np.sin(2 * np.pi * 6 * t))
    return np.sin(2 * np.pi * np.cumsum(pitch) / RATE) + 0.25 * rng.standard_normal(n)


def _fan(rng, n):
    t = np.arange(n) / RATE
    return rng.standard_normal(n) * (1 + 0.5 * np.sin(2 * np.pi * rng.uniform(5, 9) * t))


def _dog(rng, n):
    def bark(r):
        t = _time(r.uniform(0.13, 0.2))
        pitch = r.uniform(280, 420) * (1.2 - 2 * t)
        voice = _harmonics(2 * np.pi * np.cumsum(pitch) / RATE, 10, 0.4)
        return (voice + 0.8 * r.standard_normal(len(t))) * np.hanning(len(t))

    return _events(rng, n, 0.3, 0.42, bark)


def _guitar(rng, n):
    t = _time(0.6)

    def pluck(r):
        pitch = 110 * 2 ** (r.integers(0, 18) / 12)
        return _harmonics(2 * np.pi * pitch * t, 6, 1.0) * np.exp(-t * 5) * np.minimum(1, t / 0.004)

    return _events(rng, n, 0.22, 0.38, pluck)


def _bee(rng, n):
    t = np.arange(n) / RATE
    pitch = rng.uniform(190, 240) * (1 + 0.06 * np.sin(2 * np.pi * rng.uniform(3, 6) * t))
    return _harmonics(2 * np.pi * np.cumsum(pitch) / RATE, 10, 0.6) * (1 + 0.5 * np.sin(2 * np.pi * 11 * t))


_MAKE = dict(zip(KINDS, (_bell, _car, _drum, _bird, _phone, _siren, _clock, _kettle, _fan, _dog, _guitar, _bee), strict=True))


def sound(kind: str, rng: np.random.Generator, n: int) -> np.ndarray:
    """[n] float64 samples of one sound, RMS 1."""
    wave = _MAKE[kind](rng, n)
    return wave / (np.sqrt(np.mean(wave**2)) + 1e-9)
