"""Containers and codecs beside the common ones. Oracle: the same film or tone in a common one."""

import re
import subprocess
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile
from footage import FPS, LEVEL, H, N, W, assert_is_the_tone, encode_sound, make, number_in, painted, tone
from imageio_ffmpeg import get_ffmpeg_exe
from PIL import Image

from fastav.clip.read import read_clip
from fastav.clip.sampling import uniform
from fastav.errors import UserError


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
    here = Path(__file__).parent
    source = "".join((here / f"{name}.py").read_text() for name in ("footage", "test_read_sound", "test_read_formats"))
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


def test_a_playlist_cannot_make_us_read_other_files(videos, tmp_path):
    playlist = tmp_path / "list.mp4"
    target = (videos / "h264-aac.mp4").as_uri()
    playlist.write_text(f"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n{target}\n#EXT-X-ENDLIST\n")
    with pytest.raises(UserError, match="not a video or sound file"):
        read_clip(playlist)


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
