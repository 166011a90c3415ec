"""Picture and sound out of a file, piece by piece: PyAV for containers, soundfile for plain sound files.

Frames are found by seeking: the packets are listed once without decoding (about 1 s per hour of 1080p), then
only what lies between a wanted frame and the key frame before it is decoded. Sound is decoded and resampled
in a stream. A cut or damaged file gives what it holds; `streams.py` makes notes and errors of what is missing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property

import av
import numpy as np
import soundfile
from av.error import FFmpegError
from soundfile import LibsndfileError

from fastav.clip import limits

# FFmpeg's names of the formats in `limits.py`. Without this list it also opens playlists, which name other files of this
# machine or of its network, pictures, and any .txt as a film of letters.
_DEMUXERS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,flv,asf,gif,wav,flac,ogg,mp3,aac,ac3,eac3,aiff,caf,amr"
_UNSTATED = ("mp3", "aac", "ogg", "mpegts", "mpeg", "ac3", "eac3", "amr")  # these do not state their length
_SEARCHED = ("mpegts", "mpeg")  # no index: FFmpeg's seek lands near the time, not at it

_BLOCK = 1 << 14  # samples resampled at a time


def open_container(path):
    """The opened PyAV container, to be closed by the caller. Raises FFmpegError or OSError."""
    options = {"format_whitelist": _DEMUXERS, "protocol_whitelist": "file"}
    # "file:": a colon in a name is no protocol. "replace": tags in old encodings are common in avi.
    # Not `options`: PyAV 16 then frees what it never allocated when the streams of an mpg, ts or flv turn up.
    return av.open(f"file:{path}", container_options=options, metadata_errors="replace")


def first_stream(container, kind: str):
    """The first "video" or "audio" stream; None without one. Cover art is not video."""
    streams = getattr(container.streams, kind)  # not by `type`: PyAV 16 crashes on that of a damaged stream
    cover = av.stream.Disposition.attached_pic
    return next((s for s in streams if not s.disposition & cover), None)


def claimed_sec(container, stream=None) -> float | None:
    """How long the file says that a stream, or all of it, is; None where it does not say so itself.

    Without a statement FFmpeg guesses by bit rate. Matroska states only where the longest stream ends.
    """
    if container.format.name in _UNSTATED:
        return None
    if stream is not None:
        if container.format.name == "avi" and stream.type == "video":  # only the number of frames is kept there
            return float(stream.frames / stream.average_rate) if stream.average_rate else None
        return float(stream.duration * stream.time_base) if stream.duration else None
    return (container.duration - (container.start_time or 0)) / av.time_base if container.duration else None


@dataclass(frozen=True)
class Timeline:
    """When each frame of a video is shown.

    stamps: int64 [n], rising: start of each frame, in units of `time_base` seconds, by presentation order.
    keys: int64 [k], rising: those of the key frames.
    offsets: int64 [k], the byte of the file at which each key frame is looked for; None where its stamp is enough.
    end: stamp at which the last frame ends.
    restarts: time jumps back by more than a second, as where two recordings were joined byte by byte.
    counted: the container does not know all presentation times: frame i is the i-th that the decoder gives.
    """

    stamps: np.ndarray
    keys: np.ndarray
    offsets: np.ndarray | None
    end: int
    time_base: Fraction
    restarts: bool
    counted: bool

    @cached_property
    def times_sec(self) -> np.ndarray:
        """float64 [n], from the first frame's start."""
        return (self.stamps - self.stamps[0]) * float(self.time_base)

    @property
    def start_sec(self) -> float:
        """The first frame's start on the container's clock."""
        return float(int(self.stamps[0]) * self.time_base)

    @property
    def duration_sec(self) -> float:
        return float((self.end - int(self.stamps[0])) * self.time_base)

    @property
    def fps(self) -> float:
        return len(self.stamps) / self.duration_sec


