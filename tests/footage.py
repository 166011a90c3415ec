"""Clips made for tests: frame numbers painted into them as eight black or white bars, which every codec keeps, and a tone."""

import subprocess
import sys
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import av
import numpy as np
import pytest
from imageio_ffmpeg import get_ffmpeg_exe

N, FPS, W, H, GOP = 40, 25, 160, 120, 10
TONE_HZ, LEVEL, ONSET_SEC = 440, 0.5, 0.4
MS = Fraction(1, 1000)

# A phone's or a screen recorder's rhythm: long waits, then bursts.
UNEVEN_MS = np.cumsum([0] + [120 if i % 8 < 3 else 20 for i in range(N - 1)]).tolist()


def painted(number: int, w: int = W, h: int = H) -> np.ndarray:
    """Upright picture of `number`: bar b from the left is white when bit b is set. The top eighth is red."""
    picture = np.full((h, w, 3), 16, np.uint8)
    for bit in range(8):
        if number >> bit & 1:
            picture[:, bit * w // 8 : (bit + 1) * w // 8] = 235
    picture[: h // 8] = (200, 20, 20)
    return picture


def number_in(picture: np.ndarray) -> int:
    """Read it back; -1 when the red part is not on top."""
    h, w = picture.shape[:2]
    top, bottom = picture[h // 16, w // 2].astype(int), picture[h - h // 16, w // 2].astype(int)
    if top[0] - top[2] < 80 or bottom[0] - bottom[2] > 80:
        return -1
    return sum(1 << bit for bit in range(8) if picture[h // 2, (2 * bit + 1) * w // 16].mean() > 128)


def tone(sec: float, rate: int) -> np.ndarray:
    """float32 [2, S]: silence, from ONSET_SEC on a sine on the left; the right is silent."""
    t = np.arange(round(sec * rate)) / rate
    left = np.where(t >= ONSET_SEC, LEVEL * np.sin(2 * np.pi * TONE_HZ * t), 0)
    return np.stack([left, 0 * left]).astype(np.float32)


def encode_sound(out, stream, sound: np.ndarray, rate: int, start_sec: float = 0.0, layout: str = "stereo") -> None:
    """sound: float32 [channels, S]."""
    frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(sound.T).reshape(1, -1), "flt", layout)
    frame.sample_rate, frame.pts = rate, round(start_sec * rate)
    frame.time_base = Fraction(1, rate)
    codec = stream.codec_context
    resampler = av.AudioResampler(codec.format, layout, rate, frame_size=codec.frame_size or 1024)
    for piece in resampler.resample(frame) + resampler.resample(None):
        out.mux(stream.encode(piece))
    out.mux(stream.encode(None))


def make(
    path: Path,
    codec: str | None = "libx264",
    sound: str | None = None,
    *,
    options=None,
    pix_fmt="yuv420p",
    stamps_ms=None,
    rotation=0,
    n=N,
    sound_sec=N / FPS,
    sound_start_sec=0.0,
    rate=48_000,
    container_options=None,
    tags=None,
) -> Path:
    """A file with N painted frames and a stereo tone, by PyAV."""
    with av.open(str(path), "w", options=container_options or {}) as out:
        out.metadata.update(tags or {})
        time_base = MS if stamps_ms else Fraction(1, FPS)
        if codec:
            keys = {"g": str(GOP)} | ({"sc_threshold": "0"} if codec == "libx264" else {})  # nowhere else
            video = out.add_stream(codec, rate=FPS, options=keys | (options or {}))
            turned = rotation % 180 != 0
            video.width, video.height = (H, W) if turned else (W, H)
            video.pix_fmt = pix_fmt
            video.codec_context.time_base = time_base
        if sound:
            audio = out.add_stream(sound, rate=rate, layout="stereo")
        for i in range(n if codec else 0):
            # A player turns by `rotation` counter-clockwise, so the stored picture is turned clockwise.
            stored = np.ascontiguousarray(np.rot90(painted(i), -rotation // 90))
            frame = av.VideoFrame.from_ndarray(stored, format="rgb24")
            frame.pts, frame.time_base = (stamps_ms[i] if stamps_ms else i), time_base
            out.mux(video.encode(frame))
        if codec:
            out.mux(video.encode(None))
        if sound:
            encode_sound(out, audio, tone(sound_sec, rate), rate, sound_start_sec)
    if rotation:
        stored_as = path.rename(path.with_stem("stored"))
        turn = ["-display_rotation", str(rotation), "-i", str(stored_as), "-c", "copy", str(path)]
        subprocess.run([get_ffmpeg_exe(), "-v", "error", *turn], check=True, stdin=subprocess.DEVNULL)
    return path


VIDEOS = {
    "h264-aac.mp4": dict(codec="libx264", sound="aac"),
    "hevc10-aac.mov": dict(codec="libx265", sound="aac", pix_fmt="yuv420p10le", options={"x265-params": "log-level=none"}),
    "vp9-opus.webm": dict(codec="libvpx-vp9", sound="libopus", options={"deadline": "realtime", "cpu-used": "8"}),
    "av1-aac.mp4": dict(codec="libsvtav1", sound="aac", options={"preset": "12"}),
    "h264-mp3.mkv": dict(codec="libx264", sound="libmp3lame"),
    "h264-pcm.mov": dict(codec="libx264", sound="pcm_s16le"),
    "mpeg4-mp3.avi": dict(codec="mpeg4", sound="libmp3lame", options={"bf": "2"}),
    "h264.avi": dict(codec="libx264"),
    "open-gop.mp4": dict(codec="libx264", options={"x264-params": "open-gop=1:bframes=3:b-adapt=0"}),
    "vfr.mp4": dict(codec="libx264", stamps_ms=UNEVEN_MS, sound="aac", sound_sec=2.0),
    "vfr.mkv": dict(codec="libx264", stamps_ms=UNEVEN_MS),
    "phone-90.mp4": dict(codec="libx264", rotation=-90, sound="aac"),
    "turned90.mkv": dict(codec="libx264", rotation=90),
    "turned180.mp4": dict(codec="libx264", rotation=180),
    "h264-aac.ts": dict(codec="libx264", sound="aac"),
    "open-gop.ts": dict(codec="libx264", options={"x264-params": "open-gop=1:bframes=3:b-adapt=0"}),
    "hevc-ac3.m2ts": dict(codec="libx265", sound="ac3", options={"x265-params": "log-level=none"}),
    "mpeg2-mp2.ts": dict(codec="mpeg2video", sound="mp2", options={"bf": "2"}),
    "mpeg2-ac3.mpg": dict(codec="mpeg2video", sound="ac3", options={"bf": "2"}),
    "mpeg1-mp2.mpg": dict(codec="mpeg1video", sound="mp2", options={"bf": "2"}),
    "flv1-mp3.flv": dict(codec="flv", sound="libmp3lame"),
    "h264-aac.flv": dict(codec="libx264", sound="aac"),
    "wmv2-mp3.wmv": dict(codec="wmv2", sound="libmp3lame"),
}


def assert_is_the_tone(audio, level, sec, *, rate=16_000, delay_sec=0.004, length_sec=1 / 16_000, level_rel=0.05):
    loud = np.flatnonzero(np.abs(audio) > level / 4)
    assert loud[0] / rate == pytest.approx(ONSET_SEC, abs=delay_sec)
    middle = audio[loud[0] + 800 : loud[0] + 800 + rate // 2]
    spectrum = np.abs(np.fft.rfft(middle * np.hanning(len(middle))))
    assert np.argmax(spectrum) * rate / len(middle) == pytest.approx(TONE_HZ, abs=2)
    assert np.sqrt(2 * np.mean(middle**2)) == pytest.approx(level, rel=level_rel)
    assert len(audio) / rate == pytest.approx(sec, abs=length_sec)


def read_apart(path: Path, options: str = "", limits: str = "", timeout_sec: float = 20.0) -> SimpleNamespace:
    """read_clip in a process of its own, since the file may end it.

    code: exit code, or "slow". said: "clip" or the text of the UserError. audio: float32 [S]. peak_bytes: more than before.
    """
    code = f"""if True:
        import resource, sys
        import numpy as np
        from fastav.errors import UserError
        from fastav.clip.read import read_clip
        from fastav.clip.sampling import uniform
        try:
            from fastav.clip import limits
            {limits or "pass"}
        except ImportError:
            pass
        resource.setrlimit(resource.RLIMIT_AS, (8 << 30, 8 << 30))
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        audio = np.zeros(0, np.float32)
        try:
            audio = read_clip(sys.argv[1], {options}).audio
            said = "clip"
        except UserError as error:
            said = str(error)
        np.save(sys.argv[2], audio)
        print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024, said)
    """
    saved = path.with_suffix(".npy")
    command = [sys.executable, "-c", code, str(path), str(saved)]
    root = Path(__file__).resolve().parents[1]
    try:
        done = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=timeout_sec)
    except subprocess.TimeoutExpired:
        return SimpleNamespace(code="slow", said="", audio=None, peak_bytes=0)
    peak, _, said = done.stdout.strip().partition(" ")
    audio = np.load(saved) if done.returncode == 0 else None
    return SimpleNamespace(code=done.returncode, said=said, audio=audio, peak_bytes=int(peak or 0))


class Videos:
    """The files of VIDEOS in one folder, each made when it is first asked for: `videos / "h264-aac.mp4"`."""

    def __init__(self, folder: Path):
        self.folder = folder

    def __truediv__(self, name: str) -> Path:
        path = self.folder / name
        return path if path.exists() else make(path, **VIDEOS[name])
