"""Damaged media files, many to a process: `make fuzz`, not collected by pytest.

    python tests/fuzz_media.py                      500 files of each seed 0, 1, 2, 3
    python tests/fuzz_media.py --seeds 7 --files 60
    python tests/fuzz_media.py --only 3:217         one file again; it stays in the current folder

Small whole files in many formats are made with PyAV and damaged at random; a file is named by its seed and index. Reading
one may give a clip whose parts fit together or a UserError. Everything else is a finding: the process dies, another
exception, more than 20 s, more than 1.5 GB. Findings are printed, and the exit code is 1. `read_clip` reads in a child
process of its own, which would hide that; here it reads where it is called.
"""

from __future__ import annotations

import argparse
import collections
import json
import os
import queue
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from fractions import Fraction
from importlib import import_module
from pathlib import Path

import av
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from fastav.clip import child  # noqa: E402  (needs the line above)
from fastav.clip.read import read_clip  # noqa: E402
from fastav.clip.sampling import uniform  # noqa: E402
from fastav.errors import UserError  # noqa: E402

MAX_SEC, MAX_BYTES = 20.0, 1.5e9

# name -> (video codec, audio codec, channel layout)
ORIGINALS = {
    "h264-aac.mp4": ("libx264", "aac", "stereo"),
    "h264-aac71.mp4": ("libx264", "aac", "7.1"),
    "av1-opus.mp4": ("libsvtav1", "libopus", "stereo"),
    "hevc-ac3.mkv": ("libx265", "ac3", "5.1"),
    "mpeg2-flac71.mkv": ("mpeg2video", "flac", "7.1"),
    "vp9-opus.webm": ("libvpx-vp9", "libopus", "stereo"),
    "vp8-vorbis.webm": ("libvpx", "vorbis", "stereo"),
    "mpeg4-mp3.avi": ("mpeg4", "libmp3lame", "stereo"),
    "mjpeg-adpcm.avi": ("mjpeg", "adpcm_ms", "stereo"),
    "h264-pcm.mov": ("libx264", "pcm_s16le", "stereo"),
    "prores-pcm71.mov": ("prores_ks", "pcm_s24le", "7.1"),
    "h264-aac.ts": ("libx264", "aac", "stereo"),
    "mpeg2-mp2.ts": ("mpeg2video", "mp2", "stereo"),
    "mpeg2-mp2.mpg": ("mpeg2video", "mp2", "stereo"),
    "flv1-mp3.flv": ("flv", "libmp3lame", "stereo"),
    "wmv2-wma.wmv": ("wmv2", "wmav2", "stereo"),
    "animated.gif": ("gif", None, None),
    "pcm.wav": (None, "pcm_s16le", "mono"),
    "float71.wav": (None, "pcm_f32le", "7.1"),
    "adpcm.wav": (None, "adpcm_ima_wav", "stereo"),
    "sound.flac": (None, "flac", "stereo"),
    "sound71.flac": (None, "flac", "7.1"),
    "sound.mp3": (None, "libmp3lame", "stereo"),
    "opus.ogg": (None, "libopus", "stereo"),
    "vorbis.ogg": (None, "vorbis", "stereo"),
    "sound.m4a": (None, "aac", "mono"),
    "sound71.m4a": (None, "aac", "7.1"),
    "alac.m4a": (None, "alac", "stereo"),
    "sound.aac": (None, "aac", "stereo"),
    "sound.ac3": (None, "ac3", "5.1"),
    "sound.aiff": (None, "pcm_s16be", "stereo"),
    "sound.caf": (None, "alac", "stereo"),
    "sound.amr": (None, "libopencore_amrnb", "mono"),
}
N_FRAMES, FPS, W, H = 24, 12, 96, 64
EXTREMES = (0, 1, 2, 0x7F, 0xFF, 0x7FFF, 0xFFFF, 0x10000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)


