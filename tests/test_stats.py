"""Intervals where questions of one clip go together. Oracles: a bootstrap over clips, the plain interval, counting."""

import numpy as np
import pytest

from fastav import stats


def answers(n_clips, per_clip, same, seed=0):
    """Right or wrong and clip of each question; a share `same` of the clips have all their questions answered alike."""
    rng = np.random.default_rng(seed)
    right, clips = [], []
    for clip in range(n_clips):
        chance = (rng.random() < 0.7) if rng.random() < same else 0.7
        right += (rng.random(per_clip) < chance).tolist()
        clips += [clip] * per_clip
    return right, clips


def bootstrap(values, clips, n=4000):
    """95 % of the mean when clips are drawn with replacement, each with all of its questions."""
    rng = np.random.default_rng(1)
    sums, sizes = (np.bincount(clips, weights) for weights in (values, np.ones(len(values))))
    drawn = rng.integers(0, len(sums), (n, len(sums)))
    return np.percentile(sums[drawn].sum(1) / sizes[drawn].sum(1), (2.5, 97.5))


@pytest.mark.parametrize("same", [0.0, 0.5, 1.0])
def test_a_share_is_as_uncertain_as_a_bootstrap_over_clips_says(same):
    right, clips = answers(250, 5, same)
    low, high = stats.clustered_wilson(right, clips)
    expected = np.subtract(*bootstrap(right, clips)[::-1])
    assert high - low == pytest.approx(expected, rel=0.12)
    plain = np.subtract(*stats.wilson(sum(right), len(right))[::-1])
    assert high - low >= plain * (1.0 if same == 0 else 1.3 if same == 0.5 else 2.0)


def test_clips_of_different_sizes_count_by_their_questions():
    right, clips = answers(300, 6, 1.0)
    kept = [i for i, clip in enumerate(clips) if i % 6 <= clip % 6]  # 1 to 6 questions each
    right, clips = [right[i] for i in kept], [clips[i] for i in kept]
    low, high = stats.clustered_wilson(right, clips)
    assert high - low == pytest.approx(np.subtract(*bootstrap(right, clips)[::-1]), rel=0.12)


def test_one_question_for_each_clip_gives_wilsons_interval():
    right, _ = answers(80, 1, 0.0)
    assert stats.clustered_wilson(right, range(80)) == stats.wilson(sum(right), 80)
    assert stats.clustered_wilson([], []) == (0.0, 1.0)


def test_questions_that_go_together_are_worth_as_many_as_there_are_clips():
    """Four copies of each answer: a design effect of 4, for a share and for a difference."""
    right, other = [1, 0, 1, 1, 0, 1], [1, 1, 0, 1, 0, 0]
    copies = [value for value in right for _ in range(4)]
    clips = [clip for clip in range(6) for _ in range(4)]
    assert stats.design_effect(copies, clips) == pytest.approx(4)
    assert stats.clustered_wilson(copies, clips) == pytest.approx(stats.wilson(4, 6))
    both = stats.paired(copies, [value for value in other for _ in range(4)], clips)
    alone = stats.paired(right, other, range(6))
    assert both.design_effect == pytest.approx(4) and alone.design_effect == 1
    assert (both.low, both.high) == pytest.approx((alone.low, alone.high))


def test_answers_that_balance_within_a_clip_never_narrow_an_interval():
    right, clips = [1, 0] * 20, [clip for clip in range(20) for _ in range(2)]
    assert stats.design_effect(right, clips) == 1
    assert stats.clustered_wilson(right, clips) == stats.wilson(20, 40)
