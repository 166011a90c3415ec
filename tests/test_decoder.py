"""What is used of a stock decoder. Oracles: other stock models of transformers, their own keys and caches, and the masked run."""

import pytest
import torch
from conftest import N_LAYERS, greedy, holding, prompt, random_qwen2, rotary
from masked import masked_run
from torch import nn
from transformers import (
    Cohere2Config,
    DynamicCache,
    MistralConfig,
    MistralForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
    SmolLM3Config,
    SmolLM3ForCausalLM,
    Starcoder2Config,
)

import fastav
from fastav.methods import FastAV, parse

SIZES = dict(
    vocab_size=97,
    hidden_size=48,
    intermediate_size=64,
    num_hidden_layers=N_LAYERS,
    num_attention_heads=4,
    num_key_value_heads=2,
    initializer_range=0.2,
    bos_token_id=None,
    eos_token_id=None,
    pad_token_id=None,
)


def outcome(call):
    """What the call returns, or the text of the UserError or other error it ends with."""
    try:
        return call()
    except Exception as error:
        return f"{type(error).__name__}: {error}"


# --- where the cache stands


@pytest.mark.parametrize("how", ["another name", "by position"])
def test_the_cache_is_found_whatever_it_is_called_and_wherever_it_stands(layout, how):
    """Oracle: the masked run. Hooks before and after FastAV's move the argument, as another transformers would."""
    model, method = random_qwen2(), parse("fastav:p=40,rule=low-attentive")
    ids = prompt(model)
    embeds = model.get_input_embeddings()(ids)
    kept, logits, new = masked_run(model.model, model.lm_head, embeds, method.cuts(layout, N_LAYERS), 5, rotary(model))

    def move(layer, args, kwargs):
        cache = next(name for name, value in kwargs.items() if isinstance(value, DynamicCache))
        if how == "another name":
            return args, {("memory" if name == cache else name): value for name, value in kwargs.items()}
        given = dict(kwargs)
        return (*args, *(given.pop(name) for name in ("attention_mask", "position_ids", cache))), given

    def move_back(layer, args, kwargs):
        name = next(iter(holding(model, None)))
        return args, {(name if key == "memory" else key): value for key, value in kwargs.items()}

    for layer in model.model.layers:
        layer.register_forward_pre_hook(move, with_kwargs=True)
    fastav.install(model)
    for layer in model.model.layers:
        layer.register_forward_pre_hook(move_back, with_kwargs=True)
    cache = fastav.PrunedCache(model.config, layout, method)
    got = outcome(lambda: greedy(model, 5, input_ids=ids, **holding(model, cache))[0])
    assert got == new
    assert cache.kept() == kept


def test_pruned_is_the_cache_under_the_name_that_generate_wants(model, layout):
    """Oracle: the same request by the parts."""
    ids = prompt(model)
    fastav.install(model)
    want = greedy(model, input_ids=ids, **holding(model, fastav.PrunedCache(model.config, layout, FastAV())))[0]
    plain = random_qwen2()  # not installed: pruned does it
    assert greedy(plain, input_ids=ids, **fastav.pruned(plain, layout))[0] == want


class _Stateful(nn.Module):
    """A decoder layer that keeps its keys to itself."""

    def __init__(self):
        super().__init__()
        self.input_layernorm, self.self_attn = nn.Identity(), nn.Module()
        self.self_attn.q_proj = nn.Identity()

    def forward(self, hidden_states, attention_mask=None, **kwargs):
        return hidden_states


def test_layers_that_are_given_no_cache_are_refused_by_install(model):
    model.model.layers = nn.ModuleList(_Stateful() for _ in range(N_LAYERS))
    assert str(outcome(lambda: fastav.install(model))).startswith("UserError: _Stateful takes no cache under transformers ")


