"""What FastAV-tiny takes of a clip, whatever its length: 8 frames and 4 s of sound."""

from __future__ import annotations

import numpy as np

RATE = 16_000
N_FRAMES, SIDE = 8, 112  # frames at the middle of 8 equal parts of the clip, of 112 x 112 pixels
N_SAMPLES = 4 * RATE
N_PIECES, PIECE = 8, RATE // 2
N_TIMES, N_BANDS = 100, 2  # of the audio tokens: token = 2 time + band


def piece_starts(n_samples: int) -> list[int]:
    """First samples of the pieces of a track of at least 4 s."""
    return [(n_samples - PIECE) * i // (N_PIECES - 1) for i in range(N_PIECES)]


def pick_sound(audio: np.ndarray) -> tuple[np.ndarray, int]:
    """float32 [64000] for the encoder from a whole 16 kHz track [S], and how many of them are sound.

    Eight half-second pieces spread evenly over the track; a track shorter than 4 s is taken whole and zero-padded.
    """
    if len(audio) >= N_SAMPLES:
        return np.concatenate([audio[s : s + PIECE] for s in piece_starts(len(audio))]).astype(np.float32), N_SAMPLES
    return np.pad(audio, (0, N_SAMPLES - len(audio))).astype(np.float32), len(audio)


def picked_sec(begin_sec: float, end_sec: float, seconds: float) -> float:
    """How many seconds from `begin_sec` to `end_sec` are among the pieces of a track of `seconds`."""
    n = int(seconds * RATE)
    pieces = [(s, s + PIECE) for s in piece_starts(n)] if n >= N_SAMPLES else [(0, n)]
    begin, end = begin_sec * RATE, end_sec * RATE
    return sum(max(0.0, min(end, b) - max(begin, a)) for a, b in pieces) / RATE


def heard_sec(n_samples: int) -> np.ndarray:
    """float64 [200]: the second of a track of `n_samples` at the middle of what each audio token hears."""
    middles = (np.arange(N_TIMES) + 0.5) * N_SAMPLES / N_TIMES
    if n_samples >= N_SAMPLES:
        piece = middles // PIECE
        middles += (n_samples - PIECE) * piece // (N_PIECES - 1) - piece * PIECE
    return np.repeat(middles / RATE, N_BANDS)
