"""SEATS and its windows. Oracles: recordings of the reference code, arithmetic by hand, the masked run with the rule once more in
plain Python (tests/masked.py), double loops in numpy.
"""

from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import greedy, holding, prompt, random_qwen2, rotary
from masked import _by_budgets, masked_run
from parity import Report
from parity_methods import compare
from test_engine import _ARMED, _forbidden
from transformers import Qwen2Config

import fastav
from fastav.flops import paper_flops
from fastav.layout import AUDIO, VIDEO, TokenLayout
from fastav.methods import lengths, parse
from fastav.methods.cut import BEFORE
from fastav.methods.scores import BestOfGroups, best_of_groups
from fastav.methods.seats import Budgets, budgets, farthest_weighted, ratios, schedule_layers
from fastav.methods.windows import runs, windows

GOLDEN = Path(__file__).resolve().parent / "golden" / "methods"
VIDEOLLAMA2 = TokenLayout.of(("text", 14), ("video", 676, 4), ("audio", 1496), ("text", 20))
MINUTE = (("video", 144, 1), ("video", 144, 1), ("audio", 50)) * 30  # of Qwen2.5-Omni, 2 s at a time
QWEN_OMNI = TokenLayout.of(("text", 40), *MINUTE, ("text", 40))
TURNS = (("video", 6, 1), ("video", 6, 1), ("audio", 10))
INTERLEAVED = TokenLayout.of(("text", 5), *TURNS * 3, ("video", 6, 1), ("audio", 4), ("text", 7))


def test_the_reference_codes_choices():
    """Four schedules, three entries, four drops by windows and one without, each with its temperature."""
    compare(GOLDEN, report := Report(quiet=True), ["seats"])
    assert report.failures == [] and len(report.lines) == 3 * 4 + 3 + 3 * 4 + 2 + 8  # each case's tensors are listed


def test_the_schedule_of_48_layers_is_the_published_one():
    assert ratios([27, 31, 35], 40, 48) == [0.9255, 0.7813, 0.2390]


def test_drops_that_fall_together_are_one_by_hand():
    """Of 8 layers: 4.57, 5.14 and 5.71 are 5, 5 and 6, and 6.86 is 7. That of layer 6 falls on the end. Then 5 * 1.4 + x = 8,
    x = 1 and 1 / 1.4. Of 12: 6.86, 7.71, 8.57 and 10.29. With w = (1, e) / (1 + e) and x, y = 1.4 (1 - t w_1), 1.4 (1 - t):
    7 * 1.4 + x + y = 12. Of 6: 3 * 1.4 + x = 6 needs more than 1.4: nothing leaves, and a mean of 5.6 / 6 is reached.
    """
    assert schedule_layers(28) == ([16, 18, 20], 24)
    assert schedule_layers(8) == ([5], 7) and ratios([5], 7, 8) == [round(1 / 1.4, 4)]
    assert schedule_layers(12) == ([7, 8], 10)
    first = 1 / (1 + np.e)
    t = (9 * 1.4 - 12) / 1.4 / (first + 1)
    assert ratios([7, 8], 10, 12) == [round(1 - t * first, 4), round((1 - t) / (1 - t * first), 4)]
    assert schedule_layers(6) == ([3], 5) and ratios([3], 5, 6) == [1.0]
    assert schedule_layers(1) == ([], 2)


def test_lengths_by_hand():
    """VideoLLaMA2: .42 of windows of 338 is 142, .91 of 50 is 45 (1.4 * .65 is a little less than .91) and of 46 is 42. Then
    .9298 * 284 = 264.06, .7949 * 264 = 209.85, .2986 * 210 = 62.7 and 1347: 1252.4, 995.2, 297.1.
    FastAV-tiny: 8 steps of 16, 200 sounds: 13 of 32 and 45 of 50, .7143 * 52 = 37.1, .7143 * 180 = 128.6.
    """
    video, audio = 2 * 142, 29 * 45 + 42
    n = [34 + video + audio, 34 + 264 + 1252, 34 + 210 + 995, 34 + 63 + 297, 34]
    assert lengths(parse("seats"), VIDEOLLAMA2, 28) == np.repeat(n, [16, 2, 2, 3, 5]).tolist()
    tiny = TokenLayout.of(("text", 3), ("video", 128, 8), ("audio", 200), ("text", 9))
    assert lengths(parse("seats"), tiny, 8) == [12 + 4 * 13 + 4 * 45] * 5 + [12 + 37 + 129] + [12] * 2


