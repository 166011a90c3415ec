"""Methods against arithmetic by hand and against plain set rules. What they do to a model is test_engine.py's matter."""

import json
import random
import re
import subprocess
import sys
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import Qwen2Config

from fastav import methods
from fastav.errors import UserError
from fastav.flops import paper_flops
from fastav.layout import TokenLayout, first_audio, first_steps
from fastav.methods import METHODS, FastAV, Setting, Vanilla, lengths, parse, settings
from fastav.methods.cut import candidates
from fastav.methods.divprune import farthest
from fastav.methods.scores import Known, LastQuery
from fastav.plan import Plan

ROOT = Path(__file__).resolve().parents[1]


def global_removed(layout, **settings):
    """Original positions that a rule with known scores removes, by plain sorting."""
    (cut,) = FastAV(p=0, **settings).cuts(layout, 6)[2]
    sign = -1 if cut.remove == "high" else 1
    order = sorted(np.flatnonzero(cut.candidates), key=lambda p: (sign * cut.score.by_position[p], -p))
    return sorted(int(p) for p in order[: cut.n_removed])


def test_lengths_of_the_paper_by_hand():
    """P 20 at N 2206: 720 = 34 + 686, then floor(20 %) of the unprotected at a time: 686 - 137 = 549, 549 - 109 = 440, ..."""
    layout = TokenLayout.of(("text", 14), ("video", 676, 4), ("audio", 1496), ("text", 20))
    layout = layout.with_facts(rule_keep=first_audio(layout, 10))
    got = lengths(FastAV(), layout, 28)
    assert got[:18] == [2206] * 14 + [720, 34 + 549, 34 + 440, 34 + 352]
    assert lengths(Vanilla(), layout, 28) == [2206] * 28


def test_default_rule_removes_late_audio_only(layout):
    assert global_removed(layout) == list(range(5 + 24 + 5, 5 + 24 + 30))


def test_a_stream_can_be_removed_whole(layout):
    """5 text, 24 video and 30 audio tokens come first."""
    assert global_removed(layout, rule="no-video") == list(range(5, 29))
    assert global_removed(layout, rule="no-audio") == list(range(29, 59))
    assert global_removed(layout, rule="none") == list(range(5, 59))


def test_a_model_without_a_rule_keeps_positions_below_750():
    layout = TokenLayout.of(("text", 10), ("video", 700, 4), ("audio", 100), ("text", 5))
    assert global_removed(layout) == list(range(750, 810))
    assert global_removed(layout, rule="first(20)") == list(range(20, 810))


def test_every_ablation_keeps_as_many_as_the_models_rule(layout):
    layout = layout.with_facts(influence=np.linspace(1, 0, 66, dtype=np.float32))
    sizes = {
        rule: lengths(FastAV(rule=rule), layout, 6)
        for rule in ("model", "random", "top-attentive", "low-attentive", "top-informative", "low-informative")
    }
    assert len({tuple(v) for v in sizes.values()}) == 1
    assert sizes["model"] == [66, 66, 66, 41, 12 + 29 - 5, 12 + 24 - 4]


def test_informative_rules_remove_by_the_curve(layout):
    """Influence falls with position: low-informative removes the last 25 media tokens, top-informative the first 25."""
    layout = layout.with_facts(influence=np.linspace(1, 0, 66, dtype=np.float32))
    assert global_removed(layout, rule="low-informative") == list(range(34, 59))
    assert global_removed(layout, rule="top-informative") == list(range(5, 30))


def test_random_is_seeded_by_seed_and_request(layout):
    first = global_removed(layout, rule="random")
    assert first == global_removed(layout, rule="random")
    assert first != global_removed(layout, rule="random", seed=1)
    assert first != global_removed(layout.with_facts(request_id="another"), rule="random")
    assert set(first) <= set(range(5, 59))


