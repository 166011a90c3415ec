"""Files that are damaged, cut or made to harm. Oracles: what was written before the damage; one clear sentence."""

import struct
import subprocess
import sys
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import av
import numpy as np
import pytest
import soundfile
from footage import FPS, GOP, N, make, number_in, painted, read_apart, tone
from imageio_ffmpeg import get_ffmpeg_exe

from fastav.clip import decode
from fastav.clip.read import read_clip
from fastav.errors import UserError


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


def test_claims_are_not_taken_from_guesses():
    """FFmpeg guesses the length of mp3 and aac by bit rate; a wrong guess must not read as a cut file."""
    stream = SimpleNamespace(type="audio", duration=100, time_base=Fraction(1, 10))
    container = SimpleNamespace(format=SimpleNamespace(name="mp3"), duration=10_000_000, start_time=0)
    assert decode.claimed_sec(container, stream) is None and decode.claimed_sec(container) is None
    container.format.name = "avi"
    assert decode.claimed_sec(container, stream) == decode.claimed_sec(container) == 10.0


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


def test_60_damaged_files_end_no_process():
    """More of them: `make fuzz`."""
    root = Path(__file__).resolve().parents[1]
    command = [sys.executable, "tests/fuzz_media.py", "--seeds", "0", "--files", "60"]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.startswith("60 files: "), done.stdout + done.stderr