@pytest.mark.parametrize(
    ("layout", "n", "published"),
    [(VIDEOLLAMA2, (676, 1496, 34), (53.6, 43.5, 33.6, 25.7)), (QWEN_OMNI, (8640, 1500, 80), (30.4, 21.0, 12.3, 8.3))],
    ids=["VideoLLaMA2", "Qwen2.5-Omni"],
)
def test_flops_are_the_published_ones_but_for_whole_tokens_in_each_window(layout, n, published):
    """The published figures come of shares of the whole stream; the rule rounds in each window: at most 0.6 between them."""
    config, n_tokens = Qwen2Config(hidden_size=3584, intermediate_size=18944), len(layout)
    for text, want in zip(((0.3, 0.65), (0.2, 0.55), (0.1, 0.45), (0.06, 0.35)), published, strict=True):
        shares = np.cumprod([1.4, *ratios([16, 18, 20], 24, 28)])
        whole = [n[2] + share * (text[0] * n[0] + text[1] * n[1]) for share in shares]
        percent = [
            100 * paper_flops(each, config) / paper_flops([n_tokens] * 28, config)
            for each in (
                np.repeat([*whole, n[2]], [16, 2, 2, 3, 5]),
                lengths(parse("seats:keep_video={},keep_audio={}".format(*text)), layout, 28),
            )
        ]
        assert abs(percent[0] - want) <= 0.1
        assert abs(percent[1] - percent[0]) <= 0.6


@pytest.mark.parametrize("layout", [INTERLEAVED, TokenLayout.of(("text", 5), ("video", 48, 8), ("audio", 30), ("text", 7))])
@pytest.mark.parametrize("text", ["seats:keep_video=0.4,keep_audio=0.6", "seats:keep_video=0.2,keep_audio=0.3"])
def test_three_drops_equal_the_masked_run(layout, text):
    model, method = random_qwen2(n_layers=14), parse(text)
    embeds = model.get_input_embeddings()(prompt(model, len(layout)))
    cuts = method.cuts(layout, 14)
    assert [isinstance(cuts[layer][0].score, Budgets) for layer in (7, 8)] == [True] * 2
    kept, logits, new = masked_run(model.model, model.lm_head, embeds, cuts, 4, rotary(model), layout)
    fastav.install(model)
    model.set_attn_implementation("sdpa")
    cache = fastav.PrunedCache(model.config, layout, method)
    got, got_logits = greedy(model, 4, inputs_embeds=embeds, **holding(model, cache))
    assert cache.kept() == kept and got == new
    assert torch.allclose(got_logits, logits, rtol=0, atol=1e-10)
    assert [len(each) for each in kept] == cache.lengths and len(set(cache.lengths)) == 5
    assert cache.layers[0].keys.shape[-2] == cache.lengths[0] + 3  # what the layer computed on, and the new tokens


@pytest.mark.parametrize("text", ["seats", "omnizip:keep_audio=0.5"])
def test_each_row_of_a_batch_is_pruned_as_alone(text):
    """OmniZip, too: each row has anchors of its own."""
    model, method, n = random_qwen2(n_layers=14), parse(text), len(INTERLEAVED)
    fastav.install(model)
    rows = torch.cat([prompt(model, n, seed=seed) for seed in (1, 2)])
    cache = fastav.PrunedCache(model.config, INTERLEAVED, method)
    out = model.generate(rows, attention_mask=torch.ones_like(rows), **holding(model, cache), max_new_tokens=4, do_sample=False)
    for row in range(2):
        alone = fastav.PrunedCache(model.config, INTERLEAVED, method)
        assert greedy(model, 4, input_ids=rows[row : row + 1], **holding(model, alone))[0] == out[row, -4:].tolist()
        assert cache.kept(row) == alone.kept()
    assert cache.kept(0) != cache.kept(1)


def test_no_layer_waits_for_the_host(monkeypatch):
    model, method = random_qwen2(n_layers=14), parse("seats")
    fastav.install(model)
    ids = prompt(model, len(INTERLEAVED))
    model(ids, **holding(model, fastav.PrunedCache(model.config, INTERLEAVED, method)))  # proves the rotation once
    cache = fastav.PrunedCache(model.config, INTERLEAVED, method)
    for name in ("item", "tolist", "nonzero", "__bool__", "cpu", "numpy", "__int__", "__float__"):
        monkeypatch.setattr(torch.Tensor, name, _forbidden(name, getattr(torch.Tensor, name)))
    model.model.layers[0].register_forward_pre_hook(lambda *a: _ARMED.set())
    model.model.layers[-1].register_forward_hook(lambda *a: _ARMED.clear())
    model(ids, **holding(model, cache), attention_mask=None)


def test_too_few_for_every_window_are_the_best_of_each_stream():
    """4 windows of both streams need 8. Of three windows of 12 and one of 6 enter 2, 2, 2 and 1, of one of 34 sounds 5.
    14 layers have segments of 8, 1, 1 and 1, so t = 1 / (1.09 + 0.3348) and the shares are .9368, .8166, .3897: 7, 6, 2 and
    5, 4, 2.
    """
    cuts = parse("seats:keep_video=0.1,keep_audio=0.1").cuts(INTERLEAVED, 14)
    (cut,) = cuts[9]
    assert isinstance(cuts[8][0].score, Budgets) and isinstance(cut.score, BestOfGroups)
    assert cut.score.n_kept.tolist() == [0, 2, 2, 0]
    only_sound = TokenLayout.of(("text", 5), ("audio", 120), ("text", 7))
    (cut,) = parse("seats").cuts(only_sound, 14)[7]
    assert isinstance(cut.score, BestOfGroups) and cut.score.n_kept.tolist() == [0, 0, round(0.9368 * (45 + 45 + 18)), 0]


