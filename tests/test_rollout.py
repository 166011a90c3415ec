"""Rollout against the naive product of eager attention maps, and against the curve that needs no model."""

import numpy as np
import pytest
import torch
from conftest import random_qwen2

from fastav import rollout
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


def test_uniform_causal_attention_alone_gives_the_published_picture():
    """alpha 0.5, N 512: the first 34 % of the positions hold 84 % of the column sum after 4 layers and 100 % after 14."""
    for n_layers, share in ((4, 0.84), (14, 1.00)):
        columns = rollout.uniform_rollout(512, n_layers).sum(0)
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
    plan = rollout.calibrate(zip(layouts, values, strict=True), model="m", start=2, keep=0.5)
    assert plan.curve == (4, 3, 2, 1) and plan.threshold == 3 and plan.n_clips == 2
    kept = plan.apply(layouts[1]).rule_keep
    assert np.flatnonzero(kept).tolist() == [3, 4]
    assert len(plan.uniform) == 4 and plan.uniform[0] > plan.uniform[3]
    longer = TokenLayout.of(("text", 1), ("video", 3), ("audio", 3))
    assert plan.apply(longer).rule_keep.tolist() == [False, True, True] + [False] * 4
    with pytest.raises(UserError, match="keep must be a fraction"):
        rollout.calibrate([], model="m", start=2, keep=0)
    with pytest.raises(UserError, match="at least one clip"):
        rollout.calibrate([], model="m", start=2)
