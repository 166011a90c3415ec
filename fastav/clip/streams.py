"""What a clip is made of, out of a media file: which stream, aligned how, and the notes on what is missing.

Runs in a child process, see `read.read_clip`.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from fastav.clip import decode, limits
from fastav.clip.limits import refusal

# Encoders delay and pad by less than this. What starts late or ends early by more is said in the notes.
_SLACK_SEC = 0.1

# Further from zero than any sound; what is at full scale is 1, or 32,768 where whole numbers were stored as floats.
_LOUDEST = 1e5

# First bytes of matroska, wav and avi, ogg, flac, gif, wmv, aiff, caf, mpg.
_HEADS = (b"\x1aE\xdf\xa3", b"RIFF", b"OggS", b"fLaC", b"GIF8", b"0&\xb2u", b"FORM", b"caff", b"\0\0\1\xba")


def read_file(path: Path, size, channels: str, rate: int, choose: Callable, keep: Callable, hear: Callable) -> dict:
    """The fields of a Clip but for name, arrays, digest and sampler; and "span", see below.

    choose: (float64 [n] seconds of the video's frames, its duration) -> int64 [F], 0..n-1, the frames to decode.
    keep: called with each of them, bool [F] the places in the clip that it takes and uint8 [h, w, 3].
    hear: called with the whole sound, float32 [s] after float32 [s]. The clip's sound is its samples max(start, 0) to stop,
    behind -start zeros where start < 0; span is (start, stop).
    Raises UserError when nothing can be decoded or a limit is passed.
    """
    notes: list[str] = []
    try:
        with decode.open_container(path) as container:
            times_sec, timeline = _read_frames(container, size, choose, keep, notes)
        if channels == "first-without-video":
            channels = "first" if timeline is None else "mean"
        # Opened anew: only from the very start do decoders know how much priming to leave out.
        with decode.open_container(path) as container:
            start, stop = _read_sound(path, container, timeline, rate, channels, hear, notes)
            n_samples = max(stop - start, 0)
            duration_sec = max(timeline.duration_sec if timeline else 0.0, n_samples / rate)
            if duration_sec and not notes:
                _note_a_cut(notes, "it", duration_sec, decode.claimed_sec(container))
    except limits.LimitError as error:
        raise refusal(path, error.reason, error.allowed) from error
    except MemoryError:  # FFmpeg's own is an OSError, too
        raise
    except (decode.FFmpegError, OSError) as error:
        raise refusal(path, _why_not_opened(path)) from error
    if timeline is None and not n_samples:
        raise refusal(path, "; ".join(notes) or "there is neither picture nor sound in it")
    return dict(
        frame_times_sec=times_sec,
        duration_sec=duration_sec,
        has_video=timeline is not None,
        has_audio=n_samples > 0,
        notes=tuple(notes),
        n_source_frames=len(timeline.stamps) if timeline else 0,
        fps=timeline.fps if timeline else 0.0,
        span=(start, stop),
    )


def _read_frames(container, size, choose: Callable, keep: Callable, notes: list[str]):
    """(float64 [F] seconds, timeline); (empty, None) when no frame can be decoded."""
    stream = decode.first_stream(container, "video")
    if stream is None:
        return np.zeros(0), None
    if stream.codec_context is None:
        notes.append("the picture is in a format that cannot be decoded")
        return np.zeros(0), None
    limits.check_size(stream.codec_context.width, stream.codec_context.height)
    timeline = decode.read_timeline(container, stream)
    if timeline is None:
        notes.append("the video stream holds no frames")
        return np.zeros(0), None
    if timeline.restarts:
        notes.append("times start anew within the file; when its pictures are shown is uncertain")
    wanted = choose(timeline.times_sec, timeline.duration_sec)
    shown = np.full(len(wanted), -1)  # not `wanted` where a frame cannot be decoded
    distinct = np.unique(wanted)
    found = decode.frames_at(container, stream, timeline, distinct, size)
    for index, (found_index, picture) in zip(distinct, found, strict=False):  # all or none are found
        keep(wanted == index, picture)
        shown[wanted == index] = found_index
    if shown[0] < 0:
        notes.append("no frame of the video can be decoded")
        return np.zeros(0), None
    if n_replaced := int(np.sum(shown != wanted)):
        notes.append(f"{n_replaced} of {len(wanted)} frames cannot be decoded; their neighbours stand in")
    _note_a_cut(notes, "video", timeline.duration_sec, decode.claimed_sec(container, stream))
    return timeline.times_sec[shown], timeline


def _read_sound(path: Path, container, timeline, rate: int, channels: str, hear: Callable, notes: list[str]):
    """The span as in `read_file`; the clip's sample 0 is at the start of the video, if there is one."""
    stream = decode.first_stream(container, "audio")
    if stream is None:
        return 0, 0
    if stream.codec_context is None:
        notes.append("the sound is in a format that cannot be decoded")
        return 0, 0
    n, n_damaged = 0, 0
    for piece in decode.read_sound(path, container, stream, rate, channels, alone=timeline is None):
        n += len(piece)
        limits.check_length(n / rate)
        is_sound = np.abs(piece) <= _LOUDEST  # not so for what is no number
        n_damaged += int(np.sum(~is_sound))
        hear(np.where(is_sound, piece, np.float32(0)))
    if not n:
        notes.append("the audio stream holds no sound")
        return 0, 0
    if n_damaged:
        notes.append(f"{n_damaged:,} samples of the sound are damaged; silence stands in")
    claimed_sec = decode.claimed_sec(container, stream)
    if claimed_sec and 0 < n - claimed_sec * rate < _SLACK_SEC * rate:
        n = round(claimed_sec * rate)  # the rest fills the codec's last block
    _note_a_cut(notes, "sound", n / rate, claimed_sec)
    start = 0
    if timeline is not None and stream.start_time is not None:
        late_sec = float(stream.start_time * stream.time_base) - timeline.start_sec
        if abs(late_sec) > _SLACK_SEC:
            limits.check_length(late_sec + n / rate)
            start = round(-late_sec * rate)
        if late_sec > _SLACK_SEC:
            notes.append(f"the sound starts {late_sec:.1f} s after the picture; silence fills the gap")
        elif late_sec < -_SLACK_SEC:
            notes.append(f"the first {-late_sec:.1f} s of the sound come before the picture and are left out")
    return start, n


def _note_a_cut(notes: list[str], what: str, found_sec: float, claimed_sec: float | None) -> None:
    if claimed_sec and found_sec < claimed_sec - _SLACK_SEC:
        notes.append(f"the file is cut: {what} ends at {found_sec:.1f} s of {claimed_sec:.1f} s")


def _why_not_opened(path: Path) -> str:
    with open(path, "rb") as file:
        head = file.read(12)
    if head[4:8] in (b"ftyp", b"moov", b"mdat", b"wide", b"free"):
        return "the file is cut or damaged: the index that says where pictures and sound lie is missing"
    if head[:4] == b"RIFF" and head[8:] not in (b"WAVE", b"AVI "):  # among others webp
        return "this is not a video or sound file"
    if head[:4] in _HEADS or head[:3] in (b"ID3", b"FLV"):
        return "the file is cut or damaged: nothing follows its header"
    return "this is not a video or sound file"