def test_text_is_protected_by_default_and_the_last_token_always(layout):
    text = np.flatnonzero(layout.kind == 0)
    (fine,) = FastAV().cuts(layout, 6)[3]
    assert not fine.candidates[text].any()
    (fine,) = FastAV(protect="last").cuts(layout, 6)[3]
    assert fine.candidates[text[:-1]].all() and not fine.candidates[-1]
    media_last = TokenLayout.of(("text", 2), ("video", 4), ("audio", 4))
    cuts = FastAV(rule="none", p=100).cuts(media_last, 4)
    assert all(not cut.candidates[-1] for stage in cuts.values() for cut in stage)
    assert lengths(FastAV(rule="none", p=100), media_last, 4)[-1] == 3


def test_the_fine_rule_names_what_is_removed(layout):
    removed = {fine: FastAV(fine=fine).cuts(layout, 6)[3][0] for fine in ("low", "top", "random")}
    assert removed["low"].remove == "low" and removed["low"].score == LastQuery()
    assert removed["top"].remove == "high" and removed["top"].score == LastQuery()
    assert isinstance(removed["random"].score, Known)


def test_one_stream_has_no_global_pruning_by_the_models_rule():
    layout = TokenLayout.of(("text", 5), ("video", 1000, 4), ("text", 5))
    assert lengths(FastAV(p=0), layout, 4) == [1010] * 4
    assert lengths(FastAV(), layout, 4) == [1010, 1010, 1010, 810]
    assert lengths(FastAV(rule="first(750)", p=0), layout, 4)[-1] == 755


def test_plan_keeps_offsets_above_its_threshold_and_nothing_beyond_the_curve(tmp_path):
    plan = Plan("tiny", 3, "visible-column", 0.5, 1, 0.5, 0.3, (0.5, 0.3, 0.2, 0.9), (0.0,) * 4)
    plan.write(tmp_path / "plan.json")
    assert Plan.read(tmp_path / "plan.json") == plan
    layout = TokenLayout.of(("text", 3), ("video", 2), ("audio", 4), ("text", 1))
    assert global_removed(layout, plan=str(tmp_path / "plan.json")) == [5, 7, 8]
    with pytest.raises(UserError, match="cannot use .*missing.json as a plan"):
        FastAV(plan=str(tmp_path / "missing.json")).cuts(layout, 4)


def test_a_plan_that_cannot_be_written_leaves_nothing_behind(tmp_path):
    (tmp_path / "plan.json").mkdir()
    with pytest.raises(UserError, match="plan.json"):
        Plan("tiny", 3, "visible-column", 0.5, 1, 0.5, 0.3, (0.5,), (0.0,)).write(tmp_path / "plan.json")
    assert [path.name for path in tmp_path.rglob("*")] == ["plan.json"]


def plan_file(folder, **fields):
    """A plan of model "m", start 3 of 6 layers, that keeps two of four offsets, with other fields in place of its own."""
    record = {"model": "m", "start": 3, "n_layers": 6, "statistic": "column", "alpha": 0.5, "n_clips": 1, "keep": 0.5}
    record |= {"threshold": 0.3, "curve": [0.5, 0.3, 0.2, 0.1], "uniform": [0.0] * 4, **fields}
    (folder / "plan.json").write_text(json.dumps(record))
    return str(folder / "plan.json")


@pytest.mark.parametrize(
    ("settings", "n_layers", "message"),
    [
        ({"start": 2}, 6, "is a plan for start 3, not 2; allowed: a plan of the same model"),
        ({}, 8, "is a plan for start 3, not 4 and for layers 6, not 8"),
        ({"start": 3}, 7, "is a plan for layers 6, not 7"),
    ],
)
def test_a_plan_of_another_start_or_number_of_layers_is_refused(tmp_path, layout, settings, n_layers, message):
    path = plan_file(tmp_path)
    assert FastAV(plan=path).cuts(layout, 6)[2][0].n_removed == 54 - 2
    with pytest.raises(UserError, match=re.escape(f"{path} {message}")):
        FastAV(plan=path, **settings).cuts(layout, n_layers)


