"""Arrays -> mp4 file. Oracle: the arrays, read back."""

import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import pytest
from footage import LEVEL, assert_is_the_tone, number_in, painted, tone

from fastav.clip.read import read_clip
from fastav.clip.write import write_clip


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


def test_importing_is_light():
    heavy = "{'torch', 'av', 'moviepy', 'soundfile', 'scipy'}"
    code = f"import sys, fastav.clip.read, fastav.clip.write; print(sorted({heavy} & set(sys.modules)))"
    root = Path(__file__).resolve().parents[1]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