def make_original(path: Path, video: str | None, audio: str | None, layout: str | None) -> None:
    """2 s of a moving pattern and a tone on every channel."""
    rate = 8_000 if audio == "libopencore_amrnb" else 48_000
    with av.open(str(path), "w") as out:
        if video:
            options = {"libsvtav1": {"preset": "12"}, "libx265": {"x265-params": "log-level=none"}}.get(video, {})
            rate_of_frames = 25 if path.suffix in (".mpg", ".ts") else FPS  # MPEG-2 knows no 12
            pictures = out.add_stream(video, rate=rate_of_frames, options={"g": "8"} | options)
            pictures.width, pictures.height = W, H
            pictures.pix_fmt = {"gif": "rgb8", "mjpeg": "yuvj420p", "prores_ks": "yuv422p10le"}.get(video, "yuv420p")
        if audio:
            experimental = {"strict": "experimental"} if audio == "vorbis" else {}
            sounds = out.add_stream(audio, rate=rate, layout=layout, options=experimental)
            sounds.bit_rate = {"libopencore_amrnb": 12_200, "wmav2": 128_000}.get(audio, 0) or sounds.bit_rate or 0
        for i in range(N_FRAMES if video else 0):
            y, x = np.mgrid[:H, :W]
            picture = np.stack([(x * 3 + 9 * i) % 256, (y * 4 + 5 * i) % 256, (x * y // 16 + i) % 256], -1).astype(np.uint8)
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = i, Fraction(1, rate_of_frames)
            out.mux(pictures.encode(frame.reformat(format=pictures.pix_fmt)))
        if video:
            out.mux(pictures.encode(None))
        if audio:
            n_channels = av.AudioLayout(layout).nb_channels
            t = np.arange(2 * rate) / rate
            tones = np.stack([np.sin(2 * np.pi * (220 + 40 * c) * t) / 4 for c in range(n_channels)], -1)
            frame = av.AudioFrame.from_ndarray(tones.reshape(1, -1).astype(np.float32), "flt", layout)
            frame.sample_rate, frame.pts, frame.time_base = rate, 0, Fraction(1, rate)
            codec = sounds.codec_context
            resampler = av.AudioResampler(codec.format, layout, rate, frame_size=codec.frame_size or 1024)
            for piece in resampler.resample(frame) + resampler.resample(None):
                out.mux(sounds.encode(piece))
            out.mux(sounds.encode(None))


def damaged(folder: Path, seed: int, index: int) -> tuple[str, bytes, dict]:
    """(name, content, options of read_clip) of one damaged file, the same whenever it is asked for."""
    rng = np.random.default_rng([seed, index])
    names = list(ORIGINALS)
    name = names[(index + seed) % len(names)]
    content = bytearray((folder / name).read_bytes())
    kinds = [flip_bits, flip_bits, set_field, set_field, cut, overwrite, blank, repeat, splice]
    done = []
    for _ in range(rng.integers(1, 4)):
        kind = kinds[rng.integers(len(kinds))]
        done.append(kind.__name__)
        kind(content, rng, folder)
    options = {
        "sampler": uniform(int(rng.choice([1, 8, 50]))),
        "size": [None, (112, 112)][rng.integers(2)],
        "channels": ["mean", "first", "first-without-video"][rng.integers(3)],
    }
    return f"{seed}-{index}-{'+'.join(done)}-{name}", bytes(content), options


def place(content, rng) -> int:
    """Headers lie at the beginning or the end, and damage there does more."""
    n = len(content)
    where = rng.integers(3)
    span = n if where == 0 else min(n, 1500)
    return int((n - span if where == 2 else 0) + rng.integers(max(span, 1)))


def flip_bits(content, rng, folder) -> None:
    for _ in range(int(2 ** rng.uniform(0, 6))):
        if content:
            content[min(place(content, rng), len(content) - 1)] ^= 1 << int(rng.integers(8))


def set_field(content, rng, folder) -> None:
    for _ in range(int(rng.integers(1, 4))):
        at, n_bytes = place(content, rng), int(rng.choice([1, 2, 4, 8]))
        value = EXTREMES[rng.integers(len(EXTREMES))] & (256**n_bytes - 1)
        content[at : at + n_bytes] = value.to_bytes(n_bytes, ["big", "little"][rng.integers(2)])


def cut(content, rng, folder) -> None:
    del content[place(content, rng) :]


def overwrite(content, rng, folder) -> None:
    at, n = place(content, rng), int(2 ** rng.uniform(2, 11))
    content[at : at + n] = rng.bytes(len(content[at : at + n]))


def blank(content, rng, folder) -> None:
    at, n = place(content, rng), int(2 ** rng.uniform(2, 12))
    content[at : at + n] = bytes(len(content[at : at + n]))


def repeat(content, rng, folder) -> None:
    at, n = place(content, rng), int(2 ** rng.uniform(2, 12))
    to = place(content, rng)
    content[to:to] = content[at : at + n] * int(rng.integers(1, 4))


def splice(content, rng, folder) -> None:
    other = (folder / list(ORIGINALS)[rng.integers(len(ORIGINALS))]).read_bytes()
    del content[place(content, rng) :]
    content += other[place(other, rng) :]


def outcome_of(path: Path, options: dict) -> str:
    """ "clip", "UserError", or a finding."""
    try:
        clip = read_clip(path, **options)
    except UserError:
        return "UserError"
    except BaseException:
        return traceback.format_exc(limit=-3)
    n = options["sampler"].n if clip.has_video else 0
    fits = (
        len(clip.frames) == len(clip.frame_times_sec) == n
        and np.isfinite(clip.frame_times_sec).all()
        and np.isfinite(clip.audio).all()
        and 0 < clip.duration_sec < np.inf
        and clip.has_audio == (len(clip.audio) > 0)
        and (clip.n_source_frames > 0) == clip.has_video == (clip.fps > 0)
    )
    return "clip" if fits else f"a clip whose parts do not fit: {clip}"


def call_here(function: str, *args, patience_sec: float, max_bytes: int, **callbacks):
    """In place of `child.call`."""
    module, _, name = function.partition(":")
    return getattr(import_module(module), name)(*args, **callbacks)


def read_in_turn(folder: Path) -> None:
    """Answer each "seed index" line with the outcome in JSON. The clip is read in this process, not in a child of it."""
    import resource

    def peak_bytes() -> int:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)

    child.call = call_here
    with tempfile.TemporaryDirectory(dir=folder) as own:
        for line in sys.stdin:
            name, content, options = damaged(folder, *map(int, line.split()))
            path = Path(own, name)
            path.write_bytes(content)
            before = peak_bytes()
            outcome = outcome_of(path, options)
            if peak_bytes() - before > MAX_BYTES:
                outcome = f"memory: {(peak_bytes() - before) / 1e9:.1f} GB"
            path.unlink()
            print(json.dumps(outcome), flush=True)


def read_all(folder: Path, todo: queue.SimpleQueue, outcomes: list) -> None:
    """Take files from `todo` until it is empty, in one child process after another."""
    process = None
    while True:
        try:
            seed, index = todo.get_nowait()
        except queue.Empty:
            break
        if process is None:
            command = [sys.executable, __file__, "--child", str(folder)]
            errors = tempfile.TemporaryFile()
            process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True)
        watch = threading.Timer(MAX_SEC, process.kill)
        watch.start()
        began = time.monotonic()
        print(seed, index, file=process.stdin, flush=True)
        answer = process.stdout.readline()
        sec = time.monotonic() - began
        watch.cancel()
        if answer:
            outcome = json.loads(answer)
        else:
            errors.seek(max(0, errors.seek(0, os.SEEK_END) - 500))
            code, words = process.wait(), errors.read().decode(errors="replace")
            outcome = f"hangs for {MAX_SEC:.0f} s" if sec >= MAX_SEC else f"the process dies, exit code {code}: {words}"
        outcomes.append((seed, index, outcome, sec))
        if not answer or outcome.startswith("memory"):
            process.kill()
            process = None
    if process is not None:
        process.stdin.close()
        process.wait()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3])
    parser.add_argument("--files", type=int, default=500, help="per seed")
    parser.add_argument("--only", metavar="SEED:INDEX", nargs="+", help="write these files into the current folder and read them")
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    settings = parser.parse_args()
    if settings.child:
        read_in_turn(settings.child)
        return 0
    todo, outcomes = queue.SimpleQueue(), []
    names = [tuple(map(int, name.split(":"))) for name in settings.only or ()]
    for name in names or [(seed, index) for seed in settings.seeds for index in range(settings.files)]:
        todo.put(name)
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        for name, codecs in ORIGINALS.items():
            make_original(folder / name, *codecs)
        for seed, index in names:
            Path(damaged(folder, seed, index)[0]).write_bytes(damaged(folder, seed, index)[1])
        readers = [threading.Thread(target=read_all, args=(folder, todo, outcomes)) for _ in range(os.cpu_count() or 1)]
        for reader in readers:
            reader.start()
        for reader in readers:
            reader.join()
        findings = sorted(o for o in outcomes if o[2] not in ("clip", "UserError"))
        for seed, index, outcome, sec in findings:
            print(f"{seed}:{index} {damaged(folder, seed, index)[0]} ({sec:.1f} s)\n    {outcome.strip()}\n")
    counts = collections.Counter(o[2] if o[2] in ("clip", "UserError") else "finding" for o in outcomes)
    slowest = max(outcomes, key=lambda o: o[3])
    print(f"{len(outcomes)} files: {dict(counts)}; slowest {slowest[3]:.1f} s ({slowest[0]}:{slowest[1]})")
    return int(bool(findings))


if __name__ == "__main__":
    sys.exit(main())
