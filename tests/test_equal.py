"""Methods at equal FLOPs. Oracles: every setting tried; the closed form written out; arithmetic by hand."""

import json
from dataclasses import replace

import numpy as np
import pytest
from transformers import Qwen2Config

from fastav import flops
from fastav.errors import UserError
from fastav.layout import TokenLayout
from fastav.methods import METHODS, Trim, parse, solved
from fastav.methods.cut import keys_again, lengths_of
from fastav.methods.equal import KNOBS
from fastav.models import load_model
from fastav.run import Request

TINY = TokenLayout.of(("text", 2), ("video", 128, 8), ("audio", 200), ("question", 12), ("text", 1))
SMALL = TokenLayout.of(("text", 2), ("video", 24, 6), ("audio", 16), ("text", 4))
VIDEOLLAMA2 = TokenLayout.of(("text", 14), ("video", 676, 4), ("audio", 1496, 800), ("text", 20))
SHAPES = {8: dict(d=192, m=512, h=6, g=2, v=72), 28: dict(d=3584, m=18944, h=28, g=4, v=152064)}
START = {"diverse": "start=1", "stride": "start=1", "random": "start=1"}  # others turn it themselves, or act from layer 0 or 2 on


def percent(kept: list[int], n: int, again: int = 0) -> float:
    """Per layer: query, key, value and output projections, both products of attention, three MLP matrices; logits; keys again."""
    s = SHAPES[len(kept)]
    head = s["d"] // s["h"]

    def cost(counts):
        layers = (
            2 * x * s["d"] * s["h"] * head + 2 * x * s["d"] * s["g"] * head + 2 * x * x * s["h"] * head + 3 * x * s["d"] * s["m"]
            for x in counts
        )
        return sum(layers) + s["d"] * s["v"]

    return 100 * (cost(kept) + again * s["d"] * s["g"] * head) / cost([n] * len(kept))


def at(text: str, layout: TokenLayout, n_layers: int):
    """(the method with its settings, what it costs in percent of vanilla's FLOPs)."""
    method = solved(parse(text, n_layers), layout, n_layers, lambda kept, again: percent(kept, len(layout), again))
    cuts, n_tokens = method.cuts(entered := layout.subset(method.enters(layout)), n_layers), len(layout)
    return method, percent(lengths_of(cuts, len(entered), n_layers), n_tokens, keys_again(cuts, len(entered)))


@pytest.mark.parametrize(("layout", "n_layers"), [(TINY, 8), (VIDEOLLAMA2, 28)], ids=["tiny", "videollama2"])
@pytest.mark.parametrize("target", [64, 45, 35])
@pytest.mark.parametrize("name", sorted(set(KNOBS) - {"vtw", "evs", "vidcom2"}))
def test_a_method_costs_what_was_asked_for(name, target, layout, n_layers):
    method, cost = at(f"{name}@{target}:{START.get(name, '')}", layout, n_layers)
    assert abs(cost - target) <= 1 and type(method) is METHODS[name]


@pytest.mark.parametrize("name", ["stride", "divprune", "fastv", "pyramiddrop", "seats"])
def test_it_is_the_nearest_of_all_settings(name):
    """Each of the 10,001 shares tried on a prompt of 46 tokens."""
    asked = parse(f"{name}@{60}:{START.get(name, '')}", 8)
    _, cost = at(str(asked), SMALL, 8)
    [(n, setting_of)] = KNOBS[name].scales(asked.inner, 8)
    every = [setting_of(i).cuts(SMALL, 8) for i in range(0, n, 7)]
    tried = [percent(lengths_of(cuts, len(SMALL), 8), len(SMALL), keys_again(cuts, len(SMALL))) for cuts in every]
    assert abs(cost - 60) <= min(abs(each - 60) for each in tried) + 1e-9
    assert tried == sorted(tried)  # what is found by halving must rise


