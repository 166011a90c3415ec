"""Methods of other papers. Oracle: recordings of their reference code, arithmetic by hand, plain set rules.

What they do to a model is test_engine.py's matter, but for what left padding does.
"""

from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import greedy, holding, prompt, random_qwen2
from parity import Report
from parity_methods import METHODS as RECORDED
from parity_methods import compare, kept
from transformers import Qwen2Config

import fastav
from fastav.errors import UserError
from fastav.flops import paper_flops
from fastav.layout import VIDEO, TokenLayout
from fastav.methods import lengths, parse

GOLDEN = Path(__file__).resolve().parent / "golden" / "methods"
QWEN_7B = Qwen2Config(hidden_size=3584, intermediate_size=18944, num_hidden_layers=28)
LLAMA2 = TokenLayout.of(("text", 14), ("video", 676, 4), ("audio", 1496), ("text", 20))
# Qwen2.5-Omni, 60 s: 288 video tokens of one time step, then 50 audio tokens, for every 2 s.
OMNI = TokenLayout.of(("text", 60), *[("video", 288, 1), ("audio", 50)] * 30, ("text", 20))
TINY = TokenLayout.of(("text", 4), ("video", 128, 8), ("audio", 41), ("text", 9))


@pytest.mark.parametrize("name", RECORDED)
def test_a_method_keeps_what_the_reference_code_kept(name):
    compare(GOLDEN, report := Report(quiet=True), [name])
    assert report.n_sets == 1 and len(report.lines) > 1 and report.failures == []


# By hand: (method, lengths of LLAMA2 in 28 layers, of TINY in 8). 676 and 1496 media tokens in LLAMA2, 128 and 41 in TINY, beside
# 34 and 13 text tokens.
LENGTHS = [
    ("fastv", [2206] * 2 + [34 + 338 + 748] * 26, [182] * 2 + [13 + 64 + 20] * 6),  # 20.5 to 20
    ("fastv:start=3,audio=1,video=0.25", [2206] * 3 + [34 + 169 + 1496] * 25, [182] * 3 + [13 + 32 + 41] * 5),
    ("fastv:start=1,audio=0,video=0", [2206] + [34 + 2] * 27, [182] + [13 + 2] * 7),
    ("vtw", [2206] * 14 + [34] * 14, [182] * 4 + [13] * 4),
    ("vtw:start=7", [2206] * 7 + [34] * 21, [182] * 7 + [13]),
    # 2172: 1086, 543, 271.5; 169: 84.5, 42.25, 21.1
    ("pyramiddrop", [2206] * 7 + [1120] * 7 + [577] * 7 + [305] * 7, [182] * 2 + [97] * 2 + [55] * 2 + [34] * 2),
    ("evs", [34 + 202 + 1496] * 28, [13 + 38 + 41] * 8),  # 202.8 and 38.4
    ("evs:keep=0.1", [34 + 169 + 1496] * 28, [13 + 16 + 41] * 8),  # one of 4 steps; 12.8 are less than one of 8
    ("vidcom2", [34 + 169 + 1496] * 28, [13 + 32 + 41] * 8),
    ("vidcom2:keep=0.001", [34 + 4 + 1496] * 28, [13 + 8 + 41] * 8),  # one of each of 4 and 8 steps
    ("pyramiddrop:first=1,third=0.25", [2206] * 14 + [577] * 14, [182] * 4 + [55] * 4),
]


@pytest.mark.parametrize(("text", "in_28", "in_8"), LENGTHS)
def test_lengths_by_hand(text, in_28, in_8):
    assert lengths(parse(text, 28), LLAMA2, 28) == in_28
    assert lengths(parse(text, 8), TINY, 8) == in_8


# Percent of vanilla by 4 n d^2 + 2 n^2 d + 2 n d m in a 7B Qwen2 decoder: (method, of LLAMA2, of OMNI), computed elsewhere.
FLOPS = [
    ("fastv", 52.5, 47.4),
    ("fastv:video=0.25,audio=0.25", 30.0, 25.9),
    ("vtw", 50.7, 50.3),
    ("pyramiddrop", 46.6, 43.4),
    ("evs", 77.2, 34.0),
    ("vidcom2", 75.6, 30.1),
]


@pytest.mark.parametrize(("text", "of_llama2", "of_omni"), FLOPS)
def test_flops_by_the_papers_formula(text, of_llama2, of_omni):
    for layout, percent in ((LLAMA2, of_llama2), (OMNI, of_omni)):
        share = paper_flops(lengths(parse(text, 28), layout, 28), QWEN_7B) / paper_flops([len(layout)] * 28, QWEN_7B)
        assert round(100 * share, 1) == percent


