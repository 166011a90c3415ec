"""Two methods in turn. Oracles: arithmetic by hand; the second alone where the first removes nothing. Their masked run is in
test_engine.py.
"""

import numpy as np
import pytest

from fastav.errors import UserError
from fastav.layout import PAD, TokenLayout
from fastav.methods import lengths, parse, plain, solved
from fastav.methods.cut import BEFORE

# 2 text, 6 time steps of 8 video tokens, 40 audio tokens, 10 text.
LAYOUT = TokenLayout.of(("text", 2), ("video", 48, 6), ("audio", 40), ("text", 10))


def ruled(n_video: int, n_audio: int) -> TokenLayout:
    """A rule that keeps the first so many of each."""
    keep = np.isin(np.arange(100), [*range(2, 2 + n_video), *range(50, 50 + n_audio)])
    return LAYOUT.with_facts(rule_keep=keep)


def test_evs_then_fastav_by_hand():
    """EVS leaves 24 of 48 video tokens. Of 16 + 10 that the rule names, 16 / 2 + 10 = 18 stay; then a fifth of them, rounded
    down, leaves after each layer: 18 - 3 = 15 - 3 = 12 - 2 = 10.
    """
    method = parse("evs:keep=0.5+fastav", 8)
    assert lengths(method, ruled(16, 10), 8) == [76] * 4 + [12 + n for n in (18, 15, 12, 10)]


def test_divprune_takes_as_large_a_share_of_both_streams():
    """22 of 88 stay; of 16 + 10 named, a quarter of each: 6.5, half to even 6."""
    method = parse("divprune:keep=0.25+fastav:p=0", 8)
    assert lengths(method, ruled(16, 10), 8) == [34] * 4 + [18] * 4
    assert lengths(parse("divprune:keep=0.25+fastav:p=0,keep=0.5", 8), ruled(16, 10), 8) == [34] * 4 + [12 + 11] * 4
    assert lengths(parse("divprune:keep=0.25+fastav:p=0,rule=all", 8), LAYOUT, 8) == [34] * 8


def test_what_the_rule_names_goes_before_all_else():
    """And then the calibrated value, since the count is that of the rule no longer."""
    influence = np.zeros(100, np.float32)
    influence[60] = 5.0
    layout = ruled(16, 10).with_facts(influence=influence)
    [cut] = parse("evs:keep=0.5+fastav", 8).cuts(layout, 8)[3]
    order = np.argsort(-cut.score.by_position[cut.candidates], kind="stable")
    positions = np.flatnonzero(cut.candidates)[order]
    assert set(positions[:26]) == {*range(2, 18), *range(50, 60)} and positions[26] == 60


def test_where_the_first_removes_nothing_it_is_fastav():
    for first in ("evs:keep=1", "divprune:keep=1"):
        pair, own = (parse(text, 8).cuts(ruled(16, 10), 8) for text in (f"{first}+fastav:p=30", "fastav:p=30"))
        assert pair.keys() == own.keys() and BEFORE not in pair
        for layer in own:
            assert [(a.n_removed, a.candidates.tolist()) for a in pair[layer]] == [
                (b.n_removed, b.candidates.tolist()) for b in own[layer]
            ]


def test_left_padding_leaves_once():
    padded = TokenLayout.of(("text", 8), ("video", 48, 6), ("audio", 40), ("text", 10))
    kind = padded.kind.copy()
    kind[:6] = PAD
    rule = np.isin(np.arange(106), [*range(8, 24), *range(56, 66)])
    padded = TokenLayout(**{**vars(padded), "kind": kind}).with_facts(rule_keep=rule)
    method = parse("evs:keep=0.5+fastav", 8)
    assert lengths(method, padded, 8) == lengths(method, ruled(16, 10), 8)


def test_a_pair_costs_what_was_asked_for():
    """By the square of the lengths, which is enough to rank settings."""
    method = solved(
        parse("evs:keep=0.5+fastav@40", 8), LAYOUT, 8, lambda kept, again: 100 * sum(n * n for n in kept) / (8 * 100**2)
    )
    kept = lengths(method, LAYOUT, 8)
    assert abs(100 * sum(n * n for n in kept) / 80_000 - 40) <= 1 and str(method).startswith("evs:keep=0.5+fastav:start=4")


@pytest.mark.parametrize(
    ("text", "form"),
    [
        ("evs+fastav", "evs:keep=0.3+fastav:start=4,p=20,rule=model,fine=low,protect=text,seed=0"),
        ("trim+divprune:keep=5e-1+fastav@40:p=0", None),
    ],
)
def test_the_text_form_is_read_back(text, form):
    method = parse(text, 8)
    assert str(parse(str(method), 8)) == str(method) and (form is None or str(method) == form)
    assert [each.name for each in plain(method)][-1] == "fastav" and len(plain(method)) == 2


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("fastav+evs", "fastav+evs is no pair; allowed: evs+fastav, divprune+fastav, and trim before any method"),
        ("stride+fastav", "stride+fastav is no pair"),
        ("evs+trim+fastav", "evs+trim is no pair"),
        ("evs+divprune+fastav", "evs+divprune+fastav is no pair"),
        ("divprune:start=3+fastav", "in a pair divprune acts before the decoder, got start=3; allowed: 0"),
        ("evs+", "unknown method ''"),
    ],
)
def test_any_other_pair_is_refused(text, said):
    with pytest.raises(UserError) as error:
        parse(text, 8)
    assert said in str(error.value)