def test_a_layout_says_whose_plan_it_takes_and_a_plan_without_a_number_of_layers_is_held_to_its_start(tmp_path, layout):
    path = plan_file(tmp_path)
    with pytest.raises(UserError, match="is a plan for model m, not tiny; allowed: a plan of the same model"):
        FastAV(plan=path).cuts(layout.with_facts(model="tiny"), 6)
    FastAV(plan=path).cuts(layout.with_facts(model="m"), 6)
    FastAV(plan=plan_file(tmp_path, n_layers=None), start=3).cuts(layout, 7)


@pytest.mark.parametrize(
    "fields",
    [
        {"threshold": float("nan")},
        {"curve": [0.5, 0.3, float("inf"), 0.1]},
        {"curve": ["a", 0.3, 0.2, 0.1]},
        {"curve": []},
        {"curve": [0.5]},
        {"curve": [10**400, 0.3, 0.2, 0.1]},
        {"start": "3"},
        {"start": 0},
        {"model": None},
    ],
    ids=str,
)
def test_a_plan_that_no_calibration_can_have_made_is_refused(tmp_path, layout, fields):
    path = plan_file(tmp_path, **fields)
    try:
        outcome = FastAV(plan=path).cuts(layout, 6)
    except Exception as error:
        outcome = error
    assert isinstance(outcome, UserError) and f"cannot use {path} as a plan" in str(outcome), repr(outcome)[:200]


def test_a_plan_appears_whole_or_not_at_all(tmp_path):
    """A file may grow to 4,096 bytes there, as on a disk that is full."""
    code = """
import resource, sys
from fastav.plan import Plan
plan = Plan("m", 3, "column", 0.5, 1, 0.5, 0.25, (0.125,) * 2000, (0.125,) * 2000)
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
try:
    plan.write(sys.argv[1])
except Exception as error:
    print(type(error).__name__, error)
"""
    path = tmp_path / "plan.json"
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, cwd=ROOT)
    assert list(tmp_path.iterdir()) == [], done.stderr
    assert done.stdout.startswith(f"UserError cannot write {path} (File too large); give --output a new file in a folder")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("fastvv", f"unknown method 'fastvv'; allowed: {', '.join(sorted(METHODS))}, and trim"),
        ("fastav:q=1", "unknown setting 'q=1' of fastav; allowed: start=, p="),
        ("fastav:p=high", "p must be a whole number, got 'high'"),
        ("fastav:p=-", "p must be a whole number, got '-'; allowed: 1 to 18 digits"),
        ("fastav:p=+5", "p must be a whole number, got '+5'; allowed: 1 to 18 digits"),
        ("fastav:p=1_0", "p must be a whole number, got '1_0'; allowed: 1 to 18 digits"),
        ("fastav:p= 5", "p must be a whole number, got ' 5'; allowed: 1 to 18 digits"),
        ("fastav:p=", "p must be a whole number, got ''; allowed: 1 to 18 digits"),
        ("fastav:p=5.0", "p must be a whole number, got '5.0'; allowed: 1 to 18 digits"),
        ("fastav:p=101", "from 0 to 100, got 101"),
        ("fastav:rule=best", "unknown rule 'best'; allowed: model, all"),
        ("fastav:rule=first(N)", "unknown rule 'first(N)'"),
        ("fastav:fine=all", "unknown fine 'all'; allowed: low, top, random"),
        ("fastav:protect=none", "unknown protect 'none'; allowed: text, last"),
        ("fastav:start=8", "start must be from 1 to 7 for this model of 8 layers, got 8"),
        ("vanilla:p=3", "unknown setting 'p=3' of vanilla; allowed: none"),
    ],
)
def test_bad_text_forms_say_what_is_allowed(text, message):
    with pytest.raises(UserError, match=re.escape(message)):
        parse(text, 8)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("p=\u00b2", "p must be a whole number, got '\u00b2'; allowed: 1 to 18 digits"),
        ("p=\u0663", "p must be a whole number, got '\u0663'"),
        ("p=--5", "p must be a whole number, got '--5'"),
        ("seed=" + "9" * 5000, "seed must be a whole number"),
        ("p=10,p=20", "p is given twice, as 10 and '20'; allowed: once"),
        ("rule=first(\u0663)", "unknown rule 'first(\u0663)'"),
        ("rule=first(" + "9" * 5000 + ")", "unknown rule 'first(9"),
    ],
)
def test_a_number_is_plain_digits_and_a_setting_is_given_once(text, message):
    """Also where Python's own int() takes more, or str.isdigit() says yes and int() no."""
    try:
        method = parse(f"fastav:{text}", 8)
    except Exception as error:
        method = error
    assert isinstance(method, UserError) and message in str(method), repr(method)[:200]