def test_budgets_equal_the_rule_one_step_at_a_time():
    """200 seeded scores, from flat to peaked, over windows of unequal sizes that earlier drops have thinned out."""
    rng = np.random.default_rng(11)
    for _ in range(200):
        turns = [part for _ in range(rng.integers(2, 6)) for part in (("video", rng.integers(7), 1), ("audio", rng.integers(7)))]
        layout = TokenLayout.of(("text", 3), *((kind, int(n), *rest) for kind, n, *rest in turns), ("text", 3))
        here = np.flatnonzero(rng.random(len(layout)) < 0.8)
        n = [int((layout.kind[here] == kind).sum()) for kind in (VIDEO, AUDIO)]
        if min(n) == 0 or runs(layout).max() == 0:
            continue
        rule = budgets(layout, runs(layout), *(int(rng.integers(1, each + 1)) for each in n))
        values = rng.random(len(layout)) ** rng.choice([1, 8])
        want = _by_budgets(rule, values, here.tolist())
        group, score = (torch.from_numpy(each[here])[None] for each in (rule.group, values))
        got = best_of_groups(score, group, rule.per_group(score, group)) + score
        assert got[0].tolist() == [want[p] for p in here.tolist()], (rule, values)


def test_a_prompt_of_text_alone_is_not_pruned_and_padding_leaves_first():
    assert parse("seats").cuts(TokenLayout.of(("text", 9)), 28) == {}
    padded = TokenLayout.of(("pad", 4), ("text", 5), ("video", 24, 4), ("audio", 30), ("text", 7))
    assert lengths(parse("seats"), padded, 28)[0] == 12 + 2 * 5 + 27
    assert [cut.n_removed for cut in parse("seats").cuts(padded, 28)[BEFORE]] == [24 - 10 + 3, 4]


def test_weighted_picks_equal_the_slow_rule():
    """Two windows of 9, weighted; double loops in numpy."""
    rng = np.random.default_rng(5)
    features, weight = rng.standard_normal((2, 9, 4)), rng.random((2, 9))
    got = farthest_weighted(torch.from_numpy(features), torch.from_numpy(weight), 4)
    for window in range(2):
        unit = features[window] / np.linalg.norm(features[window], axis=1, keepdims=True)
        distance, a, picked = 1 - unit @ unit.T, weight[window], []
        for _ in range(4):
            near = [min(distance[j][i] for i in (picked or {*range(9)} - {j})) for j in range(9)]
            picked.append(max({*range(9)} - {*picked}, key=lambda j: a[j] * near[j]))
        assert np.flatnonzero(got[window]).tolist() == sorted(picked)


def test_importance_weighs_what_enters(layout):
    """All of it on the last tokens of each window: with weights of 0 elsewhere only they can be picked first."""
    features = torch.randn(66, 8, generator=torch.Generator().manual_seed(0))
    importance = np.zeros(66, np.float32)
    importance[[10, 22, 40]] = 1  # two windows of 12 video tokens, one of 30 sounds
    told = layout.with_facts(importance=importance)
    (cut,) = parse("seats:keep_video=0.01,keep_audio=0.01").cuts(told, 28)[BEFORE]
    assert np.flatnonzero(cut.score.compute(told, features)[0]).tolist() == [10, 22, 40]


# --- windows


def test_runs_are_windows_by_hand():
    layout = TokenLayout.of(
        ("text", 1), ("video", 2, 1), ("audio", 1), ("video", 2, 1), ("text", 1), ("video", 1, 1), ("text", 1)
    )
    assert windows(layout).tolist() == runs(layout).tolist() == [-1, 0, 0, 0, 1, 1, -1, 2, -1]


def test_a_single_run_of_each_has_a_window_for_each_time_step_by_hand():
    layout = TokenLayout.of(("text", 1), ("video", 6, 3), ("audio", 6, 5), ("text", 1))
    assert windows(layout).tolist() == [-1, 0, 0, 1, 1, 2, 2, 0, 0, 1, 1, 2, 2, -1]
    timed = layout.timed([1.0, 3.0, 5.0], [0.5, 1.5, 2.5, 3.5, 4.5, 5.5])  # the last is padding
    assert windows(timed)[7:13].tolist() == [0, 0, 1, 1, 2, 2]
    assert windows(timed.timed([1.0, 3.0, 5.0], [0.5, 2.5, 2.6, 2.7, 2.8, 9.0]))[7:13].tolist() == [0, 1, 1, 1, 1, 1]
    two = TokenLayout.of(("video", 4, 2), ("audio", 2), ("text", 1))
    assert windows(two).tolist() == [0, 0, 0, 0, 0, 0, -1]
