"""Kaldi's log-mel filterbank with the settings that BEATs was trained on, in plain torch.

Source: the feature extraction of the Kaldi toolkit (its window is called Povey's there, its mel scale is 1127 ln(1 + f / 700)).
"""

from __future__ import annotations

from functools import lru_cache

import torch

RATE = 16_000  # samples per second
HOP = 160  # samples from frame to frame: 10 ms
N_MELS = 128
FRAME, _N_FFT = 400, 512  # samples: 25 ms, and the next power of two
_PREEMPHASIS = 0.97
_LOW_HZ, _HIGH_HZ = 20.0, RATE / 2
_FLOOR = torch.finfo(torch.float32).eps


def fbank(samples: torch.Tensor) -> torch.Tensor:
    """Log-mel energies [T, 128] of float [S] samples on the int16 scale (-32768..32767); T = 1 + (S - 400) // 160.

    Only whole frames count. No dither, no energy term. In float32, as the original, but for the spectrum: in float32 the bins
    that hold little beside loud ones are rounding noise, which differs from one FFT library to the next.
    """
    frames = samples.float().unfold(0, FRAME, HOP)
    frames = frames - frames.mean(1, keepdim=True)
    before = frames.roll(1, 1)  # nothing is before the first sample, but there the window is 0
    window = torch.hann_window(FRAME, periodic=False).pow(0.85)
    power = torch.fft.rfft(((frames - _PREEMPHASIS * before) * window).double(), _N_FFT).abs().square()
    return (power @ _mel_triangles()).clamp(min=_FLOOR).log().float()


@lru_cache(maxsize=1)
def _mel_triangles() -> torch.Tensor:
    """[257, 128]: how much each frequency of the spectrum counts in each mel bin; triangles are linear in mel."""
    low, high = _mel(torch.tensor([_LOW_HZ, _HIGH_HZ], dtype=torch.float64))
    edges = torch.linspace(low, high, N_MELS + 2, dtype=torch.float64)
    left, center, right = edges[:-2], edges[1:-1], edges[2:]
    mel = _mel(torch.arange(_N_FFT // 2 + 1, dtype=torch.float64) * RATE / _N_FFT)[:, None]
    return torch.minimum((mel - left) / (center - left), (right - mel) / (right - center)).clamp(min=0)


def _mel(hz: torch.Tensor) -> torch.Tensor:
    return 1127 * torch.log1p(hz / 700)
