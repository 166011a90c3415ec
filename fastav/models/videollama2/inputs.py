"""What VideoLLaMA2.1-AV is given: frames, sound and words as its encoders and its decoder want them. No weights here.

Letters: F frames, S samples, T log-mel frames.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import torch

from fastav.clip.clip import Clip
from fastav.errors import UserError
from fastav.models.videollama2.beats import BeatsConfig
from fastav.models.videollama2.fbank import FRAME, HOP, RATE, fbank

PLACEHOLDERS = ("<image>", "<video>", "<audio>")
N_SAMPLES = 30 * RATE  # what the audio tower is given, always
N_MEL_FRAMES = 1 + (N_SAMPLES - FRAME) // HOP
N_PIECES, PIECE_SEC = 8, 2  # of a video's sound


@dataclass(frozen=True)
class Middles:
    """Sampler: the middles of n equal parts of 0..n_frames-1, whatever the frame rate; fewer than n frames repeat."""

    n: int

    def __call__(self, n_frames: int, fps: float = 0.0, duration_sec: float = 0.0) -> list[int]:
        step = (n_frames - 1) / self.n
        return [round((step * i + step * (i + 1)) / 2 + 1e-6) for i in range(self.n)]


def sound(clip: Clip) -> tuple[torch.Tensor, int]:
    """(samples [480000] on the int16 scale, how many come before the zero padding) of a clip with sound.

    A video's sound: eight pieces of 2 s, one after the other. A sound file: its first 30 s (the reference takes 30 s at
    random from a longer one, which would answer differently each time).
    Raises UserError for another sample rate than 16 kHz.
    """
    if clip.audio_rate != RATE:
        raise UserError(f"{clip.name}: the sound must have {RATE} samples per second, got {clip.audio_rate}")
    track = np.clip(np.rint(clip.audio * 32768), -32768, 32767).astype(np.float32)  # as it leaves a 16-bit decoder
    pieces = sound_pieces(len(track)) if clip.has_video else [(0, N_SAMPLES)]
    heard = np.concatenate([track[first:last] for first, last in pieces])
    return torch.from_numpy(np.pad(heard, (0, N_SAMPLES - len(heard)))), len(heard)


def left_out(clip: Clip) -> tuple[str, ...]:
    """A note where the end of a sound file is not heard. That a video's sound is heard in pieces is in the adapter's `about`."""
    too_long = not clip.has_video and len(clip.audio) > N_SAMPLES
    return (f"sound after {N_SAMPLES // RATE} s is left out",) if too_long else ()


def sound_pieces(n_samples: int) -> list[tuple[int, int]]:
    """Sample ranges [first, last) of the eight pieces; those of a track below 2 s are the whole track each.

    Pieces overlap below 18 s, and the last one ends before the track does. The duration is taken as the exact value of the
    float n / 16000, since the reference computes with that.
    """
    step = max(Fraction(n_samples / RATE) - PIECE_SEC, Fraction(0)) / N_PIECES
    starts = (step * i for i in range(N_PIECES))
    return [(int(start * RATE), min(int((start + PIECE_SEC) * RATE), n_samples)) for start in starts]


def log_mel(samples: torch.Tensor) -> torch.Tensor:
    """[S] on the int16 scale -> bfloat16 [T, 128]: the rounding belongs to what the checkpoint was trained on."""
    return fbank(samples).bfloat16()


def n_sounding(n_samples: int, sizes: BeatsConfig) -> int:
    """How many audio tokens hear any of the first `n_samples` samples; those after them hear zero padding alone."""
    n_frames = min(math.ceil(n_samples / HOP), N_MEL_FRAMES)
    return min(math.ceil(n_frames / sizes.input_patch_size) * sizes.n_bands, sizes.n_tokens(N_MEL_FRAMES))


def heard_sec(n_samples: int, has_video: bool, sizes: BeatsConfig) -> np.ndarray:
    """float64: the second of a track of `n_samples` at the middle of what each audio token hears; NaN for padding."""
    patch = np.arange(sizes.n_tokens(N_MEL_FRAMES)) // sizes.n_bands
    middle = ((patch + 0.5) * sizes.input_patch_size - 0.5) * HOP + FRAME / 2  # of what `sound` gives
    found, begin = np.full(len(middle), np.nan), 0
    for first, last in sound_pieces(n_samples) if has_video else [(0, min(n_samples, N_SAMPLES))]:
        inside = (middle >= begin) & (middle < begin + last - first)
        found[inside] = (first + middle[inside] - begin) / RATE
        begin += last - first
    return found


def prompt(question: str, placeholder: str = "<video>") -> str:
    """The whole prompt; the features of all streams go where the one placeholder is.

    Raises UserError for a question that holds a placeholder, which would be a second hole.
    """
    found = [text for text in PLACEHOLDERS if text in question]
    if found:
        raise UserError(f"the question contains {', '.join(found)}, which stands for the clip in the prompt; write it otherwise")
    return (
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
        f"<|im_start|>user\n{placeholder}\n{question}<|im_end|>\n<|im_start|>assistant\n"
    )
