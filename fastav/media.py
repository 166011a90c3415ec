"""File or arrays -> `Clip`; arrays -> mp4 file.

PyAV and soundfile read (`decode.py`), moviepy writes. Nothing else imports the three, and they are imported
when first needed, since the page must start quickly. Shapes: F frames, S samples, [F, h, w, 3] RGB.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fastav.errors import UserError

AUDIO_RATE = 16_000

# Encoders delay and pad by less than this. What starts late or ends early by more is said in the notes.
_SLACK_SEC = 0.1

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
    What a cut file still holds is used, and `notes` say so. Raises UserError when nothing can be decoded.
    """
    if channels not in ("mean", "first", "first-without-video"):
        raise ValueError(f'channels must be "mean", "first" or "first-without-video", got {channels!r}')
    path = Path(path)
    sha256 = _sha256(path)

    from fastav import decode

    notes: list[str] = []
    try:
        with decode.open_container(path) as container:
            frames, times_sec, timeline = _read_frames(container, sampler, size, resize, notes)
        if channels == "first-without-video":
            channels = "first" if timeline is None else "mean"
        # Opened anew: only from the very start do decoders know how much priming to leave out.
        with decode.open_container(path) as container:
            sound = _read_sound(path, container, timeline, rate, channels, notes)
            duration_sec = max(timeline.duration_sec if timeline else 0.0, len(sound) / rate)
            if duration_sec and not notes:
                _note_a_cut(notes, "it", duration_sec, decode.claimed_sec(container))
    except (decode.FFmpegError, OSError) as error:
        raise _refusal(path, _why_not_opened(path)) from error
    if timeline is None and not len(sound):
        raise _refusal(path, "; ".join(notes) or "there is neither picture nor sound in it")
    return Clip(
        name=path.name,
        frames=frames,
        frame_times_sec=times_sec,
        audio=sound,
        audio_rate=rate,
        duration_sec=duration_sec,
        has_video=timeline is not None,
        has_audio=len(sound) > 0,
        sha256=sha256,
        notes=tuple(notes),
        n_source_frames=len(timeline.stamps) if timeline else 0,
        fps=timeline.fps if timeline else 0.0,
    )


def _read_frames(container, sampler: Sampler, size, resize, notes: list[str]):
    """(uint8 [F, h, w, 3], float64 [F] seconds, timeline); (empty, empty, None) when none can be decoded."""
    from fastav import decode

    stream = decode.first_stream(container, "video")
    if stream is None:
        return _NO_FRAMES, np.zeros(0), None
    if stream.codec_context is None:
        notes.append("the picture is in a format that cannot be decoded")
        return _NO_FRAMES, np.zeros(0), None
    timeline = decode.read_timeline(container, stream)
    if timeline is None:
        notes.append("the video stream holds no frames")
        return _NO_FRAMES, np.zeros(0), None
    n, duration_sec = len(timeline.stamps), timeline.duration_sec
    if isinstance(sampler, uniform) and not timeline.is_constant_rate:
        middles_sec = (np.arange(sampler.n) + 0.5) * duration_sec / sampler.n
        wanted = np.searchsorted(timeline.times_sec, middles_sec, "right") - 1
    else:
        wanted = np.asarray(sampler(n, timeline.fps, duration_sec))
        if not len(wanted) or wanted.min() < 0 or wanted.max() >= n:
            raise ValueError(f"the sampler must give frame indices in 0..{n - 1}, got {wanted.tolist()}")
    frames = None
    shown = np.empty(len(wanted), np.int64)  # not `wanted` where a frame cannot be decoded
    distinct = np.unique(wanted)
    found = decode.frames_at(container, stream, timeline, distinct, size)
    for index, (found_index, picture) in zip(distinct, found, strict=False):  # all or none are found
        picture = resize(picture) if resize else picture
        if frames is None:
            frames = np.empty((len(wanted), *picture.shape), np.uint8)
        frames[wanted == index] = picture
        shown[wanted == index] = found_index
    if frames is None:
        notes.append("no frame of the video can be decoded")
        return _NO_FRAMES, np.zeros(0), None
    if n_replaced := int(np.sum(shown != wanted)):
        notes.append(f"{n_replaced} of {len(wanted)} frames cannot be decoded; their neighbours stand in")
    _note_a_cut(notes, "video", duration_sec, decode.claimed_sec(container, stream))
    return frames, timeline.times_sec[shown], timeline


