"""The 1-hour test: `python tests/slow_media.py` (run by `make slow`, not by pytest).

Builds a 1-hour 1080p30 H.264 + 48 kHz stereo AAC mp4 by repeating the packets of an 8-second one (2.6 GB in a
temporary folder, deleted afterwards), reads 8 frames and the sound of it, and checks: at most 400 MB more
memory, that of the reading child included, at most 30 s, the right frames at the right times, the right sound.
"""

import multiprocessing
import resource
import sys
import tempfile
import time
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import soundfile

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from fastav.clip.read import read_clip  # noqa: E402  (needs the line above)

PIECE_SEC, REPEATS, FPS, RATE = 8, 450, 30, 48_000
MAX_ADDED_BYTES, MAX_SEC = 400e6, 30.0


def write_piece(path: Path) -> None:
    """8 s of 1080p: noise of about 5.5 Mbit/s, a bar that grows with the frame number, a 440 Hz tone."""
    rng = np.random.default_rng(0)
    with av.open(str(path), "w") as out:
        video = out.add_stream("libx264", rate=FPS, options={"preset": "veryfast", "g": "250"})
        video.width, video.height, video.pix_fmt, video.bit_rate = 1920, 1080, "yuv420p", 5_500_000
        audio = out.add_stream("aac", rate=RATE, layout="stereo")
        for i in range(PIECE_SEC * FPS):
            picture = rng.integers(0, 256, (27, 48, 3), np.uint8).repeat(40, 0).repeat(40, 1)
            picture[:200] = 0
            picture[:200, : 6 * i] = 255
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = i, Fraction(1, FPS)
            out.mux(video.encode(frame))
        out.mux(video.encode(None))
        tone = 0.5 * np.sin(2 * np.pi * 440 * np.arange(PIECE_SEC * RATE) / RATE)
        sound = av.AudioFrame.from_ndarray(np.stack([tone, tone]).astype(np.float32), "fltp", "stereo")
        sound.rate, sound.pts = RATE, 0
        for frame in av.AudioResampler("fltp", "stereo", RATE, frame_size=1024).resample(sound):
            out.mux(audio.encode(frame))
        out.mux(audio.encode(None))


def repeat_packets(piece: Path, hour: Path) -> None:
    with av.open(str(piece)) as source:
        packets = [
            (p.stream.type, bytes(p), p.pts, p.dts, p.is_keyframe)
            for p in source.demux()
            if p.pts is not None and 0 <= p.pts * p.time_base < PIECE_SEC  # else pieces would overlap
        ]
        with av.open(str(hour), "w") as out:
            streams = {s.type: (s, out.add_stream_from_template(s)) for s in source.streams}
            for turn in range(REPEATS):
                for kind, data, pts, dts, is_keyframe in packets:
                    old, new = streams[kind]
                    packet = av.Packet(data)
                    shift = round(turn * PIECE_SEC / old.time_base)
                    packet.pts, packet.dts = pts + shift, dts + shift
                    packet.time_base, packet.stream, packet.is_keyframe = old.time_base, new, is_keyframe
                    out.mux(packet)


def build(hour: Path) -> None:
    piece = hour.with_name("piece.mp4")
    write_piece(piece)
    repeat_packets(piece, hour)


def peak_bytes() -> int:
    """Of this process and of its largest child, added."""
    peak = sum(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return peak if sys.platform == "darwin" else peak * 1024


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        hour = Path(folder, "hour.mp4")
        for step in (build, read):  # each in a process of its own: peaks of memory are to be the reading's
            process = multiprocessing.get_context("spawn").Process(target=step, args=(hour,))
            process.start()
            process.join()
            assert process.exitcode == 0


def read(hour: Path) -> None:
    n_bytes = hour.stat().st_size
    second = hour.with_name("second.wav")
    soundfile.write(second, np.zeros(16_000), 16_000)
    read_clip(second)  # the peaks before have the libraries in them, that of the child, too
    before, start = peak_bytes(), time.perf_counter()
    clip = read_clip(hour)
    sec, added_bytes = time.perf_counter() - start, peak_bytes() - before
    print(f"{n_bytes / 1e9:.2f} GB, 1 h: {sec:.1f} s, {added_bytes / 1e6:.0f} MB added")

    wanted = [(2 * i + 1) * REPEATS * PIECE_SEC * FPS // 16 for i in range(8)]
    shown = [round((frame[100, :, 0] > 128).sum() / 6) for frame in clip.frames]  # the bar grows by 6 a frame
    assert shown == [i % (PIECE_SEC * FPS) for i in wanted], shown
    np.testing.assert_allclose(clip.frame_times_sec, np.array(wanted) / FPS, atol=1e-3)
    assert abs(len(clip.audio) / 16_000 - REPEATS * PIECE_SEC) < 2, len(clip.audio)
    second = clip.audio[1_800 * 16_000 :][:16_000]
    assert np.argmax(np.abs(np.fft.rfft(second))) == 440
    assert clip.notes == (), clip.notes
    assert added_bytes <= MAX_ADDED_BYTES, f"{added_bytes / 1e6:.0f} MB"
    assert sec <= MAX_SEC, f"{sec:.1f} s"


if __name__ == "__main__":
    main()