def test_a_setting_has_the_type_of_its_field(monkeypatch):
    @dataclass(frozen=True)
    class Ramp:
        ratio: float = 0.5
        late: float | None = None
        steps: int | None = None
        even: bool = False
        name: str = ""

        def cuts(self, layout, n_layers):
            return {}

    monkeypatch.setitem(methods.METHODS, "ramp", Ramp)
    assert parse("ramp:ratio=0.25,late=-1e-3,steps=-7,even=true,name=7") == Ramp(0.25, -0.001, -7, True, "7")
    assert parse("ramp:ratio=3,even=False") == Ramp(3.0, even=False) and type(parse("ramp:ratio=3").ratio) is float
    for text in (
        "ratio=nan",
        "ratio=inf",
        "ratio=1e999",
        "ratio=1_0",
        "ratio= 1",
        "ratio=0x1",
        "ratio=",
        "ratio=.",
        "late=\u00b2",
    ):
        name, value = text.split("=")
        with pytest.raises(UserError, match=re.escape(f"{name} must be a number, got {value!r}; allowed: finite ones such as")):
            parse(f"ramp:{text}")
    with pytest.raises(UserError, match="even must be a yes or no, got '1'; allowed: true, false"):
        parse("ramp:even=1")


def test_whatever_is_typed_is_a_method_or_a_user_error(layout):
    """5,000 seeded texts: pieces of the grammar, and characters that int() or a pattern might take for digits."""
    pieces = [
        "fastav",
        "vanilla",
        "trim",
        "+",
        ":",
        ",",
        "=",
        *"p start rule fine protect seed first( ) random low 20 4 -".split(),
    ]
    pieces += [" ", "\n", "\0", "\u00b2", "\u0663", "_", ".", "e9", "nan", "None", "9" * 20, "\U0001d7d9", "\ud800", "model"]
    rng = random.Random(0)
    n_parsed, others = 0, []
    for _ in range(5_000):
        text = rng.choice(("", "fastav:", "fastav:p=", "fastav:seed=", "fastav:rule=", "trim+")) + "".join(
            rng.choice(pieces) for _ in range(rng.randrange(8))
        )
        try:
            method = parse(text, 6)
            assert parse(str(method), 6) == method
            method.cuts(layout, 6)
            n_parsed += 1
        except UserError:
            continue
        except Exception as error:
            others.append((text, error))
    assert not others, others[:3]
    assert n_parsed > 100
    with pytest.raises(UserError, match="trims twice"):
        parse("trim+" * 5000)


def test_text_form_round_trips():
    method = parse("fastav:p=30,rule=first(750),fine=random,seed=4", 28)
    assert str(method) == "fastav:start=14,p=30,rule=first(750),fine=random,protect=text,seed=4"
    assert parse(str(method), 28) == method


def test_informative_without_a_curve_says_how_to_get_one(layout):
    with pytest.raises(UserError, match="python -m fastav calibrate"):
        FastAV(rule="low-informative").cuts(layout, 6)


