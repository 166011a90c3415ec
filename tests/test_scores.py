"""Scores and rows of their own: what a method may bring to the engine. Oracle: the masked run, where scores come once more from
eager attention maps, in plain Python; each row of a batch alone.
"""

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from conftest import N_LAYERS, greedy, holding, prompt, random_qwen2, rotary
from masked import masked_run

import fastav
from fastav.errors import UserError
from fastav.layout import TokenLayout
from fastav.methods import FastAV, Method, parse
from fastav.methods.cut import BEFORE, Cut, candidates
from fastav.methods.scores import BestOfGroups, FromFeatures, LastQuery, QuestionMean

QUESTION = np.arange(59, 63)  # of the 7 text tokens after the media


@dataclass(frozen=True, eq=False)
class Cuts(Method):
    """A method of given cuts."""

    name = "cuts"

    given: dict

    def cuts(self, layout, n_layers):
        return self.given


def windows():
    """Six windows of nine media tokens each, of which 1, 2, 3, 4, 5 and 6 stay; text belongs to the last and stays."""
    group = np.full(66, 6)
    group[5:59] = np.arange(54) // 9
    return group, np.array([1, 2, 3, 4, 5, 6, 12])


SCORES = {
    "last query, again": (LastQuery("again"), 20),
    "last query, next": (LastQuery("next"), 20),
    "question, own": (QuestionMean(QUESTION), 20),
    "question, next": (QuestionMean(QUESTION, "next"), 20),
    "question, again": (QuestionMean(QUESTION, "again"), 20),
    "best of windows": (BestOfGroups(LastQuery(), *windows()), 54 - 21),
    "best of windows by the question": (BestOfGroups(QuestionMean(QUESTION, "next"), *windows()), 54 - 21),
}


def both(model, layout, method, ids, n_new=5):
    """((kept, new ids, logits) of the masked run, the same of the engine)."""
    model.set_attn_implementation("eager")
    embeds = model.get_input_embeddings()(ids)
    kept, logits, new = masked_run(
        model.model, model.lm_head, embeds, method.cuts(layout, N_LAYERS), n_new, rotary(model), layout
    )
    fastav.install(model)
    model.set_attn_implementation("sdpa")
    cache = fastav.PrunedCache(model.config, layout, method)
    got, got_logits = greedy(model, n_new, inputs_embeds=embeds, **holding(model, cache))
    return (kept, new, logits), (cache.kept(), got, got_logits)


def same(want, got):
    assert got[0] == want[0] and got[1] == want[1]
    assert torch.allclose(got[2], want[2], rtol=0, atol=1e-10)


@pytest.mark.parametrize("name", SCORES)
def test_a_score_ranks_as_eager_attention_says(model, layout, name):
    score, n_removed = SCORES[name]
    free = candidates(layout)
    method = Cuts({2: (Cut(n_removed, free, score),), 4: (Cut(5, free, score if name.startswith("question") else LastQuery()),)})
    same(*both(model, layout, method, prompt(model)))


def test_a_later_cut_of_the_same_layer_ranks_what_the_first_has_left(model, layout):
    free = candidates(layout)
    method = Cuts({3: (Cut(10, free, LastQuery(), "high"), Cut(10, free, QuestionMean(QUESTION)))})
    want, got = both(model, layout, method, prompt(model))
    same(want, got)
    assert len(got[0][4]) == 46


def test_merged_rows_take_the_place_of_the_embeddings(model, layout):
    """By hand: every second media token becomes the mean of itself and the next one, which then leaves before layer 0."""
    media = np.flatnonzero(candidates(layout))

    def compute(layout, features):
        rows, values = features.clone(), torch.zeros(len(features), dtype=features.dtype)
        rows[media[::2]] = (features[media[::2]] + features[media[1::2]]) / 2
        values[media[::2]] = 1
        return values, rows

    method = Cuts({BEFORE: (Cut(27, candidates(layout), FromFeatures(compute)),), 3: (Cut(4, candidates(layout), LastQuery()),)})
    want, got = both(model, layout, method, prompt(model))
    same(want, got)
    assert got[0][0] == sorted({*range(66)} - {*media[1::2].tolist()})