def read_timeline(container, stream) -> Timeline | None:
    """List the stream's packets without decoding them. None when there is no frame."""
    stamps, keys, end = [], {}, 0  # keys: stamp -> byte
    latest, restarts, second = None, False, int(1 / stream.time_base)
    # Of an mpg only some frames have times; FFmpeg's guesses at the others are off by up to two frames. So frames are
    # counted from the first key frame on, spread evenly over the time that all take, and decoded from the beginning.
    even = container.format.name == "mpeg"
    for packet in _packets(container, stream):
        stamp = packet.pts
        if stamp is None:  # the empty packet at the end
            continue
        if packet.dts is not None:
            restarts |= latest is not None and packet.dts < latest - second
            latest = packet.dts
        if packet.is_keyframe:
            keys.setdefault(stamp, packet.pos or 0)
        if packet.is_discard or (even and not keys):  # cut away by an edit list: decoded, never shown
            continue
        stamps.append(stamp)
        end = max(end, stamp + (packet.duration or 0))
    if not stamps:
        return None
    # avi stores packets without times. For some codecs FFmpeg finds them out, else it numbers the packets.
    counted = even or (container.format.name == "avi" and stamps == sorted(stamps))
    n, stamps = len(stamps), np.unique(np.array(stamps, np.int64))
    if end <= stamps[-1]:  # the last packet does not say how long it lasts
        end = int(stamps[-1]) + max(1, int(np.median(np.diff(stamps))) if len(stamps) > 1 else 1)
    if even:
        end = max(end, int(stamps[0]) + n)
        stamps = stamps[0] + (end - stamps[0]) * np.arange(n) // n
        keys = {stamps[0]: 0}
    keys = dict(sorted(keys.items())) or {stamps[0]: 0}
    offsets = np.array(list(keys.values()), np.int64) if container.format.name in _SEARCHED else None
    return Timeline(stamps, np.array(list(keys), np.int64), offsets, int(end), stream.time_base, restarts, counted)


def frames_at(container, stream, timeline: Timeline, indices: Iterable[int], size=None) -> Iterator[tuple]:
    """Yield (index, uint8 [h, w, 3] upright RGB) for each of the rising frame `indices`.

    size: (w, h) of the upright picture, scaled while converting; None keeps the first frame's.
    A frame that cannot be decoded is replaced by the next one that can, else by the last one: then the index
    in the pair is that frame's. Yields nothing when no frame can be decoded.
    """
    keys = timeline.keys
    run, stamp, frame = iter(()), None, None
    for target in timeline.stamps[list(indices)]:
        key = max(int(np.searchsorted(keys, target, "right")) - 1, 0)
        if stamp is None or keys[key] > stamp:
            for start in _starts(key, len(keys)):
                run = _decode_from(container, stream, timeline, start)
                first = next(run, None)
                if first is not None and (first[0] <= target or start == 0 or start > key):
                    stamp, frame = first
                    break
        if frame is None:
            return
        while stamp < target and (following := next(run, None)) is not None:
            stamp, frame = following
        limits.check_size(frame.width, frame.height)
        quarter_turns = round(frame.rotation / 90) % 4  # counter-clockwise, as a player turns it
        if size is None:
            size = (frame.height, frame.width) if quarter_turns % 2 else (frame.width, frame.height)
        w, h = size[::-1] if quarter_turns % 2 else size
        picture = frame.to_ndarray(format="rgb24", width=w, height=h)
        index = int(np.searchsorted(timeline.stamps, stamp, "right")) - 1
        yield max(index, 0), np.rot90(picture, quarter_turns)


def _starts(key: int, n: int) -> Iterable[int]:
    """Where to start for a frame after key frame `key` of n, in the order in which to try.

    A seek may land after the target, or where nothing can be decoded: then some key frames earlier, and if that never helps,
    later. By steps that double, since where nothing can be decoded each try reads the file to its end.
    """
    steps = [(1 << i) - 1 for i in range(n.bit_length() + 1)]
    return dict.fromkeys([max(key - step, 0) for step in steps] + [key + step for step in steps if key + step < n])


