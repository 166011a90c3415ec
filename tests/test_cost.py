"""FLOPs against the paper's table, fvcore and each other; bytes and peaks by hand. No weights anywhere."""

import pytest
import torch
from conftest import random_qwen2
from torch import nn
from transformers import DynamicCache, Qwen2_5OmniThinkerConfig, Qwen2Config

from fastav import cost
from fastav.layout import TokenLayout, first_audio
from fastav.methods import FastAV, lengths

QWEN2_7B = Qwen2Config(
    vocab_size=152064,
    hidden_size=3584,
    intermediate_size=18944,
    num_hidden_layers=28,
    num_attention_heads=28,
    num_key_value_heads=4,
)
N = 2206


def videollama2_lengths(p):
    """676 video + 1,496 audio + 34 text tokens; keep 676 + 10 + text from layer 14 on."""
    layout = TokenLayout.of(("text", 14), ("video", 676, 4), ("audio", 1496), ("text", 20))
    return lengths(FastAV(start=14, p=p), layout.with_facts(rule_keep=first_audio(layout, 10)), 28)


@pytest.mark.parametrize(
    ("p", "paper", "gqa", "published"),
    [(0, 65.46, 65.62, 65), (10, 58.82, 58.92, 59), (20, 55.71, 55.78, 56), (30, 54.19, 54.24, 54)],
)
def test_relative_flops_of_the_papers_table(p, paper, gqa, published):
    """Table 4 of the paper: 65 / 59 / 56 / 54 of 100."""
    sizes = videollama2_lengths(p)
    by_paper = 100 * cost.paper_flops(sizes, QWEN2_7B) / cost.paper_flops([N] * 28, QWEN2_7B)
    by_gqa = 100 * cost.gqa_flops(sizes, QWEN2_7B) / cost.gqa_flops([N] * 28, QWEN2_7B)
    assert by_paper == pytest.approx(paper, abs=0.01) and round(by_paper) == published
    assert by_gqa == pytest.approx(gqa, abs=0.01)


def test_fvcore_on_meta_equals_the_closed_form_at_7b():
    sizes = videollama2_lengths(20)
    assert cost.fvcore_flops(sizes, QWEN2_7B) == pytest.approx(cost.gqa_flops(sizes, QWEN2_7B), rel=1e-3)


@pytest.mark.parametrize("attn", ["sdpa", "eager"])
def test_fvcore_counts_fused_and_written_out_attention_alike(attn):
    """One whole forward of a stock model against the closed form; the logits here are those of all n positions."""
    model = random_qwen2(attn, n_layers=2).float()
    config, n = model.config, 40

    class Forward(nn.Module):
        def __init__(self):
            super().__init__()
            self.model = model

        def forward(self, embeds):
            return self.model(inputs_embeds=embeds, use_cache=False).logits

    total = 0.0
    for layer in model.model.layers:
        hidden, cos = torch.zeros(1, n, config.hidden_size), torch.zeros(1, n, 12)
        total += cost.count_flops(cost._WithRotary(layer), (hidden, cos, cos))
    assert total == pytest.approx(cost.gqa_flops([n] * 2, config) - config.hidden_size * config.vocab_size, rel=1e-3)


def test_a_matrix_product_that_fvcore_does_not_know_is_an_error():
    class Odd(nn.Module):
        def forward(self, a, b):
            return torch.baddbmm(a, a, b)

    x = torch.zeros(1, 4, 4)
    with pytest.raises(RuntimeError, match="fvcore cannot count aten::baddbmm"):
        cost.count_flops(Odd(), (x, x))


def test_kv_bytes_of_videollama2_by_hand():
    """2 (K, V) x 4 heads x 128 x 2 bytes = 2,048 per token and layer: 2206 x 28 -> 126.5 MB, pruned at P 20 -> 71.0 MB."""
    for sizes, want in (([N] * 28, 126.5e6), (videollama2_lengths(20), 71.0e6)):
        cache = DynamicCache(config=QWEN2_7B)
        for layer, n in enumerate(sizes):
            cache.update(*(torch.empty(1, 4, n + 3, 128, dtype=torch.bfloat16, device="meta") for _ in "kv"), layer)
        got = cost.kv_bytes(cache, sizes)
        assert got == 2 * 4 * 128 * 2 * sum(sizes)  # the 3 generated tokens do not count
        assert got == pytest.approx(want, rel=0.005)


def test_peak_memory_on_cpu_is_the_running_sum_of_allocations():
    """By hand: two 4 MB tensors live at once, one is freed, a third comes: never more than 8 MB. Exact and repeatable."""

    def run():
        a = torch.zeros(1000, 1000)
        b = a + 1
        del a
        return b + 1

    peaks = [cost.peak_memory(run, torch.device("cpu"))[0] for _ in range(2)]
    assert peaks[0] == peaks[1]
    assert peaks[0] == pytest.approx(8e6, rel=1e-3)


def test_clock_ticks_once_per_forward_and_names_nan_logits():
    model = random_qwen2()
    clock = cost.Clock(torch.device("cpu"))
    clock.start()
    model.generate(torch.tensor([[1, 2, 3]]), max_new_tokens=5, do_sample=False, logits_processor=[clock])
    assert len(clock.seconds()) == 5
    model.lm_head.weight.data[:] = torch.nan
    clock = cost.Clock(torch.device("cpu"))
    clock.start()
    model.generate(torch.tensor([[1, 2, 3]]), max_new_tokens=2, do_sample=False, logits_processor=[clock])
    with pytest.raises(cost.UserError, match="NaN logits"):
        clock.seconds()


def test_fvcore_counts_a_decoder_that_automodel_does_not_list():
    """Oracle: the closed form, on Qwen2.5-Omni's text decoder, which is only a part of a larger model."""
    config = Qwen2_5OmniThinkerConfig().get_text_config(decoder=True)
    assert cost.fvcore_flops([300] * 28, config) == pytest.approx(cost.gqa_flops([300] * 28, config), rel=1e-3)
