"""Rollout against the naive product of eager attention maps, and against the curve that needs no model."""

import numpy as np
import pytest
import torch
from conftest import random_qwen2
from transformers import Cache

from fastav import rollout
from fastav.calibrate import plan_of, video_files
from fastav.errors import UserError
from fastav.layout import TokenLayout


@pytest.mark.parametrize("alpha", [0.5, 0.3])
def test_streaming_rollout_equals_the_naive_product(alpha):
    model = random_qwen2("eager").float()
    ids = torch.randint(0, 97, (1, 50), generator=torch.Generator().manual_seed(0))
    attentions = model(ids, output_attentions=True).attentions
    want = torch.eye(50)
    for attention in attentions[:4]:
        want = (alpha * attention[0].mean(0) + (1 - alpha) * torch.eye(50)) @ want
    model.set_attn_implementation("sdpa")
    hooks = [len(layer._forward_hooks) for layer in model.model.layers]
    got = rollout.rollout(model, 4, alpha, input_ids=ids)
    assert torch.allclose(got, want, atol=1e-5)
    assert torch.allclose(got.sum(1), torch.ones(50), atol=1e-5)
    assert [len(layer._forward_hooks) for layer in model.model.layers] == hooks


def test_the_cache_is_found_whatever_layers_call_it():
    """The stock layers, called with their cache under a name that no library has; the naive product again."""
    model = random_qwen2("eager").float()
    ids = torch.randint(0, 97, (1, 20), generator=torch.Generator().manual_seed(0))
    want = torch.eye(20)
    for attention in model(ids, output_attentions=True).attentions[:4]:
        want = (0.5 * attention[0].mean(0) + 0.5 * torch.eye(20)) @ want

    def renamed(layer, args, kwargs):
        (own,) = (name for name, value in kwargs.items() if isinstance(value, Cache))
        layer.own = own
        return args, {"kv" if name == own else name: value for name, value in kwargs.items()}

    class Layer(type(model.model.layers[0])):
        def forward(self, *args, **kwargs):
            return super().forward(*args, **{self.own if name == "kv" else name: v for name, v in kwargs.items()})

    for layer in model.model.layers:
        layer.__class__ = Layer
        layer.register_forward_pre_hook(renamed, with_kwargs=True)
    try:
        got = rollout.rollout(model, 4, input_ids=ids)
    except KeyError as error:
        got = error
    assert torch.is_tensor(got) and torch.allclose(got, want, atol=1e-5), got


@pytest.mark.parametrize("statistic", ["visible-column", "column", "last-row"])
@pytest.mark.parametrize("alpha", [0.5, 1.0])
def test_uniform_influence_is_that_of_the_naive_product(statistic, alpha):
    attention = torch.ones(40, 40, dtype=torch.float64).tril_() / torch.arange(1, 41)[:, None]
    mixed = alpha * attention + (1 - alpha) * torch.eye(40, dtype=torch.float64)
    want = rollout.influence(torch.linalg.matrix_power(mixed, 5), statistic)
    assert np.allclose(rollout.uniform_influence(40, 5, alpha, statistic), want, rtol=1e-6)


def test_uniform_causal_attention_alone_gives_the_published_picture():
    """alpha 0.5, N 512: the first 34 % of the positions hold 84 % of the column sum after 4 layers and 100 % after 14."""
    for n_layers, share in ((4, 0.84), (14, 1.00)):
        columns = rollout.uniform_influence(512, n_layers, 0.5, "column")
        assert float(columns[: int(0.34 * 512)].sum() / columns.sum()) == pytest.approx(share, abs=0.005)


def test_statistics_by_hand():
    matrix = torch.tensor([[1.0, 0.0], [0.4, 0.6]])
    assert rollout.influence(matrix, "visible-column").tolist() == pytest.approx([0.7, 0.6])
    assert rollout.influence(matrix, "column").tolist() == pytest.approx([0.7, 0.3])
    assert rollout.influence(matrix, "last-row").tolist() == pytest.approx([0.4, 0.6])
    with pytest.raises(UserError, match="unknown statistic 'sum'; allowed: visible-column"):
        rollout.influence(matrix, "sum")


def test_calibration_averages_per_offset_and_lets_the_asked_fraction_pass():
    """Two clips with different text lengths: offsets align, text does not count. Means 4, 3, 2, 1; keep 0.5 of 8
    tokens = 4, 3 twice.
    """
    layouts = [TokenLayout.of(("text", n), ("video", 2), ("audio", 2), ("text", 2)) for n in (1, 3)]
    values = [np.array([9, 5, 3, 2, 1, 9, 9.0]), np.array([9, 9, 9, 3, 3, 2, 1, 9, 9.0])]
    plan = plan_of(zip(layouts, values, strict=True), model="m", start=2, keep=0.5)
    assert plan.curve == (4, 3, 2, 1) and plan.threshold == 3 and plan.n_clips == 2
    kept = plan.apply(layouts[1]).rule_keep
    assert np.flatnonzero(kept).tolist() == [3, 4]
    assert len(plan.uniform) == 4 and plan.uniform[0] > plan.uniform[3]
    longer = TokenLayout.of(("text", 1), ("video", 3), ("audio", 3))
    assert plan.apply(longer).rule_keep.tolist() == [False, True, True] + [False] * 4
    with pytest.raises(UserError, match="keep must be a fraction"):
        plan_of([], model="m", start=2, keep=0)
    with pytest.raises(UserError, match="unknown statistic 'sum'; allowed: visible-column"):
        plan_of([], model="m", start=2, statistic="sum")
    with pytest.raises(UserError, match="at least one clip"):
        plan_of([], model="m", start=2)


@pytest.mark.parametrize("alpha", [0, 5, float("nan"), -0.5, "0.5"])
def test_alpha_is_a_weight(alpha):
    layout = TokenLayout.of(("text", 1), ("video", 1), ("audio", 1))
    try:
        outcome = plan_of([(layout, np.ones(3))], model="m", start=2, alpha=alpha)
    except Exception as error:
        outcome = error
    assert isinstance(outcome, UserError) and "alpha must be a weight of attention above 0 and at most 1, got" in str(outcome)


def test_attention_that_is_not_finite_makes_no_plan():
    layout = TokenLayout.of(("text", 1), ("video", 1), ("audio", 1))
    with pytest.raises(UserError, match="not finite; give --dtype bfloat16 or float32"):
        plan_of([(layout, np.array([1, np.nan, 1]))], model="m", start=2)


def test_more_files_than_asked_for_are_drawn_by_a_fixed_seed(tmp_path):
    """Hidden files, sound and other files are not looked at; folders inside are."""
    names = [f"{i % 3}/{i}.mp4" for i in range(12)] + ["a.MKV", ".hidden.mp4", ".trash/b.mp4", "c.wav", "QA.json"]
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    wanted = sorted(tmp_path / name for name in names[:13])
    assert video_files(tmp_path, 13) == video_files(tmp_path, 100) == wanted
    drawn, empty = video_files(tmp_path, 4), tmp_path / "empty"
    empty.mkdir()
    assert drawn != wanted and sorted(drawn) == wanted and drawn == video_files(str(tmp_path), 5)
    with pytest.raises(UserError, match="holds no video file; looked for .3gp, .avi,"):
        video_files(empty, 1)
    with pytest.raises(UserError, match="100 is not a folder; .* -n"):
        video_files("100", 1)