@pytest.mark.parametrize(
    ("name", "n_layers", "low"), [("evs", 8, 61.0), ("vidcom2", 8, 58.5), ("pyramiddrop", 8, 27.0), ("fastv", 8, 27.0)]
)
def test_what_cannot_be_reached_is_refused_with_the_range(name, n_layers, low):
    """The lower ends on FastAV-tiny's prompt: of the methods' page, "above about 58" and "above 27"."""
    with pytest.raises(UserError, match=rf"{name}@10.* cannot be had on this prompt: it reaches (\d+\.\d) to \d+\.\d %") as error:
        at(f"{name}@10", TINY, n_layers)
    assert abs(float(str(error.value).split("it reaches ")[1].split()[0]) - low) <= 1.5


@pytest.mark.parametrize(
    ("text", "n"),
    [
        ("fastav", 0),
        ("diverse", 0),
        ("fastv", 2 * 343),  # once for each modality
        ("fastv:weights=own", 0),
        ("fastv:audio=1", 343),
        ("pyramiddrop", 343 + (15 + 164) + (15 + 82)),
        ("seats", 15 + 4 * 13 + 4 * 45),  # of windows of 32 and 50; of the three drops one is left in 8 layers
        ("fastav:rule=all,fine=lookahead,start=6,p=50", 343),  # after layer 6 alone: none after the last
        ("evs+fastav:fine=lookahead,rule=all,start=6,p=50", 343 - 128 + 38),
    ],
)
def test_keys_that_scores_project_again_by_hand(text, n):
    """343 tokens, 15 of them text."""
    assert keys_again(parse(text, 8).cuts(TINY, 8), 343) == n


def test_fvcore_counts_the_keys_again():
    """Oracle of the closed form: fvcore on the layer's own projection."""
    config = Qwen2Config(hidden_size=48, intermediate_size=96, num_attention_heads=6, num_key_value_heads=2, num_hidden_layers=2)
    for count in (flops.gqa_flops, flops.fvcore_flops):
        assert count([10, 5], config, 7) - count([10, 5], config) == 7 * 48 * 16
    assert flops.paper_flops([10, 5], config, 7) - flops.paper_flops([10, 5], config) == 7 * 48 * 48


def test_withdrawal_has_a_setting_per_layer():
    """Seven on 8 layers; one of them is found where its own cost is asked for, and no other number is."""
    costs = [percent([len(TINY)] * start + [15] * (8 - start), len(TINY)) for start in range(1, 8)]
    for start, cost in enumerate(costs, 1):
        assert at(f"vtw@{cost:.2f}", TINY, 8)[0] == METHODS["vtw"](start)
    with pytest.raises(UserError, match=r"and vtw:start=3 comes nearest with 39"):
        at("vtw@45", TINY, 8)


def test_fastav_keeps_less_and_then_begins_earlier():
    """By hand: with nothing kept from layer 4 on, four layers of 343 tokens and four of 15 cost about 52 %."""
    late, early = at("fastav@64", TINY, 8)[0], at("fastav@45", TINY, 8)[0]
    assert late.start == 4 and 0 < late.keep < 1 and early.start == 3 and early.p == late.p == 20
    assert at("fastav@45:start=2,p=0", TINY, 8)[0].start == 2


def test_a_share_of_fastavs_rule_is_the_rule_at_its_own_count():
    """And with fewer, or more, what the rule keeps goes before all else; then the calibrated value tells, then the position."""
    rule = np.isin(np.arange(46), [3, 5, 30, 31])
    layout = SMALL.with_facts(rule_keep=rule)
    own, shared = (replace(parse("fastav", 8), keep=keep) for keep in (None, 4 / 40))
    assert kept(own, layout) == kept(shared, layout) == [3, 5, 30, 31]
    assert kept(replace(own, keep=2 / 40), layout) == [3, 5] and kept(replace(own, keep=6 / 40), layout) == [2, 3, 4, 5, 30, 31]
    influence = np.zeros(46, np.float32)
    influence[[31, 40, 5, 41]] = 4, 2, 2, 3
    layout = layout.with_facts(influence=influence)
    for n, left in ((2, [5, 31]), (5, [3, 5, 30, 31, 41]), (6, [3, 5, 30, 31, 40, 41])):
        assert kept(replace(own, keep=n / 40), layout) == left


