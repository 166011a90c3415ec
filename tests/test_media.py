"""Clips are made here, frame numbers painted into them as eight black or white bars, which every codec keeps.

Oracles: the painted number; decoding everything and picking by index; the time stamps that were written; the
tone that was written (frequency, level, onset, length).
"""

import hashlib
import re
import struct
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import av
import numpy as np
import pytest
import soundfile
from av.stream import Disposition
from imageio_ffmpeg import get_ffmpeg_exe
from PIL import Image

from fastav.clip import decode
from fastav.clip.clip import clip_from_arrays
from fastav.clip.read import read_clip
from fastav.clip.sampling import uniform
from fastav.clip.write import write_clip
from fastav.errors import UserError

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


@pytest.fixture(scope="module")
def videos(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("videos")
    for name, settings in VIDEOS.items():
        make(folder / name, **settings)
    return folder


@pytest.fixture
def in_this_process(monkeypatch):
    """read_clip without its child: what is done can be counted, and hundreds of files are read in seconds."""
    from fuzz_media import call_here

    monkeypatch.setattr("fastav.clip.child.call", call_here)


def decode_everything(path: Path) -> list:
    """The slow obvious reader: (time, turned picture) of every frame in the decoder's order."""
    with av.open(str(path)) as container:
        return [
            (frame.time, np.rot90(frame.to_ndarray(format="rgb24"), frame.rotation // 90 % 4))
            for frame in container.decode(video=0)
        ]


# --- frames


@pytest.mark.parametrize("name", VIDEOS)
def test_each_index_alone_gives_the_frame_that_decoding_everything_gives(videos, name, in_this_process):
    everything = decode_everything(videos / name)
    assert [number_in(picture) for _, picture in everything] == list(range(N))  # the oracle itself
    stamps_sec = np.array(VIDEOS[name].get("stamps_ms") or np.arange(N) * 1000 / FPS) / 1000
    for i in [*range(0, N, 3), N - 1]:  # steps of 3 meet every place of a 10-frame group
        clip = read_clip(videos / name, lambda n, fps, sec, i=i: [i])
        assert number_in(clip.frames[0]) == i
        assert np.array_equal(clip.frames[0], everything[i][1])
        assert clip.frame_times_sec[0] == pytest.approx(stamps_sec[i], abs=0.0011)  # matroska counts in ms


@pytest.mark.parametrize("name", ["h264-aac.mp4", "h264-mp3.mkv", "mpeg4-mp3.avi", "vfr.mp4"])
def test_a_sampler_sees_the_counted_frames_and_its_order_and_repeats_are_kept(videos, name):
    seen = []

    def sampler(n_frames, fps, duration_sec):
        seen.append((n_frames, fps, duration_sec))
        return [30, 3, 30, 39, 0]

    clip = read_clip(videos / name, sampler)
    assert [number_in(f) for f in clip.frames] == [30, 3, 30, 39, 0]
    # How long the last frame of an uneven file lasts is the muxer's choice, here up to 80 ms.
    sec, slack = (UNEVEN_MS[-1] / 1000 + 0.04, 0.05) if "vfr" in name else (N / FPS, 0.001)
    [(n_frames, fps, duration_sec)] = seen
    assert n_frames == clip.n_source_frames == N
    assert duration_sec == pytest.approx(sec, abs=slack)
    assert fps == clip.fps == pytest.approx(n_frames / duration_sec)


@pytest.mark.parametrize("indices", [[], [-1], [N]])
def test_a_sampler_that_points_outside_is_a_programming_error(videos, indices):
    with pytest.raises(ValueError, match=r"frame indices in 0\.\.39"):
        read_clip(videos / "h264.avi", lambda n, fps, sec: indices)


def test_uniform_takes_the_middles_of_equal_parts():
    assert uniform(8)(40, 25, 1.6) == [2, 7, 12, 17, 22, 27, 32, 37]
    assert uniform(8)(16, 25, 0.64) == [1, 3, 5, 7, 9, 11, 13, 15]  # a middle between two frames: the later
    assert uniform(4)(2, 25, 0.08) == [0, 0, 1, 1]
    assert uniform(1)(1, 25, 0.04) == [0]
    with pytest.raises(ValueError, match="at least 1, got 0"):
        uniform(0)


@pytest.mark.parametrize("name", ["vfr.mp4", "vfr.mkv"])
def test_uniform_takes_what_a_player_shows_at_those_times_when_the_rate_varies(videos, name):
    clip = read_clip(videos / name, uniform(8))
    times = np.array(UNEVEN_MS) / 1000
    end = times[-1] + (clip.n_source_frames / clip.fps - times[-1])
    shown = [max(i for i in range(N) if times[i] <= (k + 0.5) * end / 8) for k in range(8)]
    assert [number_in(f) for f in clip.frames] == shown
    assert shown != uniform(8)(N, clip.fps, end)  # the case does tell the two apart
    np.testing.assert_allclose(clip.frame_times_sec, times[shown], atol=0.0011)


def test_frames_are_scaled_upright_while_converting(videos):
    for name in ["h264-aac.mp4", "phone-90.mp4"]:
        clip = read_clip(videos / name, uniform(4), size=(96, 48))
        assert clip.frames.shape == (4, 48, 96, 3)
        assert [number_in(f) for f in clip.frames] == uniform(4)(N, FPS, N / FPS)
    assert read_clip(videos / "phone-90.mp4").frames.shape == (8, H, W, 3)


def test_a_models_own_resampler_sees_upright_pictures_in_full(videos):
    seen = []

    def resize(picture, n_frames):
        assert n_frames == 4
        seen.append(picture.shape)
        return picture[::2, ::2]

    clip = read_clip(videos / "phone-90.mp4", uniform(4), resize=resize)
    whole = read_clip(videos / "phone-90.mp4", uniform(4))
    assert seen == [(H, W, 3)] * 4
    np.testing.assert_array_equal(clip.frames, whole.frames[:, ::2, ::2])


@pytest.mark.parametrize("name", ["h264-aac.mp4", "h264-aac.ts"])
def test_reading_seeks_instead_of_decoding_everything(videos, monkeypatch, in_this_process, name):
    decoded, original = [], decode._decoded

    def counting(container, stream):
        for frame in original(container, stream):
            decoded.append(stream.type)
            yield frame

    monkeypatch.setattr(decode, "_decoded", counting)
    read_clip(videos / name, lambda n, fps, sec: [1, N - GOP + 1])
    assert decoded.count("video") <= 2 + 2  # each at the second place of its group
    decoded.clear()
    read_clip(videos / name, lambda n, fps, sec: list(range(N)))
    assert decoded.count("video") == N  # and nothing is decoded twice


def test_every_frame_of_an_mpg_is_counted_though_most_have_no_time_of_their_own(tmp_path):
    """200 small frames, several to a packet of the file, of which the first alone has a time."""
    path = make(tmp_path / "small.mpg", "mpeg2video", "mp2", options={"bf": "2"}, n=200, sound_sec=8)
    clip = read_clip(path, lambda n, fps, sec: list(range(n)))
    assert [number_in(f) for f in clip.frames] == list(range(200))
    np.testing.assert_allclose(clip.frame_times_sec, np.arange(200) / FPS, atol=1e-3)
    assert clip.notes == ()


def test_tries_to_find_a_decodable_frame_grow_as_the_logarithm_of_the_key_frames():
    for n, key in [(1, 0), (5, 3), (3600, 0), (3600, 1800), (3600, 3599)]:
        starts = list(decode._starts(key, n))
        assert starts[0] == key and 0 in starts and min(starts) >= 0 and max(starts) < n
        assert len(set(starts)) == len(starts) <= 2 * np.log2(n) + 4
        assert key == 0 or starts[1] == key - 1


def test_frames_cut_away_by_an_edit_list_are_not_counted(videos, tmp_path):
    path = tmp_path / "trimmed.mp4"
    source = str(videos / "h264-aac.mp4")
    command = [get_ffmpeg_exe(), "-v", "error", "-ss", "0.6", "-i", source, "-c", "copy", str(path)]
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL)
    numbers = [number_in(picture) for _, picture in decode_everything(path)]
    clip = read_clip(path, lambda n, fps, sec: list(range(n)))
    assert [number_in(f) for f in clip.frames] == numbers and numbers[-1] == N - 1 and numbers[0] > 5
    assert clip.frame_times_sec[0] == 0
    assert clip.notes == ()


# --- sound


def assert_is_the_tone(audio, level, sec, *, rate=16_000, delay_sec=0.004, length_sec=1 / 16_000, level_rel=0.05):
    loud = np.flatnonzero(np.abs(audio) > level / 4)
    assert loud[0] / rate == pytest.approx(ONSET_SEC, abs=delay_sec)
    middle = audio[loud[0] + 800 : loud[0] + 800 + rate // 2]
    spectrum = np.abs(np.fft.rfft(middle * np.hanning(len(middle))))
    assert np.argmax(spectrum) * rate / len(middle) == pytest.approx(TONE_HZ, abs=2)
    assert np.sqrt(2 * np.mean(middle**2)) == pytest.approx(level, rel=level_rel)
    assert len(audio) / rate == pytest.approx(sec, abs=length_sec)


@pytest.mark.parametrize("name", [name for name, settings in VIDEOS.items() if settings.get("sound")])
def test_sound_is_mono_at_16_khz_from_the_start(videos, name):
    sec = VIDEOS[name].get("sound_sec", N / FPS)
    # Neither matroska nor avi says how much priming an mp3 has: 1105 samples and a block of 1152 at the end. MPEG streams
    # and flash say it of no sound.
    unsaid = "mp3" in name or Path(name).suffix in (".ts", ".m2ts", ".mpg", ".flv")
    slack = dict(delay_sec=0.03, length_sec=0.06) if unsaid else {}
    clip = read_clip(videos / name)
    assert clip.has_audio and clip.has_video and clip.audio.dtype == np.float32 and clip.audio_rate == 16_000
    assert_is_the_tone(clip.audio, LEVEL / 2, sec, **slack)
    assert clip.notes == ()


def test_channels_and_rate(videos):
    first = read_clip(videos / "h264-aac.mp4", channels="first")
    assert_is_the_tone(first.audio, LEVEL, N / FPS)
    fast = read_clip(videos / "h264-aac.mp4", rate=48_000)
    assert fast.audio_rate == 48_000
    assert_is_the_tone(fast.audio, LEVEL / 2, N / FPS, rate=48_000)
    mixed = read_clip(videos / "h264-aac.mp4", channels="first-without-video")
    assert_is_the_tone(mixed.audio, LEVEL / 2, N / FPS)
    with pytest.raises(ValueError, match="\"first-without-video\", got 'left'"):
        read_clip(videos / "h264-aac.mp4", channels="left")


def test_sound_shorter_or_longer_than_the_picture_keeps_its_own_length(tmp_path):
    for sec in (0.8, 2.5):
        clip = read_clip(make(tmp_path / "clip.mp4", sound="aac", sound_sec=sec))
        assert_is_the_tone(clip.audio, LEVEL / 2, sec)
        assert clip.duration_sec == pytest.approx(max(sec, N / FPS), abs=1e-3)
        assert [number_in(f) for f in clip.frames] == uniform(8)(N, FPS, N / FPS)
        assert clip.notes == ()


@pytest.mark.parametrize("name", ["late.mp4", "late.mkv"])
def test_sound_that_starts_after_the_picture_keeps_its_place_in_time(tmp_path, name):
    clip = read_clip(make(tmp_path / name, sound="aac", sound_sec=1.2, sound_start_sec=0.5))
    onset = np.flatnonzero(np.abs(clip.audio) > LEVEL / 8)[0] / 16_000
    assert onset == pytest.approx(0.5 + ONSET_SEC, abs=0.03)
    assert any("starts 0.5 s after the picture" in note for note in clip.notes)


def test_sound_before_the_picture_is_left_out(tmp_path):
    stamps_ms = [500 + 1000 * i // FPS for i in range(N)]
    clip = read_clip(make(tmp_path / "early.mkv", sound="aac", stamps_ms=stamps_ms, sound_sec=2.0))
    assert np.flatnonzero(np.abs(clip.audio) > LEVEL / 8)[0] / 16_000 < 0.03  # it began at 0.4 s, before 0.5 s
    assert clip.frame_times_sec[0] < 0.2
    assert any("first 0.5 s of the sound" in note for note in clip.notes)


def test_no_audio_stream_is_not_the_same_as_a_silent_one(videos, tmp_path):
    without = read_clip(videos / "vfr.mkv")
    assert not without.has_audio and without.audio.shape == (0,) and without.notes == ()
    silent = tmp_path / "silent.mp4"
    write_clip(silent, np.stack([painted(0)] * 8), 8, np.zeros(16_000, np.float32))
    clip = read_clip(silent)
    assert clip.has_audio and len(clip.audio) == 16_000 and not clip.audio.any()


def write_sound_file(path: Path) -> None:
    if path.suffix in (".wav", ".flac"):
        soundfile.write(path, tone(1.6, 44_100).T, 44_100)
    elif path.suffix == ".mp3":  # at its default quality the encoder mixes the channels a little
        best = dict(compression_level=0.0, bitrate_mode="CONSTANT")
        soundfile.write(path, tone(1.6, 44_100).T, 44_100, **best)
    elif path.name == "vorbis.ogg":
        soundfile.write(path, tone(1.6, 44_100).T, 44_100, format="OGG", subtype="VORBIS")
    else:
        codec = {"opus.ogg": "libopus", "sound.m4a": "aac", "sound.aac": "aac", "sound.mp4": "aac"}[path.name]
        make(path, None, codec, sound_sec=1.6)


@pytest.mark.parametrize(
    "name",
    ["a.wav", "a.flac", "a.mp3", "vorbis.ogg", "opus.ogg", "sound.m4a", "sound.mp4", "sound.aac"],
)
def test_a_sound_file_alone(tmp_path, name):
    write_sound_file(tmp_path / name)
    # A bare aac stream does not say how much priming it has: 1024 samples, and a block at the end.
    slack = dict(delay_sec=0.025, length_sec=0.05) if name == "sound.aac" else dict(length_sec=0.001)
    clip = read_clip(tmp_path / name)
    assert not clip.has_video and clip.has_audio and clip.notes == ()
    assert clip.frames.shape == (0, 0, 0, 3) and clip.frame_times_sec.shape == (0,)
    assert (clip.n_source_frames, clip.fps) == (0, 0.0)
    assert clip.duration_sec == len(clip.audio) / 16_000
    assert_is_the_tone(clip.audio, LEVEL / 2, 1.6, **slack)
    for channels in ("first", "first-without-video"):
        assert_is_the_tone(read_clip(tmp_path / name, channels=channels).audio, LEVEL, 1.6, **slack)


def levels(layout: str, rate: int = 48_000) -> np.ndarray:
    """float32 [channels, rate]: a second of a tone of its own on every channel, none on that for the lowest tones."""
    layout = av.AudioLayout(layout)
    t = np.arange(rate) / rate
    tones = [(i + 1) / 40 * np.sin(2 * np.pi * (200 + 40 * i) * t) for i in range(layout.nb_channels)]
    return np.stack([0 * t if c.name == "LFE" else s for c, s in zip(layout.channels, tones, strict=True)]).astype(np.float32)


def with_levels(path: Path, codec: str, layout: str, video: str | None = None) -> Path:
    with av.open(str(path), "w") as out:
        if video:
            pictures = out.add_stream(video, rate=FPS)
            pictures.width, pictures.height, pictures.pix_fmt = W, H, "yuv420p"
        audio = out.add_stream(codec, rate=48_000, layout=layout)
        for i in range(FPS if video else 0):
            frame = av.VideoFrame.from_ndarray(painted(i), format="rgb24")
            frame.pts, frame.time_base = i, Fraction(1, FPS)
            out.mux(pictures.encode(frame))
        if video:
            out.mux(pictures.encode(None))
        encode_sound(out, audio, levels(layout), 48_000, layout=layout)
    return path


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


SURROUND = {
    "aac.mp4": ("aac", "7.1", None),
    "film.mp4": ("aac", "7.1", "libx264"),
    "flac.mkv": ("flac", "7.1", None),
    "film.mkv": ("flac", "7.1", "libx264"),
    "pcm.mov": ("pcm_s16le", "7.1", None),
    "opus.webm": ("libopus", "7.1", None),
    "twenty-four.mkv": ("pcm_f32le", "22.2", None),
    "pcm.mkv": ("pcm_s16le", "9 channels", None),
}


@pytest.mark.parametrize("name", SURROUND)
def test_sound_with_eight_or_more_channels_is_read(tmp_path, name):
    codec, layout, video = SURROUND[name]
    path = with_levels(tmp_path / name, codec, layout, video)
    channels = levels(layout)
    loss = {"aac": 0.1, "libopus": 0.1}.get(codec, 1e-3)
    for way, want in (("mean", channels.mean(axis=0)), ("first", channels[0])):
        read = read_apart(path, f"channels={way!r}, rate=48_000")
        assert (read.code, read.said) == (0, "clip")
        got = read.audio[: len(want)]
        assert len(read.audio) == pytest.approx(len(want), abs=500)
        assert np.abs(got[2000:-2000] - want[2000 : len(got) - 2000]).max() < loss * np.abs(want).max()


def test_a_71_wav_is_read(tmp_path):
    path = with_levels(tmp_path / "surround.wav", "pcm_s16le", "7.1")
    for way, want in (("mean", levels("7.1").mean(axis=0)), ("first", levels("7.1")[0])):
        np.testing.assert_allclose(read_clip(path, channels=way, rate=48_000).audio, want, atol=1e-4)


def test_a_damaged_byte_that_makes_eight_channels_of_one_ends_no_process(tmp_path):
    path = tmp_path / "mono.m4a"
    with av.open(str(path), "w", format="mp4") as out:
        encode_sound(out, out.add_stream("aac", rate=16_000, layout="mono"), tone(1.0, 16_000)[:1], 16_000, layout="mono")
    content = path.read_bytes()
    # AudioSpecificConfig: 5 bits of profile (2), 4 of rate (8: 16 kHz), 4 of channels (1, becomes 7: 7.1).
    assert content.count(b"\x80\x05\x14\x08") == 1
    path.write_bytes(content.replace(b"\x80\x05\x14\x08", b"\x80\x05\x14\x38"))
    read = read_apart(path)
    assert read.code == 0 and (read.said == "clip" or "mono.m4a: " in read.said)


@pytest.mark.parametrize("layout", ["mono", "stereo"])
@pytest.mark.parametrize("codec", ["pcm_f32le", "pcm_s16le", "aac"])
def test_mono_and_stereo_are_the_mean_of_what_the_resampler_gives_for_each_channel_bit_by_bit(tmp_path, codec, layout):
    """Oracle: the channels one by one through a resampler of their own, then numpy's mean."""
    path = tmp_path / "noise.mkv"
    n_channels = 1 + (layout == "stereo")
    noise = np.random.default_rng(0).uniform(-0.9, 0.9, (n_channels, 30_000)).astype(np.float32)
    with av.open(str(path), "w") as out:
        encode_sound(out, out.add_stream(codec, rate=44_100, layout=layout), noise, 44_100, layout=layout)
    with av.open(str(path)) as container:
        frames = list(container.decode(audio=0))
    alone = []
    for channel in range(n_channels):
        resampler, pieces = av.AudioResampler("fltp", "mono", 16_000, frame_size=1 << 14), []
        for frame in frames:
            planar = av.AudioResampler("fltp", layout).resample(frame)[0].to_ndarray()
            one = av.AudioFrame.from_ndarray(planar[channel : channel + 1].copy(), "fltp", "mono")
            one.sample_rate = frame.sample_rate
            pieces += resampler.resample(one)
        alone.append(np.concatenate([p.to_ndarray()[0] for p in pieces + resampler.resample(None)]))
    for way, want in (("mean", np.stack(alone).mean(axis=0)), ("first", alone[0])):
        got = read_clip(path, channels=way).audio
        np.testing.assert_array_equal(got, want[: len(got)])
        assert len(want) - len(got) < 1600


def test_a_16_khz_mono_wav_comes_back_sample_by_sample(tmp_path):
    sound = np.random.default_rng(0).uniform(-1, 1, 50_000).astype(np.float32)
    soundfile.write(tmp_path / "a.wav", sound, 16_000, subtype="FLOAT")
    np.testing.assert_array_equal(read_clip(tmp_path / "a.wav").audio, sound)


def test_a_wav_that_soundfile_does_not_know_is_read_all_the_same(tmp_path):
    path = make(tmp_path / "ac3.wav", None, "ac3", sound_sec=1.6)
    with pytest.raises(soundfile.LibsndfileError):
        soundfile.read(path)
    assert_is_the_tone(read_clip(path).audio, LEVEL / 2, 1.6, delay_sec=0.01, length_sec=0.05)


@pytest.mark.parametrize("name", ["cover.mp3", "cover.m4a"])
def test_cover_art_is_not_video(tmp_path, name):
    path = tmp_path / name
    with av.open(str(path), "w", format="mp3" if name.endswith("mp3") else "mp4") as out:
        audio = out.add_stream("libmp3lame" if name.endswith("mp3") else "aac", rate=48_000, layout="stereo")
        cover = out.add_stream("mjpeg", rate=1)
        cover.width, cover.height, cover.pix_fmt = W, H, "yuvj420p"
        cover.disposition = Disposition.attached_pic.value
        picture = av.VideoFrame.from_ndarray(painted(5), format="rgb24")
        out.mux(cover.encode(picture.reformat(format="yuvj420p")))
        encode_sound(out, audio, tone(1.6, 48_000), 48_000)
    with av.open(str(path)) as container:
        assert len(container.streams.video) == 1  # PyAV itself calls it video
    clip = read_clip(path)
    assert not clip.has_video and len(clip.frames) == 0
    assert_is_the_tone(clip.audio, LEVEL / 2, 1.6, length_sec=0.03)


# --- formats beside those above


def read_if_accepted(path: Path, *args, **options):
    try:
        return read_clip(path, *args, **options)
    except UserError as error:
        pytest.fail(f"refused: {error}")


def remade(source: Path, name: str, *settings: str) -> Path:
    """`source` in another format, by the ffmpeg command, whose MPEG streams start at 1.4 s as those of recorders do."""
    target = source.with_name(name)
    command = [get_ffmpeg_exe(), "-v", "error", "-y", "-i", str(source), *settings, str(target)]
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL)
    return target


@pytest.mark.parametrize(
    "name, settings",
    [
        ("clip.ts", ["-c", "copy"]),
        ("clip.m2ts", ["-c", "copy"]),
        ("clip.mpg", ["-c:v", "mpeg2video", "-bf", "2", "-q:v", "2"]),
        ("clip.vob", ["-c:v", "mpeg2video", "-bf", "2", "-q:v", "2"]),
        ("clip.flv", ["-c", "copy"]),
        ("clip.wmv", ["-q:v", "2", "-c:a", "libmp3lame"]),
        ("clip.mkv", ["-c", "copy"]),
    ],
)
def test_the_same_film_in_another_container_is_the_same_clip(videos, tmp_path, name, settings):
    """Oracle: the clip of the mp4."""
    source = tmp_path / "source.mp4"
    source.write_bytes((videos / "h264-aac.mp4").read_bytes())
    whole, clip = read_clip(source), read_if_accepted(remade(source, name, *settings))
    assert [number_in(f) for f in clip.frames] == [number_in(f) for f in whole.frames]
    np.testing.assert_allclose(clip.frame_times_sec, whole.frame_times_sec, atol=0.002)
    assert clip.n_source_frames == N and clip.fps == pytest.approx(FPS, abs=0.01)
    assert clip.duration_sec == pytest.approx(whole.duration_sec, abs=0.06)
    assert_is_the_tone(clip.audio, LEVEL / 2, N / FPS, delay_sec=0.03, length_sec=0.06)
    assert clip.notes == ()


def test_an_animated_gif_is_a_film_without_sound(tmp_path):
    pictures = [Image.fromarray(painted(i)) for i in range(N)]
    path = tmp_path / "clip.gif"
    pictures[0].save(path, save_all=True, append_images=pictures[1:], duration=1000 // FPS, loop=0)
    for i in range(0, N, 7):
        assert number_in(read_if_accepted(path, lambda n, fps, sec, i=i: [i]).frames[0]) == i
    clip = read_clip(path)
    assert [number_in(f) for f in clip.frames] == uniform(8)(N, FPS, N / FPS)
    np.testing.assert_allclose(clip.frame_times_sec, np.array(uniform(8)(N, FPS, N / FPS)) / FPS, atol=1e-6)
    assert (clip.n_source_frames, clip.duration_sec, clip.has_audio, clip.notes) == (N, pytest.approx(N / FPS), False, ())


@pytest.mark.parametrize(
    "name, codec, rate",
    [
        ("sound.ts", "aac", 48_000),
        ("sound.aiff", "pcm_s16be", 44_100),
        ("sound.caf", "pcm_s16le", 44_100),
        ("sound.amr", "libopencore_amrnb", 8_000),
        ("sound.ac3", "ac3", 48_000),
        ("sound.eac3", "eac3", 48_000),
        ("sound.wma", "wmav2", 44_100),
        ("sound.mpg", "mp2", 48_000),
        ("sound.flv", "libmp3lame", 44_100),
    ],
)
def test_a_sound_file_of_another_format(tmp_path, name, codec, rate):
    path = tmp_path / name
    layout = "mono" if codec == "libopencore_amrnb" else "stereo"
    sound = tone(1.6, rate) if layout == "stereo" else tone(1.6, rate)[:1] / 2
    with av.open(str(path), "w") as out:
        stream = out.add_stream(codec, rate=rate, layout=layout)
        stream.bit_rate = {"libopencore_amrnb": 12_200}.get(codec, 192_000)
        encode_sound(out, stream, sound, rate, layout=layout)
    clip = read_if_accepted(path)
    assert not clip.has_video and clip.has_audio and clip.notes == ()
    # FFmpeg's decoder of wma leaves out the first 2,048 samples, which its encoder does not know. amr is made for speech.
    level_rel = 0.3 if name == "sound.amr" else 0.05
    assert_is_the_tone(clip.audio, LEVEL / 2, 1.6, delay_sec=0.05, length_sec=0.06, level_rel=level_rel)


def test_every_format_that_an_error_names_is_read_in_a_test_above():
    with pytest.raises(UserError) as refused:
        read_clip("/no/such.mp4")
    named = set(re.findall(r"\w+", str(refused.value).partition("Allowed: ")[2])) - {"or", "video", "sound"}
    source = Path(__file__).read_text()
    assert named >= {"mp4", "ts", "mpg", "gif"} and all(re.search(rf'\w\.{name}"', source) for name in named)


def test_pictures_playlists_and_letters_stay_refused(videos, tmp_path):
    picture = Image.fromarray(painted(1))
    for name in ("a.png", "a.jpg", "a.webp", "a.bmp", "a.tiff", "a.ppm"):
        picture.save(tmp_path / name)
    for name in ("moving.webp", "moving.png"):
        picture.save(tmp_path / name, save_all=True, append_images=[Image.fromarray(painted(2))], duration=40)
    film = videos / "h264-aac.mp4"
    (tmp_path / "list.ffconcat").write_text(f"ffconcat version 1.0\nfile '{film}'\n")
    (tmp_path / "list.m3u8").write_text(f"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n{film.as_uri()}\n#EXT-X-ENDLIST\n")
    (tmp_path / "list.sdp").write_text("v=0\no=- 0 0 IN IP4 127.0.0.1\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 5004 RTP/AVP 96\n")
    (tmp_path / "words.txt").write_text("just words\n" * 500)
    (tmp_path / "lines.ts").write_text("export const lines: string[] = [];\n" * 500)  # another kind of .ts
    for path in sorted(tmp_path.iterdir()):
        for suffix in (path.suffix, ".ts", ".gif", ".mpg"):
            renamed = path.rename(path.with_suffix(suffix))
            with pytest.raises(UserError, match="this is not a video or sound file"):
                read_clip(renamed)
            path = renamed


def test_recordings_that_were_joined_byte_by_byte_are_told(videos, tmp_path):
    film = (videos / "h264-aac.ts").read_bytes()
    (tmp_path / "joined.ts").write_bytes(film + film)
    clip = read_clip(tmp_path / "joined.ts")
    assert [number_in(f) for f in clip.frames] == uniform(8)(N, FPS, N / FPS)
    assert len(clip.audio) / 16_000 == pytest.approx(2 * N / FPS, abs=0.1)
    assert any("times start anew" in note for note in clip.notes)


@pytest.mark.parametrize("name, packet", [("h264-aac.ts", 188), ("mpeg2-mp2.ts", 188), ("mpeg2-ac3.mpg", 2048)])
def test_a_recording_that_starts_between_key_frames_begins_with_the_first_of_them(
    videos, tmp_path, name, packet, in_this_process
):
    """A transport stream knows times before that, at which the key frame stands in. An mpg has nothing before it; its count
    may have two frames more, shown before the key frame though stored after it, and its times are off by as much.
    """
    film = (videos / name).read_bytes()
    n_packets = len(film) // packet
    for n_lost in range(n_packets // 5, n_packets // 2, max(n_packets // 20, 1)):
        path = tmp_path / name
        path.write_bytes(film[n_lost * packet :])
        clip = read_clip(path, lambda n, fps, sec: list(range(n)))
        numbers = [number_in(f) for f in clip.frames]
        shown = list(range(numbers[0], N))
        early, late = (0, 2) if name.endswith("mpg") else (numbers.count(numbers[0]) - 1, 0)
        assert 0 < numbers[0] and numbers[: early + len(shown)] == [numbers[0]] * early + shown
        assert len(numbers) <= early + len(shown) + late
        seconds = clip.frame_times_sec[early:] - clip.frame_times_sec[early]
        np.testing.assert_allclose(seconds[: len(shown)], np.arange(len(shown)) / FPS, atol=late / FPS or 0.005)


def test_streams_that_appear_on_the_way_are_no_obstacle(tmp_path):
    """A transport stream that has 50 sounds beside its picture from 8.0 to 8.4 s, and none at its beginning and end."""
    noise = np.random.default_rng(0)
    parts = []
    for numbers, n_sounds in ((range(200), 0), (range(200, 210), 50), (range(210, 255), 0)):
        parts.append(tmp_path / f"part{len(parts)}.ts")
        with av.open(str(parts[-1]), "w") as out:
            video = out.add_stream("mpeg2video", rate=FPS, options={"qmax": "2", "b": "8000000"})
            video.width, video.height, video.pix_fmt = W, H, "yuv420p"
            sounds = [out.add_stream("mp2", rate=48_000, layout="stereo") for _ in range(n_sounds)]
            for i in numbers:
                # Large at the end: of that, FFmpeg looks at 250 kB when it opens the file.
                picture = painted(i) if i < 210 else noise.integers(0, 256, (H, W, 3), np.uint8)
                frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
                frame.pts, frame.time_base = i, Fraction(1, FPS)
                out.mux(video.encode(frame))
            out.mux(video.encode(None))
            for sound in sounds:
                encode_sound(out, sound, tone(0.1, 48_000), 48_000, start_sec=8.0)
    path = tmp_path / "late.ts"
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    with av.open(str(path)) as container:
        assert len(container.streams) == 1
    clip = read_clip(path, lambda n, fps, sec: [3, 77, 150])
    assert [number_in(f) for f in clip.frames] == [3, 77, 150]


# --- flawed files


def test_refusals_name_the_file_the_reason_and_what_is_allowed(videos, tmp_path):
    whole = (videos / "h264-aac.mp4").read_bytes()
    files = {
        "text.mp4": (b"just words\n" * 500, "not a video or sound file"),
        "notes.txt": (b"just words\n" * 500, "not a video or sound file"),  # FFmpeg alone would render it
        "picture.mp4": (b"", "not a video or sound file"),
        "zero.mp4": (b"", "empty"),
        "half.mp4": (whole[: len(whole) // 2], "cut or damaged: the index"),
        "head.webm": ((videos / "vp9-opus.webm").read_bytes()[:40], "cut or damaged: nothing follows"),
        "words.srt": (b"1\n00:00:00,000 --> 00:00:01,000\nhello\n" * 20, "not a video or sound file"),
    }
    for name, (content, _) in files.items():
        (tmp_path / name).write_bytes(content)
    av.VideoFrame.from_ndarray(painted(1), format="rgb24").to_image().save(tmp_path / "picture.mp4", "PNG")
    files["missing.mp4"] = files["nul\0.mp4"] = (None, "no such file|cannot be read")
    (tmp_path / "folder.mp4").mkdir()
    files["folder.mp4"] = (None, "a folder")
    ffmpeg = [get_ffmpeg_exe(), "-v", "error", "-i", str(tmp_path / "words.srt")]
    subprocess.run([*ffmpeg, str(tmp_path / "subtitles.mkv")], check=True, stdin=subprocess.DEVNULL)
    files["subtitles.mkv"] = (None, "neither picture nor sound")
    for name, (_, reason) in files.items():
        with pytest.raises(UserError, match=f"(?s)^{name}: .*({reason}).*Allowed: mp4, mov, .*mp3") as caught:
            read_clip(tmp_path / name)
        assert str(tmp_path) not in str(caught.value)  # the page shows this text


def test_a_file_without_permission_is_a_user_error(videos, monkeypatch):
    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("fastav.clip.read.open", refuse, raising=False)  # chmod does not stop root
    with pytest.raises(UserError, match=r"vfr\.mkv: the file cannot be read \(Permission denied\)"):
        read_clip(videos / "vfr.mkv")


def test_a_playlist_cannot_make_us_read_other_files(videos, tmp_path):
    playlist = tmp_path / "list.mp4"
    target = (videos / "h264-aac.mp4").as_uri()
    playlist.write_text(f"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n{target}\n#EXT-X-ENDLIST\n")
    with pytest.raises(UserError, match="not a video or sound file"):
        read_clip(playlist)


@pytest.mark.parametrize(
    "name, sound",
    [("clip.mp4", "aac"), ("mute.mp4", None), ("clip.mkv", "aac"), ("mute.mkv", None), ("mute.avi", None)],
)
@pytest.mark.parametrize("part", [0.5, 0.9])
def test_a_cut_file_gives_what_it_holds_and_says_so(tmp_path, name, sound, part):
    first = {"movflags": "faststart"} if name.endswith("mp4") else {}
    path = make(tmp_path / name, "mpeg4" if "avi" in name else "libx264", sound, container_options=first)
    content = path.read_bytes()
    cut = round(part * len(content))
    with av.open(str(path)) as container:
        n_whole = sum(p.pos + p.size <= cut for p in container.demux(video=0) if p.pts is not None)
    path.write_bytes(content[:cut])
    clip = read_clip(path)
    numbers = [number_in(f) for f in clip.frames]
    assert len(numbers) == 8 and numbers == sorted(numbers)
    assert n_whole <= clip.n_source_frames <= n_whole + 1  # one may be there in part
    assert max(numbers) < clip.n_source_frames + 3  # cut in stored order, which runs ahead of the shown one
    np.testing.assert_allclose(clip.frame_times_sec, np.array(numbers) / FPS, atol=0.002)
    if clip.n_source_frames < N - 5:  # a tenth of a second is not worth a note
        assert any(note.startswith("the file is cut: ") for note in clip.notes)


def test_damage_in_the_middle_leaves_the_rest(tmp_path):
    path = make(tmp_path / "hole.mp4", sound="aac", container_options={"movflags": "faststart"})
    content = bytearray(path.read_bytes())
    with av.open(str(path)) as container:
        holes = [(p.pos, p.size) for p in container.demux(video=0) if p.pts is not None][GOP : 2 * GOP]
    for position, size in holes:
        content[position : position + size] = bytes(size)
    path.write_bytes(content)
    clip = read_clip(path, lambda n, fps, sec: [3, 14, 33])
    assert [number_in(clip.frames[0]), number_in(clip.frames[2])] == [3, 33]
    assert any("1 of 3 frames cannot be decoded" in note for note in clip.notes)
    assert clip.frame_times_sec[1] != 14 / FPS  # the time of the frame that is really shown


def test_a_beginning_that_cannot_be_decoded_leaves_the_rest(tmp_path):
    path = make(tmp_path / "hole.mp4", container_options={"movflags": "faststart"})
    content = bytearray(path.read_bytes())
    with av.open(str(path)) as container:
        holes = [(p.pos, p.size) for p in container.demux(video=0) if p.pts is not None][:GOP]
    for position, size in holes:
        content[position : position + size] = bytes(size)
    path.write_bytes(content)
    clip = read_clip(path, lambda n, fps, sec: [2, 33])
    assert [number_in(f) for f in clip.frames] == [GOP, 33]


@pytest.mark.parametrize("part", [0.2, 0.5, 0.9])
def test_a_cut_mp3_gives_the_sound_that_it_holds(tmp_path, part):
    """Its header goes on claiming the whole length. Oracle: the beginning of the whole file's sound."""
    path = tmp_path / "a.mp3"
    make(path, None, "libmp3lame", sound_sec=4.0)
    whole = read_clip(path).audio
    path.write_bytes(path.read_bytes()[: round(part * path.stat().st_size)])
    cut = read_clip(path).audio
    assert len(cut) / len(whole) == pytest.approx(part, abs=0.05)
    n_same = len(cut) - 1600  # the last frames may lack bits that lie in the next
    np.testing.assert_array_equal(cut[:n_same], whole[:n_same])


def test_samples_that_are_no_numbers_are_silence_and_told(tmp_path):
    sound = tone(1.6, 16_000)[0]
    damaged = sound.copy()
    damaged[[3, 5_000, 12_000, 13_000]] = (np.nan, np.inf, -np.inf, 1e30)
    for name in ("a.wav", "loud.wav"):
        soundfile.write(tmp_path / name, damaged if name == "a.wav" else 32_768 * sound, 16_000, subtype="FLOAT")
    clip = read_clip(tmp_path / "a.wav")
    assert np.isfinite(clip.audio).all() and np.abs(clip.audio).max() <= 1
    np.testing.assert_array_equal(clip.audio, np.where(damaged == sound, sound, 0))
    assert clip.notes == ("4 samples of the sound are damaged; silence stands in",)
    assert read_clip(tmp_path / "loud.wav").notes == ()  # whole numbers stored as floats are not damage


# --- files made to harm


def box(name: bytes, *content: bytes) -> bytes:
    """A part of a QuickTime file."""
    return struct.pack(">I4s", 8 + sum(map(len, content)), name) + b"".join(content)


def table(name: bytes, *rows: tuple) -> bytes:
    return box(name, bytes(4), struct.pack(">I", len(rows)), *(struct.pack(f">{len(row)}I", *row) for row in rows))


def quicktime(path: Path, n_frames: int = 1, n_tracks: int = 1, tags: bytes = b"", codec=b"raw ", size: int = 2) -> Path:
    """Pictures of size x size, of which 12 bytes are there and n_frames are claimed, in each of n_tracks."""
    entry = bytes(6) + struct.pack(">H16xHHIIIH32xHh", 1, size, size, 72 << 16, 72 << 16, 0, 1, 24, -1)
    samples = [
        box(b"stsd", struct.pack(">II", 0, 1), box(codec, entry)),
        table(b"stts", (n_frames, 40)),
        table(b"stsc", (1, n_frames, 1)),
        box(b"stsz", struct.pack(">III", 0, 12, n_frames)),
        table(b"stco", (28,)),
    ]
    media = [
        box(b"mdhd", struct.pack(">IIIII4x", 0, 0, 0, 1000, 40)),
        box(b"hdlr", bytes(4) + b"mhlrvide" + bytes(13)),
        box(b"minf", box(b"vmhd", bytes(12)), box(b"stbl", *samples)),
    ]
    track = box(b"trak", box(b"tkhd", bytes(84)), box(b"mdia", *media))
    movie = [box(b"mvhd", struct.pack(">IIIII80x", 0, 0, 0, 1000, 40)), *[track] * n_tracks, tags]
    path.write_bytes(box(b"ftyp", b"qt  " + bytes(4) + b"qt  ")[:20] + box(b"mdat", bytes(12)) + box(b"moov", *movie))
    return path


def test_a_small_file_that_claims_millions_of_frames_takes_no_memory_from_this_process(tmp_path):
    assert read_apart(quicktime(tmp_path / "one.mov")).said == "clip"
    read = read_apart(quicktime(tmp_path / "millions.mov", 12_000_000, 2), limits="limits.MAX_BYTES = 500_000_000")
    assert read.code == 0 and "millions.mov: " in read.said
    assert read.peak_bytes < 300e6


def test_a_file_that_takes_too_long_is_refused(tmp_path):
    """A list of 200,000 tags, of which FFmpeg compares each with all before."""
    names = (box(b"name", bytes(4), b"k%07d" % i) for i in range(200_000))
    values = box(b"mean", bytes(4), b"com"), box(b"data", struct.pack(">II", 1, 0), b"v")
    items = box(b"ilst", *(box(b"----", values[0], name, values[1]) for name in names))
    tags = box(b"udta", box(b"meta", bytes(4), box(b"hdlr", bytes(8) + b"mdir" + bytes(13)), items))
    read = read_apart(quicktime(tmp_path / "tags.mov", tags=tags), limits="limits.PATIENCE_SEC = 2", timeout_sec=12)
    assert read.code == 0
    assert read.said == "tags.mov: reading it takes too long. Allowed: 2 s until the next picture or piece of sound."


def test_pictures_beyond_8192_by_4320_are_refused(tmp_path):
    """1 kB that is decoded to 768 MB."""
    path = quicktime(tmp_path / "giant.mov", codec=b"rle ", size=16_000)
    read = read_apart(path, "uniform(1), size=(16, 16)")
    assert read.code == 0
    assert read.said == "giant.mov: the picture has 16000 x 16000 pixels. Allowed: 8192 x 4320, or as many in another shape."


@pytest.mark.parametrize("rate", [1, 999, 768_001, 2**31 - 1])
def test_sample_rates_that_no_sound_has_are_refused(tmp_path, rate):
    header = struct.pack("<4sI8sIHHIIHH4sI", b"RIFF", 2036, b"WAVEfmt ", 16, 1, 1, rate, rate & 2**31 - 1, 1, 8, b"data", 2000)
    (tmp_path / "a.wav").write_bytes(header + bytes(2000))
    with pytest.raises(UserError, match=rf"a\.wav: the sound has {rate:,} samples per second. Allowed: 1,000 to 768,000\."):
        read_clip(tmp_path / "a.wav")


def test_sound_that_ends_4_hours_after_the_picture_began_is_refused(tmp_path):
    path = make(tmp_path / "gap.mkv", sound="aac", sound_sec=0.1, sound_start_sec=4.01 * 3600)
    with pytest.raises(UserError, match=r"gap\.mkv: the sound goes on for too long\. Allowed: 4 hours\."):
        read_clip(path)


def test_sound_that_is_longer_than_allowed_is_refused(tmp_path, monkeypatch, in_this_process):
    soundfile.write(tmp_path / "long.wav", np.zeros(3 * 16_000), 16_000)
    assert len(read_clip(tmp_path / "long.wav").audio) == 3 * 16_000
    monkeypatch.setattr("fastav.clip.limits.MAX_SOUND_SEC", 2)
    with pytest.raises(UserError, match=r"long\.wav: the sound goes on for too long"):
        read_clip(tmp_path / "long.wav")


def test_a_decoder_that_crashes_makes_a_refusal(videos, monkeypatch):
    from fastav.clip import child

    def dies(*args, **settings):
        raise child.Died("Segmentation fault")

    monkeypatch.setattr("fastav.clip.child.call", dies)
    with pytest.raises(UserError, match=r"h264\.avi: the file is damaged, its decoder crashed \(Segmentation fault\)\. Allowed:"):
        read_clip(videos / "h264.avi")


def test_what_a_models_own_resampler_says_reaches_the_caller(videos):
    def refuse(picture, n_frames):
        raise UserError("too narrow for this model")

    with pytest.raises(UserError, match="^too narrow for this model$"):
        read_clip(videos / "h264.avi", resize=refuse)


def test_60_damaged_files_end_no_process():
    """More of them: `make fuzz`."""
    root = Path(__file__).resolve().parents[1]
    command = [sys.executable, "tests/fuzz_media.py", "--seeds", "0", "--files", "60"]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.startswith("60 files: "), done.stdout + done.stderr


# --- parts that cannot be read


def test_streams_in_unknown_formats_are_named(videos, tmp_path):
    content = (videos / "h264-aac.mp4").read_bytes()
    (tmp_path / "sound.mp4").write_bytes(content.replace(b"avc1", b"zzz1"))
    clip = read_clip(tmp_path / "sound.mp4")
    assert not clip.has_video and clip.has_audio
    assert clip.notes == ("the picture is in a format that cannot be decoded",)
    mov = (videos / "h264-pcm.mov").read_bytes()
    (tmp_path / "picture.mov").write_bytes(mov.replace(b"sowt", b"zzz2"))
    clip = read_clip(tmp_path / "picture.mov")
    assert clip.has_video and not clip.has_audio
    assert clip.notes == ("the sound is in a format that cannot be decoded",)
    (tmp_path / "none.mov").write_bytes(mov.replace(b"sowt", b"zzz2").replace(b"avc1", b"zzz1"))
    with pytest.raises(UserError, match="the picture is in a format .*; the sound is in a format"):
        read_clip(tmp_path / "none.mov")


def test_streams_without_content(tmp_path):
    path = make(tmp_path / "no-frames.mkv", n=0, sound="aac")
    clip = read_clip(path)
    assert not clip.has_video and clip.has_audio and clip.notes == ("the video stream holds no frames",)
    soundfile.write(tmp_path / "none.wav", np.zeros(0), 16_000)
    with pytest.raises(UserError, match=r"none\.wav: the audio stream holds no sound"):
        read_clip(tmp_path / "none.wav")


def test_odd_names_and_old_tags_are_no_obstacle(tmp_path):
    path = make(tmp_path / "http: ünï %d.avi", "mpeg4", tags={"title": "ABCDEFGH"})
    content = path.read_bytes()
    assert b"ABCDEFGH" in content
    path.write_bytes(content.replace(b"ABCDEFGH", b"\xe4\xf6\xfc\xff\xfe\x80\xe4\xf6"))  # not UTF-8
    assert read_clip(path).name == "http: ünï %d.avi"


# --- writing, arrays, the module


@pytest.mark.parametrize("fps", [25, 29.97, 7])
def test_a_written_clip_reads_back(tmp_path, monkeypatch, fps):
    monkeypatch.chdir(tmp_path)
    frames = np.stack([painted(i) for i in range(29)])
    sound = tone(29 / fps, 16_000)[0]
    write_clip("clip.mp4", frames, fps, sound)
    assert [p.name for p in tmp_path.iterdir()] == ["clip.mp4"]
    clip = read_clip("clip.mp4", lambda n, fps, sec: list(range(n)))
    assert [number_in(f) for f in clip.frames] == list(range(29))
    assert clip.fps == pytest.approx(fps, abs=0.01)
    assert np.abs(clip.frames.astype(int) - frames).mean() < 4
    assert_is_the_tone(clip.audio, LEVEL, len(sound) / 16_000)
    with av.open("clip.mp4") as container:
        [video], [audio] = container.streams.video, container.streams.audio
        assert (video.codec_context.name, video.format.name) == ("h264", "yuv420p")
        assert (audio.codec_context.name, audio.channels, audio.rate) == ("aac", 1, 16_000)


def test_a_clip_written_without_sound_has_no_audio_stream(tmp_path):
    write_clip(tmp_path / "mute.mp4", np.stack([painted(0)] * 4), 4, None)
    clip = read_clip(tmp_path / "mute.mp4")
    assert not clip.has_audio and clip.has_video


def test_arrays_that_cannot_be_a_clip_are_refused(tmp_path):
    frames, sound = np.zeros((4, 16, 16, 3), np.uint8), np.zeros(100, np.float32)
    for wrong in (frames.astype(np.float32), frames[0], frames[:0], frames[..., :2]):
        with pytest.raises(ValueError, match=r"uint8 \[F, h, w, 3\] and not empty, got"):
            write_clip(tmp_path / "x.mp4", wrong, 8, None)
        with pytest.raises(ValueError, match=r"uint8 \[F, h, w, 3\] and not empty, got"):
            clip_from_arrays(wrong, 8, None)
    for wrong in (sound[:, None], sound[:0], np.zeros(100, np.int16)):
        with pytest.raises(ValueError, match=r"float \[S\] and not empty, got"):
            clip_from_arrays(frames, 8, wrong)
    with pytest.raises(ValueError, match="even, got 15x16"):
        write_clip(tmp_path / "x.mp4", frames[:, :, 1:], 8, sound)


def test_a_clip_from_arrays_keeps_every_frame_and_sample():
    frames = np.stack([painted(i) for i in range(8)])
    sound = tone(1.5, 16_000)[0]
    clip = clip_from_arrays(frames, 8, sound, name="scene 3")
    assert clip.name == "scene 3" and clip.has_video and clip.has_audio and clip.notes == ()
    np.testing.assert_array_equal(clip.frames, frames)
    np.testing.assert_array_equal(clip.audio, sound)
    np.testing.assert_allclose(clip.frame_times_sec, np.arange(8) / 8)
    assert (clip.duration_sec, clip.n_source_frames, clip.fps, clip.audio_rate) == (1.5, 8, 8.0, 16_000)
    picture_only, sound_only = clip_from_arrays(frames, 8, None), clip_from_arrays(None, 8, sound)
    assert (picture_only.has_audio, picture_only.duration_sec) == (False, 1.0)
    assert (sound_only.has_video, sound_only.duration_sec, len(sound_only.frames)) == (False, 1.5, 0)
    other_frames, other_sound = frames.copy(), sound.copy()
    other_frames[7, 119, 159, 2] ^= 1
    other_sound[-1] += 0.1
    variants = [
        clip,
        picture_only,
        sound_only,
        clip_from_arrays(frames, 4, sound),
        clip_from_arrays(other_frames, 8, sound),
        clip_from_arrays(frames, 8, other_sound),
    ]
    assert len({c.sha256 for c in variants}) == len(variants)
    assert clip_from_arrays(frames.copy(), 8, sound.copy(), name="another").sha256 == clip.sha256


def test_sha256_is_that_of_the_bytes(videos):
    path = videos / "h264-aac.mp4"
    clip = read_clip(path)
    assert clip.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert clip.name == "h264-aac.mp4"
    assert replace(clip, name="x").name == "x"  # frozen, yet copies can be made


def test_clips_are_read_alike_in_many_threads(videos):
    names = ["h264-aac.mp4", "vp9-opus.webm", "phone-90.mp4", "vfr.mp4"]
    alone = {name: read_clip(videos / name) for name in names}
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda name: read_clip(videos / name), names * 4))
    for clip in together:
        np.testing.assert_array_equal(clip.frames, alone[clip.name].frames)
        np.testing.assert_array_equal(clip.audio, alone[clip.name].audio)


def test_importing_is_light():
    heavy = "{'torch', 'av', 'moviepy', 'soundfile', 'scipy'}"
    code = f"import sys, fastav.clip.read, fastav.clip.write; print(sorted({heavy} & set(sys.modules)))"
    root = Path(__file__).resolve().parents[1]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_sound_that_changes_its_format_midway_is_read_on():
    """No muxer here writes such a file; the decoder's frames are made directly."""

    def frames():
        for rate, layout in ((48_000, "stereo"), (24_000, "mono")):
            samples = np.full((1 + (layout == "stereo"), rate), 0.25, np.float32)
            frame = av.AudioFrame.from_ndarray(samples, "fltp", layout)
            frame.sample_rate = rate
            yield frame

    sound = np.concatenate(list(decode._resampled(frames(), 16_000, "mean")))
    assert len(sound) == pytest.approx(32_000, abs=40)
    assert np.median(sound[:15_000]) == pytest.approx(0.25, abs=1e-3)


def test_claims_are_not_taken_from_guesses():
    """FFmpeg guesses the length of mp3 and aac by bit rate; a wrong guess must not read as a cut file."""
    stream = SimpleNamespace(type="audio", duration=100, time_base=Fraction(1, 10))
    container = SimpleNamespace(format=SimpleNamespace(name="mp3"), duration=10_000_000, start_time=0)
    assert decode.claimed_sec(container, stream) is None and decode.claimed_sec(container) is None
    container.format.name = "avi"
    assert decode.claimed_sec(container, stream) == decode.claimed_sec(container) == 10.0