@pytest.mark.parametrize("text", ["fastv", "fastv:start=1,weights=own", "vtw", "pyramiddrop", "evs:keep=0.5", "vidcom2:keep=0.4"])
def test_a_left_padded_row_answers_as_without_padding(layout, text):
    """Oracle: the same prompt alone. The padding leaves with the first cut."""
    model, method, pads = random_qwen2("sdpa"), parse(text), 3
    fastav.install(model)
    ids = prompt(model)
    alone = fastav.PrunedCache(model.config, layout, method)
    want, _ = greedy(model, input_ids=ids, **holding(model, alone))
    padded = TokenLayout.of(("pad", pads), ("text", 5), ("video", 24, 4), ("audio", 30), ("text", 7))
    cache = fastav.PrunedCache(model.config, padded, method)
    mask = torch.cat([torch.zeros(1, pads, dtype=torch.long), torch.ones_like(ids)], 1)
    ids = torch.cat([torch.zeros(1, pads, dtype=torch.long), ids], 1)
    got, _ = greedy(model, input_ids=ids, attention_mask=mask, **holding(model, cache))
    assert got == want
    for now, before in zip(cache.kept(), alone.kept(), strict=True):
        assert now == ([*range(pads)] if len(before) == 66 else []) + [position + pads for position in before]


# --- FastV


def test_fastv_leaves_text_and_the_last_token_and_takes_padding_along():
    """By hand: two cuts of one layer, one for each modality, then the padding."""
    layout = TokenLayout.of(("pad", 2), ("text", 3), ("video", 8, 2), ("audio", 5))
    ((layer, cuts),) = parse("fastv", 6).cuts(layout, 6).items()
    assert layer == 1 and [cut.n_removed for cut in cuts] == [4, 2, 2]
    assert [cut.candidates.nonzero()[0].tolist() for cut in cuts] == [[*range(5, 13)], [*range(13, 17)], [0, 1]]


def test_one_token_of_each_modality_stays_where_there_is_one():
    for segments, n_kept in ((("video", 8), 1), (("video", 1), 1), (("audio", 3), 1)):
        layout = TokenLayout.of(("text", 2), segments, ("text", 2))
        assert lengths(parse("fastv:video=0,audio=0"), layout, 6)[-1] == 4 + n_kept


# --- VTW


@pytest.mark.parametrize("start", [1, 3, 5])
def test_vtw_is_fastavs_global_pruning_without_audio_and_video(start):
    """Two roads to one rule, in a prompt that ends with a media token, which both keep."""
    layout = TokenLayout.of(("pad", 2), ("text", 4), ("video", 12, 2), ("audio", 5))
    ours, other = (parse(text, 6).cuts(layout, 6) for text in (f"vtw:start={start}", f"fastav:start={start},rule=none,p=0"))
    removed = [{cut.n_removed: cut.candidates.nonzero()[0].tolist() for cut in cuts[start - 1]} for cuts in (ours, other)]
    assert removed[0] == removed[1] == {16: [*range(6, 22)], 2: [0, 1]}
    assert list(ours) == list(other) == [start - 1]


def test_vtw_goes_without_text_alone():
    layout = TokenLayout.of(("pad", 2), ("text", 9))
    assert parse("vtw", 6).cuts(layout, 6) == parse("fastv", 6).cuts(layout, 6) == {}


# --- PyramidDrop


@pytest.mark.parametrize(
    ("n_layers", "expected"),
    [
        (32, [100] * 8 + [52] * 8 + [28] * 8 + [16] * 8),
        (6, [100, 100, 52, 28, 16, 16]),  # after 1.5, 3 and 4.5, half to even: 2, 3, 4
        (3, [100, 52, 16]),  # after 0.75, 1.5 and 2.25: 1, 2 and 2
        (2, [100, 28]),  # after 0.5, 1 and 1.5: 0, which is 1, 1 and 2, after which there is none
        (1, [100]),
    ],
)
def test_pyramiddrop_in_any_number_of_layers_by_hand(n_layers, expected):
    """96 media tokens beside 4 of text: 48, 24, 12."""
    layout = TokenLayout.of(("text", 2), ("video", 40, 4), ("audio", 56), ("text", 2))
    assert lengths(parse("pyramiddrop"), layout, n_layers) == expected


def test_pyramiddrop_takes_padding_along_once_and_refuses_shares_that_grow():
    layout = TokenLayout.of(("pad", 3), ("text", 3), ("video", 8, 2), ("text", 2))
    cuts = parse("pyramiddrop").cuts(layout, 8)
    assert {layer: [cut.n_removed for cut in stage] for layer, stage in cuts.items()} == {1: [4, 3], 3: [2], 5: [1]}
    with pytest.raises(UserError, match="must not grow, got first=0.2, second=0.25, third=0.125"):
        parse("pyramiddrop:first=0.2")


# --- EVS


def evs_keeps(segments, rows, keep, **facts):
    """Positions of video that stay; rows: an angle in degrees for each token."""
    layout = TokenLayout.of(*segments).with_facts(**facts)
    angle = torch.tensor(rows, dtype=torch.float64).deg2rad()
    left = kept(parse(f"evs:keep={keep}"), layout, torch.stack([angle.cos(), angle.sin()], -1))
    return [position for position in left if layout.kind[position] == VIDEO]