def test_a_model_that_withholds_its_cache_is_not_told_to_install(model, layout):
    """By hand: the hooks see no cache, so layer 3 computes on all 66 tokens where 41 are planned."""
    fastav.install(model)
    for layer in model.model.layers:
        layer._forward_pre_hooks.clear()
        layer._forward_hooks.clear()
    cache = fastav.PrunedCache(model.config, layout, FastAV())
    said = outcome(lambda: greedy(model, input_ids=prompt(model), **holding(model, cache)))
    assert "layer 3 computed on 66 tokens" in said and "leaves 41" in said
    assert "call fastav.install" not in said and "does not hand its cache to the decoder layers" in said


# --- layers that are not as the score thinks


def test_layers_without_rotary_positions_are_refused_by_name():
    """SmolLM3 rotates in three layers of four. Scored as if it did in all, other tokens would stay."""
    torch.manual_seed(0)
    model = SmolLM3ForCausalLM(SmolLM3Config(**SIZES, no_rope_layers=[1, 1, 1, 1, 0, 1])).double().eval()
    fastav.install(model)
    layout = fastav.TokenLayout.of(("text", 5), ("video", 24, 4), ("audio", 30), ("text", 7))
    cache = fastav.PrunedCache(model.config, layout, FastAV(p=40, rule="all"))
    said = outcome(lambda: greedy(model, input_ids=prompt(model), **holding(model, cache)))
    assert "UserError: a layer of SmolLM3DecoderLayer makes its keys otherwise" in str(said)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("family", ["qwen2", "qwen3", "smollm3"])
def test_layers_that_rotate_pass_in_any_dtype(family, dtype):
    torch.manual_seed(0)
    model = {
        "qwen2": random_qwen2,
        "qwen3": lambda: Qwen3ForCausalLM(Qwen3Config(**SIZES, head_dim=12)).eval(),
        "smollm3": lambda: SmolLM3ForCausalLM(SmolLM3Config(**SIZES, no_rope_layers=[1] * N_LAYERS)).eval(),
    }[family]().to(dtype)
    layout = fastav.TokenLayout.of(("text", 5), ("video", 24, 4), ("audio", 30), ("text", 7))
    pruning = fastav.pruned(model, layout, FastAV(p=40, rule="all"))
    model.generate(prompt(model), **pruning, max_new_tokens=2, do_sample=False)
    [cache] = pruning.values()
    assert [len(kept) for kept in cache.kept()] == cache.lengths == [66, 66, 66, 66, 45, 32]  # 54 less 21, less 13 of 33


@pytest.mark.parametrize("config", [MistralConfig, Starcoder2Config, Cohere2Config])
def test_sliding_windows_are_refused_though_the_config_lists_no_layer_types(layout, config):
    said = outcome(lambda: fastav.PrunedCache(config(**SIZES, sliding_window=8), layout, FastAV()))
    assert "UserError: layer" in str(said) and "uses sliding_attention, which cannot be pruned" in str(said)


def test_mistral_without_a_window_is_pruned_like_any(layout):
    """Oracle: the masked run."""
    torch.manual_seed(0)
    model = MistralForCausalLM(MistralConfig(**SIZES, sliding_window=None, attn_implementation="eager")).double().eval()
    ids, method = prompt(model), parse("fastav:p=40")
    embeds = model.get_input_embeddings()(ids)
    kept, _, new = masked_run(model.model, model.lm_head, embeds, method.cuts(layout, N_LAYERS), 4, rotary(model))
    pruning = fastav.pruned(model, layout, method)
    got = greedy(model, 4, input_ids=ids, **pruning)[0]
    assert (got, next(iter(pruning.values())).kept()) == (new, kept)


def test_the_layer_before_start_needs_full_attention_too(layout):
    """The global cut may rank by that layer's last query, whose keys a window has not."""
    config = MistralConfig(**SIZES, sliding_window=8)
    config.layer_types = ["full_attention", "full_attention", "sliding_attention", *["full_attention"] * 3]
    said = outcome(lambda: fastav.PrunedCache(config, layout, FastAV(rule="low-attentive")))
    assert "layer 2 uses sliding_attention" in str(said)
