"""OmniZip. Oracles: recordings of the reference code, arithmetic by hand, double loops in numpy, the masked run."""

from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import prompt, random_qwen2
from parity import Report
from parity_methods import compare
from test_scores import both, same
from test_seats import INTERLEAVED, QWEN_OMNI, VIDEOLLAMA2
from transformers import Qwen2Config

from fastav.flops import paper_flops
from fastav.layout import AUDIO, VIDEO, TokenLayout
from fastav.methods import lengths, parse
from fastav.methods.cut import BEFORE
from fastav.methods.omnizip import OmniZip, averaged, peaks, rates
from fastav.methods.windows import windows

GOLDEN = Path(__file__).resolve().parent / "golden" / "methods"


def test_the_reference_codes_choices():
    compare(GOLDEN, report := Report(quiet=True), ["omnizip"])
    assert report.failures == [] and len(report.lines) == 4 * 7


def test_rates_by_hand():
    """b = .75 - .4 S. Two windows: no more. Three of 10 at S 1, .5, 0: .35, .55, .75; 18 of 30 are to leave, so the middle one is
    scaled to 18 - 11 = 7 of 10. For 20 it would be .9: .75 and no more. Sizes count: 40 in the middle and 33 to leave, 22 / 40.
    """
    assert rates([1, 0], [10, 10], 3) == pytest.approx([0.35, 0.75])
    assert rates([1, 0.5, 0], [10, 10, 10], 18) == pytest.approx([0.35, 0.7, 0.75])
    assert rates([1, 0.5, 0], [10, 10, 10], 20) == pytest.approx([0.35, 0.75, 0.75])
    assert rates([1, 0.5, 0], [10, 40, 10], 33) == pytest.approx([0.35, 0.55, 0.75])
    # .35 .43 .67 .75 are 15.3 of 10, 10, 10, 10 less the .35 and .75: 13.9 more scale .43 and .67 by 13.9 / 11 to .543 and .847;
    # .75 and no more, so .543 gets the lack of .97 / 20 as its share of both.
    first, second = 0.43 * 13.9 / 11, 0.75
    want = [0.35, first + (13.9 - 10 * first - 10 * second) / 20, 0.75, 0.75]
    assert rates([1, 0.8, 0.2, 0], [10, 10, 10, 10], 13.9 + 11) == pytest.approx(want)