def read_sound(path, container, stream, rate: int, channels: str, alone: bool) -> Iterator[np.ndarray]:
    """The whole sound of a stream: float32 [s] pieces at `rate`, without the priming that the container declares.

    alone: there is no picture, so that a wav, flac, ogg or mp3 file can be read by soundfile.
    """
    if alone and container.format.name in ("wav", "flac", "ogg", "mp3"):
        try:
            with soundfile.SoundFile(path) as sound:
                yield from _resampled(_blocks(sound, channels), rate, channels)
            return
        except LibsndfileError:  # at the opening: a codec that soundfile does not know
            pass
    yield from _resampled(_decoded(container, stream), rate, channels)


def _blocks(sound: soundfile.SoundFile, channels: str) -> Iterator[av.AudioFrame]:
    """Frames of one channel; a cut file just ends."""
    try:
        # Not `sound.blocks`: where a file is cut, that gives what happens to be in memory.
        while len(block := sound.read(_BLOCK, dtype="float32", always_2d=True)):
            mono = block[:, 0] if channels == "first" else block.mean(axis=1)
            frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(mono[None]), "fltp", "mono")
            frame.sample_rate = sound.samplerate
            yield frame
    except LibsndfileError:
        return


def _packets(container, stream) -> Iterator:
    """The stream's packets from where the container stands; a cut file just ends."""
    for other in container.streams:
        if hasattr(other, "discard"):  # PyAV 17: what is not wanted is not even read
            other.discard = av.stream.Discard.default if other is stream else av.stream.Discard.all
    try:
        yield from container.demux(stream)
    except (FFmpegError, IndexError):  # IndexError: PyAV, at the end, when more streams appeared on the way
        return


def _decoded(container, stream) -> Iterator:
    """Frames in the decoder's order; packets that cannot be decoded are left out."""
    for packet in _packets(container, stream):
        try:
            yield from packet.decode()
        except FFmpegError:
            continue
    try:
        yield from stream.codec_context.decode(None)  # a cut file ends without the flush that a whole one has
    except FFmpegError:
        return


def _decode_from(container, stream, timeline: Timeline, key: int) -> Iterator[tuple]:
    """(stamp, frame) from the key frame number `key` on, in presentation order."""
    start = int(timeline.keys[key])
    try:
        if timeline.offsets is None:
            container.seek(start, stream=stream)
        else:
            container.seek(int(timeline.offsets[key]), stream=stream, unsupported_byte_offset=True)
    except FFmpegError:
        return
    position = int(np.searchsorted(timeline.stamps, start))
    for frame in _decoded(container, stream):
        stamp = timeline.stamps[min(position, len(timeline.stamps) - 1)] if timeline.counted else frame.pts
        position += 1
        if stamp is not None:
            yield int(stamp), frame


def _resampled(frames: Iterable, rate: int, channels: str) -> Iterator[np.ndarray]:
    """float32 [s] pieces of one channel at `rate`."""

    def one_channel(pieces):
        # Not left to the resampler: its mono is louder than the mean, 0.71 L + 0.71 R, and may exceed 1.
        for piece in pieces:
            # Packed: PyAV counts the planes of 8 or more channels beyond their end, and the process dies.
            samples = piece.to_ndarray().reshape(-1, piece.layout.nb_channels)
            yield samples[:, 0] if channels == "first" else samples.mean(axis=1)

    resampler, source = None, None
    for frame in frames:
        limits.check_rate(frame.sample_rate)
        if source != (frame.format.name, frame.layout.name, frame.sample_rate):  # may change within a track
            if resampler is not None:
                yield from one_channel(resampler.resample(None))
            source = (frame.format.name, frame.layout.name, frame.sample_rate)
            resampler = av.AudioResampler("flt", frame.layout, rate, frame_size=_BLOCK)
        frame.pts = None  # gaps in the time stamps are not filled, as when ffmpeg extracts a track
        yield from one_channel(resampler.resample(frame))
    if resampler is not None:
        yield from one_channel(resampler.resample(None))