@pytest.mark.parametrize(
    "layout, rule, percent",
    [
        (TokenLayout.of(("text", 14), ("video", 676, 4), ("audio", 1496, 800), ("text", 20)), lambda t: first_audio(t, 10), 39),
        (
            # 10 s: 60 audio tokens in 10 frames, of which 20 hold sound: all of frames 0-2 and two of frame 3.
            TokenLayout.of(
                ("text", 14),
                *(part for i in range(10) for part in (("video", 182, 1), ("audio", 6, min(max(20 - 6 * i, 0), 6)))),
                ("text", 16),
            ),
            lambda t: first_steps(t, 4),
            56,
        ),
    ],
    ids=["VideoLLaMA2", "video-SALMONN 2"],
)
def test_trim_reaches_the_designs_flops_on_a_10_s_clip(layout, rule, percent):
    """The paper's formula on the 7B decoder's lengths; the whole prompt through all layers = 100."""
    config = Qwen2Config(hidden_size=3584, intermediate_size=18944, num_hidden_layers=28)
    method = parse("trim+fastav", 28)
    layout = layout.with_facts(rule_keep=rule(layout))
    sizes = lengths(method, layout.subset(method.enters(layout)), 28)
    assert sizes[0] == len(layout) - layout.audio_padding.sum()
    assert round(100 * paper_flops(sizes, config) / paper_flops([len(layout)] * 28, config)) == percent


def test_trim_leaves_out_padding_alone_and_says_so_where_it_cannot():
    layout = TokenLayout.of(("text", 3), ("video", 4, 2), ("audio", 5, 2), ("text", 2))
    method = parse("trim+fastav:p=0,rule=all", 4)
    assert (
        str(method).startswith("trim+fastav:start=2,p=0,rule=all") and str(parse("trim")) == str(parse("trim+vanilla")) == "trim"
    )
    keep = method.enters(layout)
    assert np.flatnonzero(~keep).tolist() == [9, 10, 11]
    shorter = layout.subset(keep)
    assert shorter.runs() == [["text", -1, 3], ["video", 0, 2], ["video", 1, 2], ["audio", -1, 2], ["text", -1, 2]]
    assert lengths(method, shorter, 4) == [11] * 4
    with pytest.raises(UserError, match="needs a prompt without its 3 padding tokens"):
        lengths(method, layout, 4)
    for text, said in (("trim+fastvv", "unknown method 'fastvv'"), ("trim+", "unknown method ''"), ("trim+trim", "trims twice")):
        with pytest.raises(UserError, match=f"{said}.*trim or trim.METHOD"):
            parse(text)


def test_trim_alone_goes_with_vanilla():
    assert parse("trim") == parse("trim+vanilla") == parse("trim", 8) == methods.Trim(Vanilla())
    assert parse("trim+fastav") == methods.Trim(FastAV())


# --- one cut


def kept_by(method, layout):
    """Original positions of the media tokens that stay, by plain sorting of a known score."""
    ((cut,),) = method.cuts(layout, 6).values()
    free = np.flatnonzero(cut.candidates)
    gone = sorted(free, key=lambda p: (cut.score.by_position[p], -p))[: cut.n_removed]
    return sorted(set(free.tolist()) - {int(p) for p in gone})


def test_stride_keeps_the_middles_of_equal_parts_by_hand():
    """10 media tokens at positions 2..11, 4 stay: parts of 2.5 tokens, whose middles are tokens 1, 3, 6 and 8."""
    layout = TokenLayout.of(("text", 2), ("video", 6, 2), ("audio", 4), ("text", 2))
    assert kept_by(parse("stride:keep=0.4", 6), layout) == [3, 5, 8, 10]
    assert lengths(parse("stride:keep=0.4"), layout, 6) == [14, 14, 14, 8, 8, 8]
    assert lengths(parse("stride:keep=0.4,start=0"), layout, 6) == [8] * 6
    assert lengths(parse("stride:keep=1"), layout, 6) == [14] * 6
    assert lengths(parse("stride:keep=0"), layout, 6) == [14, 14, 14, 4, 4, 4]


@pytest.mark.parametrize(("keep", "n"), [(0.25, 2), (0.35, 4), (0.45, 4), (0.5, 5)])
def test_a_share_is_rounded_half_to_even(keep, n):
    """Of 10: 2.5 to 2, 3.5 to 4, 4.5 to 4."""
    layout = TokenLayout.of(("text", 2), ("video", 10), ("text", 2))
    assert len(kept_by(parse(f"random:keep={keep}"), layout)) == n