def test_evs_keeps_the_first_step_and_what_turned_most():
    """By hand. Steps of 3, audio between them: the second turns by 10, 0 and 90 degrees, the third by 20, 60 and 0."""
    segments = [("text", 1), ("video", 3, 1), ("audio", 1), ("video", 3, 1), ("audio", 1), ("video", 3, 1), ("text", 1)]
    rows = [0, *(0, 0, 0), 0, *(10, 0, 90), 0, *(30, 60, 90), 0]
    assert evs_keeps(segments, rows, 0.3) == [1, 2, 3]
    assert evs_keeps(segments, rows, 0.5) == [1, 2, 3, 7]
    assert evs_keeps(segments, rows, 0.7) == [1, 2, 3, 7, 9, 10]
    assert evs_keeps(segments, rows, 0.85) == [1, 2, 3, 5, 7, 9, 10]
    assert evs_keeps(segments, rows, 0.9) == [1, 2, 3, 5, 6, 7, 9, 10]  # of two that did not turn, the earlier


def test_evs_compares_steps_of_one_grid_only():
    """By hand. Steps of 2 x 2, 2 x 2 with a time token, 1 x 4: nothing turns, but the time token and the last grid are new."""
    segments, grids = [("video", 4, 1), ("video", 5, 1), ("video", 4, 1), ("text", 1)], ((2, 2), (2, 2), (1, 4))
    assert evs_keeps(segments, [0] * 14, 9 / 13, grids=grids) == [0, 1, 2, 3, 8, 9, 10, 11, 12]
    # Without grids only the lengths tell: all are unlike, so all is new and the earlier stay.
    assert evs_keeps(segments, [0] * 14, 9 / 13) == list(range(9))


def test_evs_leaves_a_single_step_and_sound_alone_as_they_are():
    for segments in ([("text", 1), ("video", 8), ("text", 1)], [("text", 1), ("audio", 8), ("text", 1)]):
        assert parse("evs:keep=0").cuts(TokenLayout.of(*segments), 6) == {}


# --- VidCom2


def slow_vidcom2(features, sizes, keep):
    """(the share of each step, its tokens from the first kept to the last) by loops over float64."""
    order = sorted(range(features.shape[1]), key=lambda channel: features[:, channel].var())
    rows = features[:, sorted(order[: features.shape[1] // 2])]
    rows = rows / np.sqrt((rows**2).sum(1, keepdims=True))

    def likeness(row, mean):
        return sum(np.exp(-((row - mean) ** 2).sum() / (2 * alpha)) for alpha in (0.125, 0.25, 0.5, 1, 2))

    frames = np.split(np.arange(len(rows)), np.cumsum(sizes)[:-1])
    u = np.array([-np.mean([likeness(rows[i], rows.mean(0)) for i in frame]) for frame in frames])
    p = np.exp((u - u.max()) / 0.01)
    p /= p.sum()
    ranks = []
    for frame in frames:
        score = {i: likeness(rows[i], rows.mean(0)) + likeness(rows[i], rows[frame].mean(0)) for i in frame.tolist()}
        ranks.append(sorted(score, key=score.get))
    return np.minimum(1, keep * (1 + p - p.mean())), ranks


@pytest.mark.parametrize("keep", [0.1, 0.35, 0.8])
def test_vidcom2_equals_the_slow_rule_in_steps_of_unlike_sizes(keep):
    """As many of each step as the slow rule gives one after another to the step that lacks most of its share."""
    sizes = [9, 12, 12, 7]
    features = np.random.default_rng(5).standard_normal((40, 10))
    shares, ranks = slow_vidcom2(features, sizes, keep)
    n_of = [1] * 4
    while sum(n_of) < max(4, round(keep * 40)):
        lacks = [share * size - n if n < size else -np.inf for share, size, n in zip(shares, sizes, n_of, strict=True)]
        n_of[int(np.argmax(lacks))] += 1
    want = sorted(i for rank, n in zip(ranks, n_of, strict=True) for i in rank[:n])
    layout = TokenLayout.of(("text", 1), *[("video", size, 1) for size in sizes], ("text", 1))
    got = kept(parse(f"vidcom2:keep={keep}"), layout, torch.from_numpy(np.pad(features, ((1, 1), (0, 0)))))
    assert got == [0, *(i + 1 for i in want), 41]
    assert parse("vidcom2:keep=1").cuts(layout, 6) == {}


def test_vidcom2_takes_one_step_alone_as_the_whole_video():
    """By hand: p is 1 and so is its mean, so the share is keep. Two tokens that point elsewhere are least like the mean."""
    layout = TokenLayout.of(("text", 1), ("video", 8), ("text", 1))
    features = torch.tensor([[1.0, 0, 0, 9]] * 10) * torch.arange(1, 11)[:, None]
    features[[3, 6], :2] = torch.tensor([0.0, 1])
    assert kept(parse("vidcom2"), layout, features) == [0, 3, 6, 9]