def test_the_cache_goes_on_reporting_the_original_length(model, layout):
    """The next position is the prompt's length, whatever left before layer 0. Oracle: the masked run over many steps."""
    method = parse("random:start=0,keep=0.2")
    want, got = both(model, layout, method, prompt(model), n_new=12)
    same(want, got)
    fastav.install(model)
    cache = fastav.PrunedCache(model.config, layout, method)
    greedy(model, 3, input_ids=prompt(model), **holding(model, cache))
    assert cache.get_seq_length() == 66 + 2
    assert cache.layers[0].keys.shape[-2] == cache.lengths[0] + 2 == 12 + 11 + 2


@pytest.mark.parametrize(
    "text", ["fastav:rule=random,p=30", "fastav:rule=low-attentive", "divprune:keep=0.4", "stride:start=0", "pyramiddrop"]
)
def test_rows_with_layouts_of_their_own_answer_as_each_alone(model, text):
    """Two clips of equal length whose streams are divided otherwise. Oracle: each row without the other."""
    fastav.install(model)
    layouts = [
        TokenLayout.of(("text", 5), ("video", 24, 4), ("audio", 30), ("text", 7)).with_facts(request_id="a"),
        TokenLayout.of(("text", 3), ("video", 30, 3), ("audio", 24), ("text", 9)).with_facts(request_id="b"),
    ]
    layouts = [layout.with_facts(rule_keep=layout.media & (np.cumsum(layout.media) <= 29)) for layout in layouts]
    method, rows = parse(text), torch.cat([prompt(model, seed=s) for s in (1, 2)])
    cache = fastav.PrunedCache(model.config, layouts, method)
    out = model.generate(rows, attention_mask=torch.ones_like(rows), **holding(model, cache), max_new_tokens=6, do_sample=False)
    for row, layout in enumerate(layouts):
        alone = fastav.PrunedCache(model.config, layout, method)
        want, _ = greedy(model, input_ids=rows[row : row + 1], **holding(model, alone))
        assert out[row, -6:].tolist() == want
        assert cache.kept(row) == alone.kept()
    assert cache.kept(0) != cache.kept(1)


def test_rows_may_have_methods_of_their_own(model, layout):
    """Three seeds of random removal in one batch. Oracle: each row alone."""
    fastav.install(model)
    methods = [parse(f"random:start=2,keep=0.4,seed={seed}") for seed in range(3)]
    ids = prompt(model).expand(3, -1)
    cache = fastav.PrunedCache(model.config, [layout] * 3, methods)
    out = model.generate(ids, attention_mask=torch.ones_like(ids), **holding(model, cache), max_new_tokens=6, do_sample=False)
    for row, method in enumerate(methods):
        alone = fastav.PrunedCache(model.config, layout, method)
        assert greedy(model, input_ids=ids[:1], **holding(model, alone))[0] == out[row, -6:].tolist()
        assert cache.kept(row) == alone.kept()


def test_rows_that_cannot_share_a_batch_are_refused(model, layout):
    other = TokenLayout.of(("text", 5), ("video", 20, 4), ("audio", 34), ("text", 7))
    mute = TokenLayout.of(("text", 5), ("video", 54, 9), ("text", 7))
    for layouts, methods, said in (
        ([layout, other], [FastAV(), FastAV()], "keep unlike numbers of tokens"),
        ([layout, layout], [FastAV(rule="random"), FastAV(rule="low-attentive")], "rank by unlike scores"),
        ([layout, layout], [FastAV(p=0), parse("stride")], "keep unlike numbers of tokens"),
        ([layout, other], [parse("fastv")] * 2, "keep unlike numbers of tokens"),  # 27 leave: 12 + 15 and 10 + 17
        ([layout, mute], [parse("fastv")] * 2, "keep unlike numbers of tokens"),  # and 27 at once
    ):
        with pytest.raises(UserError, match=said):
            fastav.PrunedCache(model.config, layouts, methods)


def test_nothing_waits_between_layers_for_scores_of_features(layout):
    """Every value of such a score is made before layer 0."""
    model, order = random_qwen2(), []

    def compute(layout, features):
        order.append("features")
        return features[:, 0], None

    model.model.layers[0].self_attn.register_forward_pre_hook(lambda *args: order.append("layer 0"))
    method = Cuts({3: (Cut(9, candidates(layout), FromFeatures(compute)),)})
    same(
        *both(model, layout, Cuts({3: (Cut(9, candidates(layout), FromFeatures(lambda t, f: (f[:, 0], None))),)}), prompt(model))
    )
    order.clear()
    model.generate(prompt(model), **fastav.pruned(model, layout, method), max_new_tokens=1, do_sample=False)
    assert order == ["features", "layer 0"]