def _read_sound(path, container, timeline, rate: int, channels: str, notes: list[str]) -> np.ndarray:
    """float32 [S], sample 0 at the start of the video, if there is one; empty when nothing can be decoded."""
    from fastav import decode

    stream = decode.first_stream(container, "audio")
    if stream is None:
        return np.zeros(0, np.float32)
    if stream.codec_context is None:
        notes.append("the sound is in a format that cannot be decoded")
        return np.zeros(0, np.float32)
    sound = None
    if timeline is None and container.format.name in ("wav", "flac", "ogg", "mp3"):
        try:
            sound = decode.read_sound_file(path, rate, channels)
        except decode.LibsndfileError:  # a codec that soundfile does not know
            pass
    if sound is None:
        sound = decode.read_track(container, stream, rate, channels)
    if not len(sound):
        notes.append("the audio stream holds no sound")
        return sound
    claimed_sec = decode.claimed_sec(container, stream)
    if claimed_sec and 0 < len(sound) - claimed_sec * rate < _SLACK_SEC * rate:
        sound = sound[: round(claimed_sec * rate)]  # the rest fills the codec's last block
    _note_a_cut(notes, "sound", len(sound) / rate, claimed_sec)
    if timeline is not None and stream.start_time is not None:
        late_sec = float(stream.start_time * stream.time_base) - timeline.start_sec
        if late_sec > _SLACK_SEC:
            notes.append(f"the sound starts {late_sec:.1f} s after the picture; silence fills the gap")
            sound = np.concatenate([np.zeros(round(late_sec * rate), np.float32), sound])
        elif late_sec < -_SLACK_SEC:
            notes.append(f"the first {-late_sec:.1f} s of the sound come before the picture and are left out")
            sound = sound[round(-late_sec * rate) :]
    return sound


def _note_a_cut(notes: list[str], what: str, found_sec: float, claimed_sec: float | None) -> None:
    if claimed_sec and found_sec < claimed_sec - _SLACK_SEC:
        notes.append(f"the file is cut: {what} ends at {found_sec:.1f} s of {claimed_sec:.1f} s")


def _sha256(path: Path) -> str:
    """Of the file's bytes. Raises UserError when it is not a file that can be read."""
    try:
        if path.is_dir():
            raise _refusal(path, "this is a folder, not a file")
        if path.exists() and not path.is_file():  # a pipe or a device would never end
            raise _refusal(path, "this is not a regular file")
        digest, n_bytes = hashlib.sha256(), 0
        with open(path, "rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
                n_bytes += len(block)
    except FileNotFoundError as error:
        raise _refusal(path, "there is no such file") from error
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the name
        why = getattr(error, "strerror", None) or error
        raise _refusal(path, f"the file cannot be read ({why})") from error
    if not n_bytes:
        raise _refusal(path, "the file is empty (0 bytes)")
    return digest.hexdigest()


def _why_not_opened(path: Path) -> str:
    with open(path, "rb") as file:
        head = file.read(12)
    if head[4:8] in (b"ftyp", b"moov", b"mdat", b"wide", b"free"):
        return "the file is cut or damaged: the index that says where pictures and sound lie is missing"
    if head[:4] in (b"\x1aE\xdf\xa3", b"RIFF", b"OggS", b"fLaC") or head[:3] == b"ID3":
        return "the file is cut or damaged: nothing follows its header"
    return "this is not a video or sound file"


def _refusal(path: Path, reason: str) -> UserError:
    from fastav.decode import FORMATS

    return UserError(f"{path.name}: {reason}. Allowed: {FORMATS}.")


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