def test_audio_that_counts_the_same_stays_at_equal_distances_and_some_of_the_rest_as_anchors():
    """Of 20, 14 stay: floor((i + 1/2) 20 / 14). Of the other 6 one anchor, the first."""
    layout = TokenLayout.of(("text", 2), ("video", 8, 2), ("audio", 20), ("text", 1))
    chosen = parse("omnizip").choose(layout, windows(layout))
    dominant = [10 + (2 * i + 1) * 20 // 28 for i in range(14)]
    others = sorted({*range(10, 30)} - {*dominant})
    assert chosen.anchors.tolist() == others[:1] and chosen.pool.tolist() == others[1:]
    assert np.flatnonzero(chosen.known).tolist() == sorted(dominant + others[:1])


def test_the_most_attended_audio_stays_where_attention_is_known_of_equals_the_first():
    layout = TokenLayout.of(("text", 2), ("video", 8, 2), ("audio", 20), ("text", 1))
    importance = np.zeros(31, np.float32)
    importance[20:30] = 1
    chosen = parse("omnizip:merge=0").choose(layout.with_facts(importance_in_clip=importance), windows(layout))
    assert np.flatnonzero(chosen.known).tolist() == [*range(10, 14), *range(20, 30)]
    assert chosen.anchors.tolist() == [] and chosen.pool.tolist() == [*range(14, 20)]


def test_frames_by_hand():
    """Runs of 7, 2 and 4 tokens; time steps of 4, 5 and 4, so a frame is 4: one in the first run, whose last three leave, none in
    the second, which stays, one in the third.
    """
    sound = ("audio", 40)
    layout = TokenLayout.of(("video", 7, 1), sound, ("video", 2, 1), sound, ("video", 4, 1), sound, ("text", 1))
    layout.step[layout.kind == VIDEO] = [0] * 4 + [1] * 3 + [1] * 2 + [2] * 4
    chosen = parse("omnizip").choose(layout, windows(layout))
    assert chosen.frames.tolist() == [[0, 1, 2, 3], [89, 90, 91, 92]] and chosen.times.tolist() == [0, 0]
    assert np.flatnonzero(chosen.known & (layout.kind == VIDEO)).tolist() == [47, 48]


def test_lengths_by_hand():
    """VideoLLaMA2, four windows of 374 sounds and 169 patches: 1047 dominant and 75 anchors, of which 285, 283, 285 and 269 lie
    in each, since anchors 5 apart leave out the last 74 others. So b = .445, .447, .445, .462; first smallest and first largest
    stay, the other two are scaled to .748 and .744: floor(169 (1 - b)) = 93, 42, 43, 90. FastAV-tiny, eight of 25 and 16: S is
    .76 or, in the third and seventh, .72.
    """
    n = 34 + 1047 + 75 + 93 + 42 + 43 + 90
    assert lengths(parse("omnizip"), VIDEOLLAMA2, 28) == [n] * 28
    tiny = TokenLayout.of(("text", 3), ("video", 128, 8), ("audio", 200), ("text", 9))
    assert lengths(parse("omnizip"), tiny, 8) == [12 + 140 + 10 + 2 * 8 + 6 * 5] * 8


@pytest.mark.parametrize(
    ("layout", "n", "published", "apart"),
    [(VIDEOLLAMA2, (676, 1496, 34), (62.9, 52.9), 2.4), (QWEN_OMNI, (8640, 1500, 80), (38.6, 29.2), 0.4)],
    ids=["VideoLLaMA2", "Qwen2.5-Omni"],
)
def test_flops_are_the_published_ones_but_for_whole_tokens_and_two_windows(layout, n, published, apart):
    """The published figures come of 1 - rho_v of the video. The rule rounds down in each frame, and the windows of the smallest
    and the largest b keep theirs: two of VideoLLaMA2's four, which then cannot reach .7.
    """
    config = Qwen2Config(hidden_size=3584, intermediate_size=18944)
    for (audio, video), want in zip(((0.7, 0.4), (0.6, 0.3)), published, strict=True):
        whole = n[2] + video * n[0] + (audio + 0.05) * n[1]
        got = lengths(parse(f"omnizip:keep_audio={audio},keep_video={video}"), layout, 28)
        percent = [100 * paper_flops(each, config) / paper_flops([sum(n)] * 28, config) for each in ([whole] * 28, got)]
        assert abs(percent[0] - want) <= 0.1
        assert abs(percent[1] - percent[0]) <= apart


def test_density_peaks_equal_the_slow_rule():
    rng = np.random.default_rng(2)
    features = rng.standard_normal((3, 11, 4))
    unit = features / np.linalg.norm(features, axis=-1, keepdims=True)
    got = peaks(torch.from_numpy(unit))
    for frame in range(3):
        distance = 1 - unit[frame] @ unit[frame].T
        rho = [np.exp(-np.mean(sorted(distance[i][j] for j in range(11) if j != i)[:5])) for i in range(11)]
        for i in range(11):
            higher = [distance[i][j] for j in range(11) if rho[j] > rho[i]]
            assert got[frame, i].item() == pytest.approx(rho[i] * (min(higher) if higher else distance.max()))
    assert peaks(torch.ones(2, 1, 3)).isfinite().all()


def test_merging_equals_the_slow_rule():
    """3 anchors, 8 of a pool, 2 into each; the third anchor has none and stays as it is."""
    rng = np.random.default_rng(4)
    features = rng.standard_normal((20, 5))
    features[:11, 0] = [3, 3, -9, *[3] * 8]
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    near = unit[3:11] @ unit[:3].T
    want = features[:3].copy()
    assert (near.argmax(1) < 2).all()
    relevance = (unit[3:11] @ unit[11:].T).max(1)
    for anchor in range(2):
        own = sorted((i for i in range(8) if near[i].argmax() == anchor), key=lambda i: -relevance[i])[:2]
        weights = np.exp(relevance[own]) / np.exp(relevance[own]).sum()
        want[anchor] = (features[anchor] + sum(w * features[3 + i] for w, i in zip(weights, own, strict=True))) / 2
    index = [torch.arange(*each) for each in ((0, 3), (3, 11), (11, 20))]
    got = averaged(torch.from_numpy(features), torch.from_numpy(unit), *index, 2)
    assert np.allclose(got, want, rtol=0, atol=1e-12)


def test_merged_rows_enter_the_decoder():
    """Oracle: the masked run on the rows that the method gives; the anchors' differ from the embeddings, no others do."""
    model, method = random_qwen2(), parse("omnizip:keep_audio=0.5")
    same(*both(model, INTERLEAVED, method, ids := prompt(model, len(INTERLEAVED))))
    embeds = model.get_input_embeddings()(ids)[0]
    (cut,) = method.cuts(INTERLEAVED, 6)[BEFORE]
    values, rows = cut.score.compute(INTERLEAVED, embeds)
    changed = (rows != embeds).any(1)
    assert 0 < changed.sum() <= round(0.05 * 34) and (INTERLEAVED.kind[changed] == AUDIO).all() and (values[changed] == 1).all()


def test_every_second_frame_keeps_what_differs_from_the_frame_before():
    """Frame 1 repeats frame 0 but for its first two tokens."""
    layout = TokenLayout.of(("text", 1), ("video", 16, 2), ("audio", 20), ("text", 1))
    features = torch.randn(38, 6, generator=torch.Generator().manual_seed(1))
    features[9:17] = features[1:9]
    features[9:11] *= -1
    values, _ = OmniZip(keep_audio=1, merge=0).choose(layout, windows(layout)).compute(layout, features)
    kept = np.flatnonzero(values[1:17])
    assert {8, 9} <= {*kept.tolist()} and (kept < 8).sum() == (kept >= 8).sum() == int(8 * 0.65)


def test_without_both_streams_nothing_is_pruned_and_padding_leaves_with_the_first_cut():
    for kind in ("video", "audio"):
        assert parse("omnizip").cuts(TokenLayout.of(("text", 3), (kind, 30), ("text", 3)), 28) == {}
    assert parse("omnizip").cuts(TokenLayout.of(("text", 3), ("audio", 30), ("video", 1)), 28) == {}
    padded = TokenLayout.of(("pad", 4), ("text", 5), ("video", 24, 4), ("audio", 30), ("text", 7))
    assert padded.count()["pad"] == parse("omnizip").cuts(padded, 28)[BEFORE][1].n_removed == 4
    assert (padded.kind == VIDEO).sum() == 24
