"""The 1-hour test of issue-sized clips: `python tests/slow_media.py` (run by `make slow`, not by pytest).

Builds a 1-hour 1080p30 H.264 + 48 kHz stereo AAC mp4 by repeating the packets of a 10-second one (about 2.5 GB in
a temporary folder, deleted afterwards), reads 8 frames and the sound of it in a process of its own, and checks
against what the clip must hold: <= 400 MB added to the process, <= 30 s, the right frames, the right sound.
"""

import json
import multiprocessing
import resource
import sys
import tempfile
import time
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
pass

PIECE_SEC, REPEATS, FPS, RATE = 10, 360, 30, 48_000
MAX_ADDED_BYTES, MAX_SEC = 400e6, 30.0


def write_piece(path: Path) -> None:
    """10 s of 1080p: noise of about 5.5 Mbit/s, a bar that grows with the frame number, a 440 Hz tone."""
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
            if p.dts is not None
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