def kept(method, layout) -> list[int]:
    """What the first cut leaves, by its known values: of equals the later position leaves."""
    [cut] = method.cuts(layout, 8)[3]
    order = sorted(np.flatnonzero(cut.candidates), key=lambda i: (cut.score.by_position[i], -i))
    return sorted(int(i) for i in order[cut.n_removed :])


@pytest.mark.parametrize("rule", ["all", "none", "no-video", "no-audio", "first(750)"])
def test_a_rule_that_says_how_many_stay_takes_no_share(rule):
    with pytest.raises(UserError, match="says by itself how many tokens stay"):
        parse(f"fastav:rule={rule},keep=0.5")


def test_trim_counts_what_it_leaves_out():
    method, cost = at("trim+stride@30:start=0", VIDEOLLAMA2, 28)
    assert isinstance(method, Trim) and abs(cost - 30) <= 1
    assert method.inner.keep > at("stride@30:start=0", VIDEOLLAMA2, 28)[0].keep


@pytest.mark.parametrize(
    ("text", "form"),
    [
        ("seats@45", "seats@45"),
        (" fastav@45 ", "fastav@45:start=4,p=20,rule=model,fine=low,protect=text,seed=0"),
        ("trim+diverse@45.5:mix=0.25", "trim+diverse@45.5:start=4,mix=0.25"),
        ("vtw@45", "vtw@45"),
        ("omnizip@60:merge=0", "omnizip@60:merge=0"),
    ],
)
def test_the_text_form_is_read_back(text, form):
    assert str(parse(text, 8)) == form == str(parse(form, 8))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("vanilla@45", "vanilla cannot be asked for by FLOPs; allowed: diverse, "),
        ("nothing@45", "unknown method 'nothing'"),
        ("stride@", "FLOPs must be a number, got ''"),
        ("stride@half", "FLOPs must be a number, got 'half'"),
        ("stride@101", "percent must be a number from 0 to 100, got 101"),
        ("stride@45:keep=0.5", "keep of stride follows from @45; give one of the two"),
        ("stride@45:mix=0.5", "unknown setting 'mix=0.5' of stride"),
        ("fastav@45:rule=none", "rule=none says by itself how many tokens stay"),
    ],
)
def test_what_is_no_method_is_refused(text, said):
    with pytest.raises(UserError) as error:
        method = parse(text, 8)
        solved(method, TINY, 8, lambda kept, again: percent(kept, len(TINY), again))
    assert said in str(error.value)


def test_every_method_that_has_a_share_has_a_knob():
    assert set(KNOBS) == set(METHODS) - {"vanilla"}


def test_an_answer_at_given_flops_is_that_of_its_settings():
    """Through the session: asked form and settings are told, and FLOPs are those that ran."""
    from fastav.clip.clip import clip_from_arrays
    from fastav.session import Session

    session = Session(load_model("tiny"))
    rng = np.random.default_rng(0)
    clip = clip_from_arrays(rng.integers(0, 255, (8, 112, 112, 3), np.uint8), 2.0, rng.normal(0, 0.1, 64_000).astype(np.float32))
    for text in ("seats@45", "trim+random@60:start=0"):
        got = session.answer(clip, "Is the dog visible?", text)
        own = session.answer(clip, "Is the dog visible?", got.solved)
        assert got.method == str(parse(text, 8)) and "@" not in got.solved and own.solved == own.method == got.solved
        assert (got.answer, got.lengths, got.layers_seen) == (own.answer, own.lengths, own.layers_seen)
        assert abs(got.flops_relative_percent - float(text.split("@")[1].split(":")[0])) <= 1
    assert json.loads(json.dumps(got.to_dict()))["solved"] == got.solved
    inputs, _ = session.inputs(clip, "Is the dog visible?")
    with pytest.raises(UserError, match="give what fastav.methods.solved makes of it"):
        Request.of(inputs, parse("seats@45", 8), session.model.config).asked.cuts(inputs.layout, 8)