def test_random_keeps_differ_by_seed_and_request_and_repeat(layout):
    first = kept_by(parse("random:keep=0.5"), layout)
    assert first == kept_by(parse("random:keep=0.5"), layout)
    assert first != kept_by(parse("random:keep=0.5,seed=1"), layout)
    assert first != kept_by(parse("random:keep=0.5"), layout.with_facts(request_id="another"))


def test_the_last_token_stays_even_if_it_is_media():
    layout = TokenLayout.of(("text", 2), ("video", 8))
    assert 9 not in np.flatnonzero(candidates(layout))
    assert lengths(parse("random:keep=0"), layout, 4)[-1] == 3


def golden_divprune():
    folder = Path(__file__).parent / "golden" / "methods"
    tensors = load_file(folder / "divprune.safetensors")
    return [(case, tensors) for case in json.loads((folder / "divprune.json").read_text())["cases"]]


@pytest.mark.parametrize(("case", "tensors"), golden_divprune())
def test_divprune_picks_what_the_reference_code_picked(case, tensors):
    features = tensors[case["name"] + ".features"]
    n_kept = round(case["settings"]["keep_ratio"] * len(features))
    picked = farthest(features, n_kept)
    assert picked.tolist() == tensors[case["name"] + ".picked"].tolist()
    assert sorted(picked.tolist()) == tensors[case["name"] + ".keep"].tolist()


def test_divprune_equals_the_slow_rule_and_takes_no_token_twice():
    """Double loops in numpy. 1,300 tokens cross a block; 40 of them are copies of others."""
    features = np.random.default_rng(3).standard_normal((1300, 6))
    features[:40] = features[100:140]
    features = np.pad(features, ((0, 0), (0, 1)))
    features[1250] = [0, 0, 0, 0, 0, 0, 1]  # the first pick, beyond the first block
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    distance = 1 - unit @ unit.T
    others = distance + np.diag([np.inf] * len(unit))
    want = [int(others.min(1).argmax())]
    for _ in range(59):
        nearest = distance[want].min(0)
        nearest[want] = -np.inf
        want.append(int(nearest.argmax()))
    assert want[0] == 1250
    assert farthest(torch.from_numpy(features), 60).tolist() == want
    few = torch.ones(5, 3)
    assert sorted(farthest(few, 4).tolist()) == [0, 1, 2, 3]


def picks(method, layout, features):
    """Original positions that a method of one cut keeps, of float [N, D]."""
    values, _ = method.score(layout).compute(layout, features)
    return torch.nonzero(values)[:, 0].tolist()


def test_diverse_without_mix_is_divprunes_rule_and_with_all_of_it_stride(layout):
    """Oracles: the two methods. 54 audio and video tokens: 16 stay."""
    features = torch.from_numpy(np.random.default_rng(2).standard_normal((66, 5)))
    assert picks(parse("diverse:keep=0.3"), layout, features) == picks(parse("divprune:keep=0.3"), layout, features)
    stride = np.flatnonzero(parse("stride:keep=0.3").score(layout).by_position).tolist()
    assert picks(parse("diverse:keep=0.3,mix=1"), layout, features) == stride and len(stride) == 16


