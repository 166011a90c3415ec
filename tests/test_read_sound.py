"""The sound of a file. Oracles: the tone that was written (frequency, level, onset, length); the channels one by one."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile
from av.stream import Disposition
from footage import (
    FPS,
    LEVEL,
    ONSET_SEC,
    VIDEOS,
    H,
    N,
    W,
    assert_is_the_tone,
    encode_sound,
    make,
    number_in,
    painted,
    read_apart,
    tone,
)

from fastav.clip import decode
from fastav.clip.read import read_clip
from fastav.clip.sampling import uniform
from fastav.clip.write import write_clip


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
