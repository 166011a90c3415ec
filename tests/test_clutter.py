"""Clutter of the tiny world. Oracle: arithmetic by hand (means, boxes, RMS, Parseval) on what the seeds give."""

import numpy as np
import pytest

from fastav.tiny import clutter
from fastav.tiny.drawing import RGB
from fastav.tiny.world import N_FRAMES, SIDE

TIMES = (np.arange(N_FRAMES) + 0.5) / N_FRAMES
SEEDS = range(50)


def generator(seed):
    return np.random.default_rng(seed)


def painted(seed, value):
    frames = np.full((N_FRAMES, SIDE, SIDE, 3), value, np.float32)
    clutter.distractors(generator(seed), frames, TIMES)
    return frames


def test_background_is_muted_and_still_or_moving():
    moving = 0
    for seed in SEEDS:
        frames = clutter.background(generator(seed), TIMES)
        assert frames.shape == (N_FRAMES, SIDE, SIDE, 3) and frames.dtype == np.float32
        assert 2 < frames.std((1, 2)).mean() < 40
        assert np.ptp(frames, -1).max() < 100 < np.ptp(RGB[:5], -1).min()
        assert min(np.abs(frames - color).max(-1).min() for color in RGB) > 25
        moving += not np.array_equal(frames[0], frames[-1])
    assert 0.4 < moving / len(SEEDS) < 0.8


@pytest.mark.parametrize("pattern", [clutter._texture, clutter._stripes, clutter._checks])
def test_a_pattern_scrolls_by_the_pixels_given(pattern):
    scroll = np.array([[0, 0], [5, -9]], np.float32)
    still, moved = pattern(generator(1), scroll)
    np.testing.assert_allclose(moved[:-9, 5:], still[9:, :-5], atol=2e-3)
    assert np.abs(moved - still).max() > 0.1


def test_distractors_are_small_or_thin_and_in_the_colors_of_objects():
    """On black, the hardest pixel of a lone distractor is its color; the box and the area are those of a blob or a bar."""
    alone, partly = 0, 0
    for seed in range(300):
        if generator(seed).integers(6) != 1:
            continue
        frames, drawn = painted(seed, 0), painted(seed, 128) != 128
        present = [f for f in range(N_FRAMES) if frames[f].any()]
        partly += 0 < len(present) < N_FRAMES
        for f in present:
            y, x = np.nonzero(drawn[f].any(-1))
            long, area = np.hypot(np.ptp(y) + 1, np.ptp(x) + 1), len(y)
            assert long <= 64 and (area <= 220 or area <= 6.5 * (long + 2)), seed
        whole = frames.reshape(-1, 3).max(0)
        alone += np.abs(RGB - whole).max(-1).min() < 1e-3
    assert alone > 25 and partly > 5


def test_there_are_zero_to_five_distractors_and_nothing_else_is_touched():
    untouched = [np.array_equal(painted(seed, 100), np.full_like(painted(seed, 100), 100)) for seed in SEEDS]
    assert 0 < sum(untouched) < 25
    assert all(painted(seed, 100).min() >= 0 and painted(seed, 100).max() <= 245 + 1e-3 for seed in SEEDS)


def test_shifts_undo_the_jitter_exactly_without_noise():
    frames = generator(0).uniform(0, 255, (N_FRAMES, SIDE, SIDE, 3)).astype(np.float32)
    shifts = generator(1).integers(-3, 4, (N_FRAMES, 2))
    shaken = clutter.shake(frames, shifts)
    for f, (x, y) in enumerate(shifts):
        back = np.roll(shaken[f], (-y, -x), (0, 1))
        assert np.array_equal(back[3:-3, 3:-3], frames[f, 3:-3, 3:-3])


def test_camera_is_its_shift_a_gain_an_offset_and_noise():
    """A straight line fitted per frame at the shift given: its slope is the contrast, its residual the noise."""
    for seed in SEEDS:
        frames = generator(seed).uniform(0, 255, (N_FRAMES, SIDE, SIDE, 3)).astype(np.float32)
        before = frames.copy()
        seen, shifts = clutter.camera(generator(seed), frames)
        assert np.array_equal(frames, before) and seen.dtype == np.float32
        assert shifts.shape == (N_FRAMES, 2) and shifts.dtype.kind == "i" and np.abs(shifts).max() <= 3
        contrasts = []
        for f, (x, y) in enumerate(shifts):
            was, now = frames[f, 3:-3, 3:-3].ravel(), seen[f, 3 + y : SIDE - 3 + y, 3 + x : SIDE - 3 + x].ravel()
            slope, offset = np.polyfit(was, now, 1)
            assert 0.72 < slope < 1.23 and 3.8 < np.std(now - slope * was - offset) < 14.3
            assert abs(slope * frames.mean() + offset - frames.mean()) < 28
            contrasts.append(slope)
        assert np.ptp(contrasts) < 0.05


def test_hum_is_below_the_sounds():
    """By Parseval: all power below 600 Hz is hum's but for a little hiss, and its strongest line is the fundamental."""
    n = 4 * 16_000
    for seed in SEEDS:
        wave = clutter.hum(generator(seed), n)
        assert wave.shape == (n,) and wave.dtype == np.float64
        assert 0.0044 < np.sqrt(np.mean(wave**2)) < 0.0150 and np.abs(wave).max() < 0.15
        power = 2 * np.abs(np.fft.rfft(wave) / n) ** 2  # every 0.25 Hz
        assert 0.0039 < np.sqrt(power[4 * 40 : 4 * 600].sum()) < 0.0125
        assert 0.0019 < np.sqrt(power[4 * 600 :].sum()) < 0.0075
        # a window, lest a fundamental between two lines of the transform look weaker than an overtone on one
        assert 44 < np.abs(np.fft.rfft(wave * np.hanning(n))).argmax() / 4 < 131


def test_the_mean_of_a_background_stays_in_its_range():
    means = [clutter.background(generator(seed), TIMES).mean() for seed in range(600)]
    assert 60 - 0.1 <= min(means) < 65 and 165 < max(means) <= 170 + 0.1


def test_clicks_are_few_short_low_and_decay():
    halves = np.zeros(2)
    for seed in SEEDS:
        wave = clutter.clicks(generator(seed), 64_000)
        assert 2 * 48 <= np.count_nonzero(wave) <= 13 * 160
        assert 0.02 <= np.abs(wave).max() <= 0.12  # two bursts may meet
        at = np.flatnonzero(wave)
        for burst in np.split(wave[at], np.flatnonzero(np.diff(at) > 1) + 1):
            halves += np.sum(burst[: len(burst) // 2] ** 2), np.sum(burst[len(burst) // 2 :] ** 2)
    assert halves[0] > 10 * halves[1]
    assert clutter.hum(generator(0), 20).shape == (20,)  # shorter than a click


def test_a_seed_gives_the_same_clutter():
    frames = clutter.background(generator(5), TIMES)
    assert np.array_equal(frames, clutter.background(generator(5), TIMES))
    assert np.array_equal(painted(5, 100), painted(5, 100))
    for a, b in zip(clutter.camera(generator(5), frames), clutter.camera(generator(5), frames), strict=True):
        assert np.array_equal(a, b)
    assert np.array_equal(clutter.hum(generator(5), 9000), clutter.hum(generator(5), 9000))
