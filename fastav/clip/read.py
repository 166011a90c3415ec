"""File -> Clip: a child process (child.py) finds out what is in the file (streams.py) and decodes it (decode.py); what it comes
up with is put together here.

Shapes: F frames, S samples, [F, h, w, 3] RGB.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np

from fastav.clip import child, limits
from fastav.clip.clip import AUDIO_RATE, NO_FRAMES, Clip
from fastav.clip.limits import refusal
from fastav.clip.sampling import Sampler, chosen, uniform

_EIGHT = uniform(8)
_GROWTH = 1 << 22  # samples (16 MB) by which a sound's memory grows


def read_clip(path, sampler: Sampler = _EIGHT, *, size=None, resize=None, channels: str = "mean", rate: int = AUDIO_RATE) -> Clip:
    """Decode the frames that `sampler` picks and the whole sound of a video or audio file.

    size: (w, h) that frames are scaled to while being converted; None keeps the video's own.
    resize: (uint8 [h, w, 3], F) -> uint8 [h', w', 3], for a model with a resampler of its own; large frames are not kept.
    channels: "mean" mixes all channels into one, "first" takes the first alone, "first-without-video" the first of a
    sound file and the mean of a video's sound.
    rate: samples per second that the sound is resampled to.
    What a cut file still holds is used, and `notes` say so. Raises UserError when nothing can be decoded, or when that
    takes too much memory or time.
    """
    if channels not in ("mean", "first", "first-without-video"):
        raise ValueError(f'channels must be "mean", "first" or "first-without-video", got {channels!r}')
    path = Path(path)
    sha256 = _sha256(path)
    frames, heard, n_heard = NO_FRAMES, np.empty(0, np.float32), 0

    def choose(times_sec: np.ndarray, duration_sec: float) -> np.ndarray:
        return chosen(sampler, times_sec, duration_sec)

    def keep(places: np.ndarray, picture: np.ndarray) -> None:
        nonlocal frames
        picture = resize(picture, len(places)) if resize else picture
        if not len(frames):
            frames = np.empty((len(places), *picture.shape), np.uint8)
        frames[places] = picture

    def hear(piece: np.ndarray) -> None:
        nonlocal n_heard
        if n_heard + len(piece) > len(heard):  # grown in place: joining a list of pieces would take twice the memory
            heard.resize(n_heard + len(piece) + _GROWTH, refcheck=False)
        heard[n_heard : n_heard + len(piece)] = piece
        n_heard += len(piece)

    try:
        fields = child.call(
            "fastav.clip.streams:read_file",
            *(path, size, channels, rate),
            patience_sec=limits.PATIENCE_SEC,
            max_bytes=limits.MAX_BYTES,
            **{"choose": choose, "keep": keep, "hear": hear},
        )
    except child.Died as error:
        raise refusal(path, f"the file is damaged, its decoder crashed ({error})") from error
    except child.TooSlow as error:
        allowed = f"{limits.PATIENCE_SEC:g} s until the next picture or piece of sound"
        raise refusal(path, "reading it takes too long", allowed) from error
    except MemoryError as error:
        raise refusal(path, "reading it takes too much memory", f"{limits.MAX_BYTES / 1e9:g} GB") from error
    start, stop = fields.pop("span")
    heard.resize(stop, refcheck=False)
    audio = heard[start:] if start >= 0 else np.concatenate([np.zeros(-start, np.float32), heard])
    return Clip(name=path.name, frames=frames, audio=audio, audio_rate=rate, sha256=sha256, sampler=sampler, **fields)


def _sha256(path: Path) -> str:
    """Of the file's bytes. Raises UserError when it is not a file that can be read."""
    try:
        if path.is_dir():
            raise refusal(path, "this is a folder, not a file")
        if path.exists() and not path.is_file():  # a pipe or a device would never end
            raise refusal(path, "this is not a regular file")
        digest, n_bytes = hashlib.sha256(), 0
        with open(path, "rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
                n_bytes += len(block)
    except FileNotFoundError as error:
        raise refusal(path, "there is no such file") from error
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the name
        why = getattr(error, "strerror", None) or error
        raise refusal(path, f"the file cannot be read ({why})") from error
    if not n_bytes:
        raise refusal(path, "the file is empty (0 bytes)")
    return digest.hexdigest()
