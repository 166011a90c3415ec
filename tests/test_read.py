"""Which frames a file gives, and when they are shown.

Oracles: the number painted into a frame; decoding everything and picking by index; the time stamps that were written.
"""

import hashlib
import subprocess
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest
from footage import FPS, GOP, UNEVEN_MS, VIDEOS, H, N, W, make, number_in
from imageio_ffmpeg import get_ffmpeg_exe

from fastav.clip import decode
from fastav.clip.read import read_clip
from fastav.clip.sampling import uniform
from fastav.errors import UserError


def decode_everything(path: Path) -> list:
    """The slow obvious reader: (time, turned picture) of every frame in the decoder's order."""
    with av.open(str(path)) as container:
        return [
            (frame.time, np.rot90(frame.to_ndarray(format="rgb24"), frame.rotation // 90 % 4))
            for frame in container.decode(video=0)
        ]


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


def test_what_a_models_own_resampler_says_reaches_the_caller(videos):
    def refuse(picture, n_frames):
        raise UserError("too narrow for this model")

    with pytest.raises(UserError, match="^too narrow for this model$"):
        read_clip(videos / "h264.avi", resize=refuse)


def test_odd_names_and_old_tags_are_no_obstacle(tmp_path):
    path = make(tmp_path / "http: ünï %d.avi", "mpeg4", tags={"title": "ABCDEFGH"})
    content = path.read_bytes()
    assert b"ABCDEFGH" in content
    path.write_bytes(content.replace(b"ABCDEFGH", b"\xe4\xf6\xfc\xff\xfe\x80\xe4\xf6"))  # not UTF-8
    assert read_clip(path).name == "http: ünï %d.avi"
