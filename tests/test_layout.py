"""TokenLayout against counts by hand, and layout_of against what a processor's grids say."""

import numpy as np
import pytest
import torch

from fastav.errors import UserError
from fastav.layout import AUDIO, PAD, VIDEO, TokenLayout, first_audio, first_positions, first_steps, layout_of


def test_sequential_layout_counts_positions_by_hand():
    layout = TokenLayout.of(("text", 14), ("video", 676, 4), ("audio", 1496, 800), ("text", 20))
    assert len(layout) == 2206
    assert layout.count() == {"text": 34, "video": 676, "audio": 1496}
    assert layout.step[14] == 0 and layout.step[14 + 169] == 1 and layout.step[690] == -1
    assert layout.audio_index[690] == 0 and layout.audio_index[2185] == 1495
    assert layout.audio_padding.sum() == 696 and not layout.audio_padding[690 + 799] and layout.audio_padding[690 + 800]
    assert layout.media_offset[14] == 0 and layout.media_offset[2185] == 2171 and layout.media_offset[0] == -1
    assert not layout.single_stream and not layout.interleaved


def test_rules_by_position_keep_what_the_paper_says():
    """VideoLLaMA2: all video + 10 audio tokens = original positions [14, 700). In general: positions below 750."""
    layout = TokenLayout.of(("text", 14), ("video", 676, 4), ("audio", 1496), ("text", 20))
    assert np.flatnonzero(first_audio(layout, 10)).tolist() == list(range(14, 700))
    assert np.flatnonzero(first_positions(layout, 750)).tolist() == list(range(14, 750))


def test_interleaved_layout_gives_audio_to_the_frame_before_it():
    """video-SALMONN 2 at 10 s: 10 frames of 182 + 6 tokens; frame 4 ends at position 766."""
    layout = TokenLayout.of(("text", 14), *(s for _ in range(10) for s in (("video", 182, 1), ("audio", 6))), ("text", 16))
    assert len(layout) == 1910 and layout.interleaved
    kept = np.flatnonzero(first_steps(layout, 4))
    assert kept.tolist() == list(range(14, 766))
    assert layout.media_offset[14 + 182] == 0 and layout.media_offset[14 + 188] == 1


def test_runs_rebuild_the_layout():
    layout = TokenLayout.of(("text", 2), ("video", 6, 3), ("audio", 4), ("text", 1))
    assert layout.runs() == [
        ["text", -1, 2],
        ["video", 0, 2],
        ["video", 1, 2],
        ["video", 2, 2],
        ["audio", -1, 4],
        ["text", -1, 1],
    ]


def test_seconds_and_the_question_by_hand():
    """Padding has no second, nor has text; the question is text of its own."""
    layout = TokenLayout.of(("text", 1), ("video", 4, 2), ("audio", 3, 2), ("question", 2), ("text", 1))
    assert layout.question.tolist() == [False] * 8 + [True, True, False]
    assert layout.count() == {"text": 4, "video": 4, "audio": 3}
    nan = np.nan
    timed = layout.timed([0.5, 1.5], [0.1, 0.2, 0.3])
    np.testing.assert_allclose(timed.time_sec, [nan, 0.5, 0.5, 1.5, 1.5, 0.1, 0.2, nan, nan, nan, nan], rtol=1e-6)
    np.testing.assert_array_equal(layout.timed([0.5, 1.5]).time_sec[5:], [nan] * 6)


def test_bad_segments_are_named():
    with pytest.raises(UserError, match="unknown token kind 'image'"):
        TokenLayout.of(("image", 3))
    with pytest.raises(UserError, match="7 video tokens do not divide into 2 time steps"):
        TokenLayout.of(("video", 7, 2))


class Config:
    video_token_id, audio_token_id = 7, 8
    vision_config = type("Vision", (), {"spatial_merge_size": 2})()


def test_layout_of_reads_ids_pads_and_grids():
    ids = torch.tensor([[0, 1, 7, 7, 8, 7, 7, 8, 2]])
    mask = torch.tensor([[0, 1, 1, 1, 1, 1, 1, 1, 1]])
    layout = layout_of({"input_ids": ids, "attention_mask": mask, "video_grid_thw": torch.tensor([[2, 2, 4]])}, Config)
    assert layout.kind.tolist() == [PAD, 0, VIDEO, VIDEO, AUDIO, VIDEO, VIDEO, AUDIO, 0]
    assert layout.step.tolist() == [-1, -1, 0, 0, 0, 1, 1, 1, -1]
    assert layout.audio_index.tolist() == [-1, -1, -1, -1, 0, -1, -1, 1, -1]


def test_layout_of_refuses_what_it_cannot_describe():
    ids = torch.tensor([[7, 1], [1, 7]])
    with pytest.raises(UserError, match="different layouts"):
        layout_of({"input_ids": ids}, Config)
    with pytest.raises(UserError, match="names no media token id"):
        layout_of({"input_ids": ids}, object())
    with pytest.raises(UserError, match="padding_side"):
        layout_of({"input_ids": ids[:1], "attention_mask": torch.tensor([[1, 0]])}, Config)
