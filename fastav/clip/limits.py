"""What a media file may be and what reading it may take; pure."""

from __future__ import annotations

from pathlib import Path

from fastav.errors import UserError

FORMATS = (
    "mp4, mov, mkv, webm, avi, ts, mpg, flv, wmv or gif video; wav, flac, ogg, mp3, m4a, aac, ac3, wma, aiff, caf or amr sound"
)

MAX_PIXELS = 8192 * 4320  # of a picture
SAMPLE_RATES = (1_000, 768_000)  # from, to: samples per second of a file
MAX_SOUND_SEC = 4 * 3600

# A child process reads, so that no file can end this one.
MAX_BYTES = 3_000_000_000  # of memory for it; the largest pictures take about half of that
PATIENCE_SEC = 120.0  # until it comes up with the next picture or piece of sound


class LimitError(Exception):
    """reason: what passes a limit. allowed: the limit."""

    def __init__(self, reason: str, allowed: str):
        super().__init__(reason, allowed)
        self.reason, self.allowed = reason, allowed


def check_size(width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise LimitError(f"the picture has {width} x {height} pixels", "8192 x 4320, or as many in another shape")


def check_rate(rate: int) -> None:
    low, high = SAMPLE_RATES
    if not low <= rate <= high:
        raise LimitError(f"the sound has {rate:,} samples per second", f"{low:,} to {high:,}")


def check_length(sec: float) -> None:
    if sec > MAX_SOUND_SEC:
        raise LimitError("the sound goes on for too long", f"{MAX_SOUND_SEC / 3600:g} hours")


def refusal(path: Path, reason: str, allowed: str = FORMATS) -> UserError:
    """The error that says which file is refused, why, and what is allowed."""
    return UserError(f"{path.name}: {reason}. Allowed: {allowed}.")