def test_diverse_takes_its_share_evenly_and_the_others_far_from_all(layout):
    """The slow rule: 8 of 16 at equal distances, then one by one the token whose nearest of those that stay is farthest."""
    features = np.random.default_rng(4).standard_normal((66, 5))
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    distance = 1 - unit @ unit.T
    want = [5 + (2 * i + 1) * 54 // 16 for i in range(8)]
    while len(want) < 16:
        nearest = distance[want].min(0)
        nearest[[*want, *range(5), *range(59, 66)]] = -np.inf
        want.append(int(nearest.argmax()))
    assert picks(parse("diverse:keep=0.3,mix=0.5"), layout, torch.from_numpy(features)) == sorted(want)


def test_diverse_chooses_within_blocks_when_there_are_many_tokens(layout, monkeypatch):
    """Oracle: the rule on each of three blocks of 18 tokens alone, with its share of 20: 6, 7 and 7."""
    monkeypatch.setattr("fastav.methods.diverse._BLOCK", 20)
    features = torch.from_numpy(np.random.default_rng(5).standard_normal((66, 5)))
    blocks = [range(5 + 18 * i, 5 + 18 * (i + 1)) for i in range(3)]
    want = [
        block[i]
        for block, k in zip(blocks, (6, 7, 7), strict=True)
        for i in sorted(farthest(features[block[0] : block[-1] + 1], k).tolist())
    ]
    assert picks(parse("diverse:keep=0.37"), layout, features) == want


def test_all_and_none_may_stay_of_a_diverse_cut(layout):
    features = torch.ones(66, 3)
    assert picks(parse("diverse:keep=1,mix=0.3"), layout, features) == list(range(5, 59))
    assert picks(parse("diverse:keep=0"), layout, features) == []


def test_lookahead_asks_with_the_text_after_the_media(layout):
    """By hand: positions 59 to 65 of 66. A prompt that ends in media is asked by its last token."""
    score = parse("fastav:fine=lookahead", 6).cuts(layout, 6)[3][0].score
    assert score.question.tolist() == list(range(59, 66)) and score.weights == "next"
    ends = TokenLayout.of(("text", 3), ("video", 8, 2), ("audio", 9))
    assert parse("fastav:fine=lookahead,rule=all", 6).cuts(ends, 6)[3][0].score.question.tolist() == [19]
    with pytest.raises(UserError, match="allowed with it: protect=text"):
        parse("fastav:fine=lookahead,protect=last")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("stride:keep=1.5", "keep must be a number from 0 to 1, got 1.5"),
        ("stride:start=-1", "start must be a whole number of at least 0, got -1"),
        ("random:start=6", "start must be from 0 to 5 for this model of 6 layers, got 6"),
        ("divprune:p=3", "unknown setting 'p=3' of divprune; allowed: start=, keep="),
    ],
)
def test_settings_of_one_cut_say_what_is_allowed(text, message):
    with pytest.raises(UserError, match=re.escape(message)):
        parse(text, 6)


def test_every_setting_has_one_line_of_help():
    for kind in METHODS.values():
        for field in fields(kind):
            assert field.metadata["help"] and "\n" not in field.metadata["help"]


@pytest.mark.parametrize(
    ("low", "high", "allowed"),
    [
        (None, 1, "a number of at most 1"),
        (0, None, "a number of at least 0"),
        (0, 1, "a number from 0 to 1"),
        (None, None, "a number"),
    ],
)
def test_a_setting_may_have_either_limit_or_none(low, high, allowed):
    setting = Setting("x", float, 0.5, low=low, high=high)
    assert setting.allowed == allowed
    setting.check(0.5)
    for value in (float("nan"), "0.5", True, *([] if low is None else [-0.1]), *([] if high is None else [1.1])):
        with pytest.raises(UserError, match=f"x must be {allowed}, got"):
            setting.check(value)


def test_a_whole_share_is_written_without_a_point():
    assert str(parse("stride:keep=1.0,start=0")) == "stride:start=0,keep=1"
    assert str(parse("diverse:mix=0,keep=0.10")) == "diverse:keep=0.1,mix=0"
    assert str(FastAV(plan="a.0")).endswith("plan=a.0,seed=0")


@pytest.mark.parametrize("seed", [1.5, "x", -1])
@pytest.mark.parametrize("kind", [kind for kind in METHODS.values() if "seed" in (each.name for each in settings(kind))])
def test_what_a_method_is_built_with_can_be_written_and_read_back(kind, seed):
    with pytest.raises(UserError, match="seed must be a whole number of at least 0, got"):
        kind(seed=seed)


def test_a_setting_that_names_a_file_is_a_plan():
    """The digest of a record and the refusals of a resumed run go by this name (provenance.plan_file)."""
    assert {each.name for kind in METHODS.values() for each in settings(kind) if each.file} == {"plan"}
