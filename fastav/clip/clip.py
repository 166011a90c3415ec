"""Clip: what a model sees and hears, read from a file (read.py) or made from arrays.

Shapes: F frames, S samples, [F, h, w, 3] RGB.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass, replace

import numpy as np

from fastav.clip.sampling import Sampler, chosen
from fastav.errors import UserError

AUDIO_RATE = 16_000
NO_FRAMES = np.zeros((0, 0, 0, 3), np.uint8)


@dataclass(frozen=True)
class Clip:
    """One decoded clip: what a model sees and hears.

    name: file name shown to people.
    frames: uint8 [F, h, w, 3], upright RGB; F is 0 without video.
    frame_times_sec: float64 [F], presentation time of each frame, from the video's start.
    audio: float32 [S], mono in -1..1, from the video's start; S is 0 without sound.
    audio_rate: samples per second.
    duration_sec: of the longer stream.
    has_video, has_audio: there was such a stream, and something in it (a silent track counts as sound).
    sha256: of the file's bytes, or of the arrays' bytes.
    notes: what a reader of the answer should know, e.g. "the file is cut: video ends at 2.3 s of 4.0 s".
    n_source_frames, fps: of the video that the frames were chosen from; 0 and 0.0 without video.
    sampler: by which they were chosen; None: all of them are there.
    """

    name: str
    frames: np.ndarray
    frame_times_sec: np.ndarray
    audio: np.ndarray
    audio_rate: int
    duration_sec: float
    has_video: bool
    has_audio: bool
    sha256: str
    notes: tuple[str, ...] = ()
    n_source_frames: int = 0
    fps: float = 0.0
    sampler: Sampler | None = None

    def __post_init__(self):
        if self.has_video and not (self.fps > 0 and self.n_source_frames > 0):
            raise ValueError(f"a clip with a picture needs fps and n_source_frames, got {self.fps} and {self.n_source_frames}")
        # Read-only: features are kept for as long as the clip is the same, so a change must make another clip.
        for name in ("frames", "audio"):
            view = getattr(self, name).view()
            view.flags.writeable = False
            object.__setattr__(self, name, view)

    def sampled(self, sampler: Sampler) -> Clip:
        """The clip with the frames that `sampler` chooses: itself where they were chosen by it.

        Raises UserError for a clip whose frames were chosen by another one: those that it left out are not there.
        """
        if not self.has_video or self.sampler == sampler:
            return self
        if self.sampler is not None:
            raise UserError(
                f"{self.name}: its frames were chosen by {self.sampler}, and this model takes those of {sampler}; "
                "read the file anew"
            )
        wanted = chosen(sampler, self.frame_times_sec, self.n_source_frames / self.fps)
        return replace(self, frames=self.frames[wanted], frame_times_sec=self.frame_times_sec[wanted], sampler=sampler)


def clip_from_arrays(frames, fps: float, audio, rate: int = AUDIO_RATE, name: str = "array") -> Clip:
    """A clip from uint8 [F, h, w, 3] frames at `fps` and float [S] mono sound at `rate`; either may be None.

    Every frame and sample stays; a model takes the frames that it wants. Raises ValueError on other shapes, types or rates.
    """
    has_video, has_audio = frames is not None, audio is not None
    for what, number in (("fps", fps if has_video else 1), ("rate", rate)):
        if not 0 < number < math.inf:
            raise ValueError(f"{what} must be a number above 0, got {number}")
    fps = float(fps) if has_video else 0.0
    frames = NO_FRAMES if frames is None else checked_frames(frames)
    audio = np.zeros(0, np.float32) if audio is None else checked_audio(audio)
    digest = hashlib.sha256(repr((frames.shape, fps, audio.shape, rate)).encode())
    digest.update(frames.tobytes())
    digest.update(audio.tobytes())
    return Clip(
        name=name,
        frames=frames,
        frame_times_sec=np.arange(len(frames)) / fps if has_video else np.zeros(0),
        audio=audio,
        audio_rate=rate,
        duration_sec=max(len(frames) / fps if has_video else 0.0, len(audio) / rate),
        has_video=has_video,
        has_audio=has_audio,
        sha256=digest.hexdigest(),
        n_source_frames=len(frames),
        fps=fps,
    )


def checked_frames(frames) -> np.ndarray:
    frames = np.ascontiguousarray(frames)
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[-1] != 3 or 0 in frames.shape:
        found = f"{frames.dtype} {frames.shape}"
        raise ValueError(f"frames must be uint8 [F, h, w, 3] and not empty, got {found}")
    return frames


def checked_audio(audio) -> np.ndarray:
    audio = np.asarray(audio)
    if audio.ndim != 1 or not len(audio) or not np.issubdtype(audio.dtype, np.floating):
        raise ValueError(f"audio must be float [S] and not empty, got {audio.dtype} {audio.shape}")
    return np.ascontiguousarray(audio, np.float32)
