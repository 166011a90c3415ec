"""Clip from arrays, and samplers. Oracles: the arrays themselves; arithmetic by hand."""

import numpy as np
import pytest
from footage import number_in, painted, tone

from fastav.clip.clip import clip_from_arrays
from fastav.clip.sampling import chosen, uniform
from fastav.clip.write import write_clip
from fastav.errors import UserError


def test_uniform_takes_the_middles_of_equal_parts():
    assert uniform(8)(40, 25, 1.6) == [2, 7, 12, 17, 22, 27, 32, 37]
    assert uniform(8)(16, 25, 0.64) == [1, 3, 5, 7, 9, 11, 13, 15]  # a middle between two frames: the later
    assert uniform(4)(2, 25, 0.08) == [0, 0, 1, 1]
    assert uniform(1)(1, 25, 0.04) == [0]
    with pytest.raises(ValueError, match="at least 1, got 0"):
        uniform(0)


def test_a_frame_is_shown_from_its_own_time_on():
    """By hand: four parts of 8 s have their middles at 1, 3, 5 and 7 s; the second frame begins at 1 s."""
    assert chosen(uniform(4), np.array([0.0, 1.0, 1.2, 6.0]), 8.0).tolist() == [1, 2, 2, 3]


def test_samplers_that_choose_alike_are_equal():
    """A clip that was read for one is as it is for the other, and refused to a third."""
    clip = clip_from_arrays(np.stack([painted(i) for i in range(8)]), 8, None).sampled(uniform(4))
    assert [number_in(frame) for frame in clip.frames] == [1, 3, 5, 7]
    np.testing.assert_array_equal(clip.frame_times_sec, np.array([1, 3, 5, 7]) / 8)
    assert clip.sampled(uniform(4)) is clip
    with pytest.raises(UserError, match="its frames were chosen by .*, and this model takes those of"):
        clip.sampled(uniform(2))


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


@pytest.mark.parametrize("rate", [0, -1, float("nan"), float("inf")])
def test_a_rate_that_is_none_is_refused(rate):
    frames, sound = np.zeros((2, 4, 4, 3), np.uint8), np.zeros(4, np.float32)
    with pytest.raises(ValueError, match="fps must be a number above 0, got"):
        clip_from_arrays(frames, rate, sound)
    with pytest.raises(ValueError, match="rate must be a number above 0, got"):
        clip_from_arrays(frames, 2, sound, rate=rate)
