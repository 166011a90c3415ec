"""File or arrays -> `Clip`; arrays -> mp4 file.

A child process (`child.py`) reads (`read.py`) with PyAV and soundfile (`decode.py`), moviepy writes. Nothing else imports
the three, and they are imported when first needed, since the page must start quickly; PyAV and soundfile only there.
Shapes: F frames, S samples, [F, h, w, 3] RGB.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fastav import child, limits
from fastav.limits import refusal

AUDIO_RATE = 16_000

_GROWTH = 1 << 22  # samples (16 MB) by which a sound's memory grows

_NO_FRAMES = np.zeros((0, 0, 0, 3), np.uint8)


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

    def __post_init__(self):
        # Read-only: features are kept for as long as the clip is the same, so a change must make another clip.
        for name in ("frames", "audio"):
            view = getattr(self, name).view()
            view.flags.writeable = False
            object.__setattr__(self, name, view)


@dataclass(frozen=True)
class uniform:  # noqa: N801  (called like the functions that other samplers are)
    """Sampler: the frame that a player shows at the middle of each of `n` equal parts of the video.

    With fewer than n frames, frames repeat. At a variable rate `read_clip` takes the middle in time.
    """

    n: int

    def __post_init__(self):
        if self.n < 1:
            raise ValueError(f"n must be at least 1, got {self.n}")

    def __call__(self, n_frames: int, fps: float, duration_sec: float) -> list[int]:
        return [(2 * i + 1) * n_frames // (2 * self.n) for i in range(self.n)]


# (n_frames, fps, duration_sec) -> indices by presentation order, 0..n_frames-1; repeats are allowed.
Sampler = Callable[[int, float, float], Sequence[int]]


def read_clip(
    path, sampler: Sampler = uniform(8), *, size=None, resize=None, channels: str = "mean", rate: int = AUDIO_RATE
) -> Clip:
    """Decode the frames that `sampler` picks and the whole sound of a video or audio file.

    size: (w, h) that frames are scaled to while being converted; None keeps the video's own.
    resize: uint8 [h, w, 3] -> uint8 [h', w', 3], for a model with a resampler of its own; large frames are not kept.
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
    frames, heard, n_heard = _NO_FRAMES, np.empty(0, np.float32), 0

    def choose(times_sec: np.ndarray, duration_sec: float) -> np.ndarray:
        return _chosen(sampler, times_sec, duration_sec)

    def keep(places: np.ndarray, picture: np.ndarray) -> None:
        nonlocal frames
        picture = resize(picture) if resize else picture
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
            "fastav.read:read_file",
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
    return Clip(name=path.name, frames=frames, audio=audio, audio_rate=rate, sha256=sha256, **fields)


def _chosen(sampler: Sampler, times_sec: np.ndarray, duration_sec: float) -> np.ndarray:
    """int64 [F], the indices that the sampler picks of the n frames that start at `times_sec` [n]."""
    n = len(times_sec)
    step = duration_sec / n
    is_constant_rate = np.all(np.abs(times_sec - np.arange(n) * step) < step / 2)
    if isinstance(sampler, uniform) and not is_constant_rate:
        middles_sec = (np.arange(sampler.n) + 0.5) * duration_sec / sampler.n
        return np.searchsorted(times_sec, middles_sec, "right") - 1
    wanted = np.asarray(sampler(n, n / duration_sec, duration_sec))
    if not len(wanted) or wanted.min() < 0 or wanted.max() >= n:
        raise ValueError(f"the sampler must give frame indices in 0..{n - 1}, got {wanted.tolist()}")
    return wanted


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


def clip_from_arrays(frames, fps: float, audio, rate: int = AUDIO_RATE, name: str = "array") -> Clip:
    """A clip from uint8 [F, h, w, 3] frames at `fps` and float [S] mono sound at `rate`; either may be None.

    Nothing is sampled or resampled: every frame and sample stays. Raises ValueError on other shapes or types.
    """
    has_video, has_audio = frames is not None, audio is not None
    fps = float(fps) if has_video else 0.0
    frames = _NO_FRAMES if frames is None else _checked_frames(frames)
    audio = np.zeros(0, np.float32) if audio is None else _checked_audio(audio)
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


def write_clip(path, frames, fps: float, audio, rate: int = AUDIO_RATE) -> None:
    """Write uint8 [F, h, w, 3] frames and float [S] mono sound (None: no audio stream) as H.264 + AAC mp4.

    Width and height must be even: 4:2:0, the only subsampling that browsers play, needs that. Sound beyond
    0.99 of full scale is clipped. Raises ValueError on other shapes or types, OSError when writing fails.
    """
    from moviepy import AudioClip, VideoClip

    frames = _checked_frames(frames)
    if frames.shape[1] % 2 or frames.shape[2] % 2:
        raise ValueError(f"width and height must be even, got {frames.shape[2]}x{frames.shape[1]}")

    # moviepy truncates duration * rate to a count: half a step more gives just that many frames and samples.
    video = VideoClip(lambda t: frames[round(t * fps)], duration=(len(frames) + 0.5) / fps)
    if audio is not None:
        # Not AudioArrayClip: with one channel it answers with two and writes the sound at half speed.
        sound = _checked_audio(audio)[:, None]

        def samples_at(t_sec):
            return sound[np.rint(np.asarray(t_sec) * rate).astype(int)]

        video = video.with_audio(AudioClip(samples_at, duration=(len(sound) + 0.5) / rate, fps=rate))
    with tempfile.TemporaryDirectory() as scratch:  # moviepy's default is the current directory
        video.write_videofile(
            os.fspath(path),
            fps=fps,
            codec="libx264",
            audio_codec="aac",
            audio_fps=rate,
            temp_audiofile_path=scratch,
            ffmpeg_params=["-pix_fmt", "yuv420p", "-movflags", "+faststart"],
            logger=None,
        )


def _checked_frames(frames) -> np.ndarray:
    frames = np.ascontiguousarray(frames)
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[-1] != 3 or 0 in frames.shape:
        found = f"{frames.dtype} {frames.shape}"
        raise ValueError(f"frames must be uint8 [F, h, w, 3] and not empty, got {found}")
    return frames


def _checked_audio(audio) -> np.ndarray:
    audio = np.asarray(audio)
    if audio.ndim != 1 or not len(audio) or not np.issubdtype(audio.dtype, np.floating):
        raise ValueError(f"audio must be float [S] and not empty, got {audio.dtype} {audio.shape}")
    return np.ascontiguousarray(audio, np.float32)
