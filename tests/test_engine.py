"""The mechanism, against the masked full-sequence run (tests/masked.py) and against the stock model."""

import threading

import numpy as np
import pytest
import torch
from conftest import N_LAYERS, greedy, holding, prompt, random_qwen2, rotary
from masked import masked_run
from transformers import DynamicCache, Qwen2Config

import fastav
from fastav import decoder, selection
from fastav.errors import UserError
from fastav.layout import TokenLayout
from fastav.methods import FastAV, parse

METHODS = [
    "fastav",
    "fastav:p=50,fine=top",
    "fastav:p=33,fine=random,rule=random,seed=3",
    "fastav:rule=top-attentive,p=0",
    "fastav:rule=low-attentive,protect=last,p=40",
    "fastav:rule=none,protect=last",
    "fastav:rule=all,start=1,p=30",
    "fastav:rule=first(20),start=5",
    "stride:keep=0.3",
    "stride:start=0,keep=0.4",
    "random:start=1,keep=0.25,seed=2",
    "random:start=0,keep=0.5",
    "divprune:keep=0.3",
    "divprune:start=2,keep=0.4",
    "diverse:start=2,keep=0.3,mix=0.5",
    "diverse:start=0,keep=0.4",
    "fastav:p=30,fine=lookahead,rule=all,start=2",
    "fastv",
    "fastv:start=3,video=0.3,audio=0.7,weights=own",
    "fastv:start=1,audio=0",
    "vtw",
    "vtw:start=1",
    "evs:keep=0.5",
    "vidcom2:keep=0.4",
    "pyramiddrop",
    "pyramiddrop:first=0.8,second=0.55,third=0",
    "omnizip",
    "omnizip:keep_audio=0.2,keep_video=0.7,merge=9",
    "seats",
    "seats:keep_video=0.1,keep_audio=0.2",
    "evs:keep=0.5+fastav:p=30",
    "divprune:keep=0.5+fastav:rule=low-attentive,start=2",
    "fastav:keep=0.4",
]


@pytest.mark.parametrize("attn", ["sdpa", "eager"])
@pytest.mark.parametrize("text", METHODS)
def test_pruned_run_equals_full_run_with_removed_keys_masked(layout, text, attn):
    model, method = random_qwen2(), parse(text)
    ids = prompt(model)
    embeds = model.get_input_embeddings()(ids)
    cuts = method.cuts(layout, N_LAYERS)
    kept, logits, new = masked_run(model.model, model.lm_head, embeds, cuts, 7, rotary(model), layout)
    fastav.install(model)
    model.set_attn_implementation(attn)
    cache = fastav.PrunedCache(model.config, layout, method)
    got, got_logits = greedy(model, 7, input_ids=ids, **holding(model, cache))
    assert cache.kept() == kept
    assert got == new
    assert torch.allclose(got_logits, logits, rtol=0, atol=1e-10)
    assert [len(k) for k in kept] == cache.lengths != [66] * N_LAYERS


def test_inputs_embeds_prefill_equals_token_ids(model, layout):
    fastav.install(model)
    ids = prompt(model)
    by_ids = greedy(model, input_ids=ids, **holding(model, fastav.PrunedCache(model.config, layout, FastAV())))
    embeds = model.get_input_embeddings()(ids)
    by_embeds = greedy(model, inputs_embeds=embeds, **holding(model, fastav.PrunedCache(model.config, layout, FastAV())))
    assert by_ids[0] == by_embeds[0]
    assert torch.equal(by_ids[1], by_embeds[1])


def test_layers_that_return_tuples_are_pruned_alike(model, layout):
    """Older models' layers return (hidden, ...). Oracle: the same layers returning tensors."""
    ids, got = prompt(model), []
    for as_tuple in (False, True):
        each = random_qwen2()
        if as_tuple:
            for layer in each.model.layers:
                layer.forward = lambda *args, own=layer.forward, **kwargs: (own(*args, **kwargs), "attention")
        fastav.install(each)
        if as_tuple:  # runs after FastAV's hook, so that the model around the layers still gets a tensor
            for layer in each.model.layers:
                layer.register_forward_hook(lambda module, args, output: output[0])
        cache = fastav.PrunedCache(each.config, layout, FastAV())
        got.append((greedy(each, input_ids=ids, **holding(each, cache)), cache.kept()))
    (tensors, kept), (tuples, kept_of_tuples) = got
    assert kept == kept_of_tuples and tensors[0] == tuples[0] and torch.equal(tensors[1], tuples[1])


@pytest.mark.parametrize("attn", ["sdpa", "eager"])
def test_keep_all_and_p_zero_is_vanilla_token_for_token(layout, attn):
    model = random_qwen2(attn)
    ids = prompt(model)
    want = greedy(model, 20, input_ids=ids)
    fastav.install(model)
    cache = fastav.PrunedCache(model.config, layout, FastAV(rule="all", p=0))
    got = greedy(model, 20, input_ids=ids, **holding(model, cache))
    assert got[0] == want[0]
    assert torch.equal(got[1], want[1])


def test_vanilla_after_pruned_is_bit_identical_to_before(model, layout):
    ids = prompt(model)
    before = greedy(model, input_ids=ids)
    fastav.install(model)
    fastav.install(model)  # twice is once
    assert all(len(layer._forward_hooks) == 1 for layer in model.model.layers)
    greedy(model, input_ids=ids, **holding(model, fastav.PrunedCache(model.config, layout, FastAV(p=60))))
    after = greedy(model, input_ids=ids, **holding(model, DynamicCache(config=model.config)))
    assert before[0] == after[0]
    assert torch.equal(before[1], after[1])


def test_threads_mixing_vanilla_and_pruned_get_the_right_tokens(model, layout):
    fastav.install(model)
    ids = [prompt(model, seed=s) for s in range(4)]

    def run(i):
        cache = fastav.PrunedCache(model.config, layout, FastAV(p=60, rule="none")) if i % 2 else None
        return greedy(model, 12, input_ids=ids[i], **holding(model, cache))[0]

    want = [run(i) for i in range(4)]
    got = [None] * 4
    threads = [threading.Thread(target=lambda i=i: got.__setitem__(i, run(i))) for i in range(4)]
    [t.start() for t in threads]
    [t.join() for t in threads]
    assert got == want


@pytest.mark.parametrize("attn", ["sdpa", "eager"])
def test_left_padded_batch_gives_each_row_its_own_answer(layout, attn):
    """Oracle: each row alone, without padding. Pads leave in the global stage; kept sets differ from row to row."""
    model = random_qwen2(attn)
    fastav.install(model)
    rows = torch.cat([prompt(model, seed=s) for s in (1, 2)])
    method = FastAV(p=40, rule="low-attentive")
    pads = 3
    padded = TokenLayout.of(("pad", pads), ("text", 5), ("video", 24, 4), ("audio", 30), ("text", 7))
    padded = padded.with_facts(rule_keep=np.concatenate([np.zeros(pads, bool), layout.rule_keep]))
    cache = fastav.PrunedCache(model.config, padded, method)
    mask = torch.cat([torch.zeros(2, pads, dtype=torch.long), torch.ones_like(rows)], 1)
    ids = torch.cat([torch.zeros(2, pads, dtype=torch.long), rows], 1)
    out = model.generate(ids, attention_mask=mask, **holding(model, cache), max_new_tokens=6, do_sample=False)
    kept = []
    for row in range(2):
        alone = fastav.PrunedCache(model.config, layout, method)
        want, _ = greedy(model, input_ids=rows[row : row + 1], **holding(model, alone))
        assert out[row, -6:].tolist() == want
        start = N_LAYERS // 2
        assert [[p - pads for p in k] for k in cache.kept(row)[start:]] == alone.kept()[start:]
        kept.append(alone.kept()[-1])
    assert kept[0] != kept[1]


def test_last_query_score_is_the_last_row_of_eager_attention(model):
    ids = prompt(model)
    cache = DynamicCache(config=model.config)
    seen = {}
    layer = model.model.layers[2]
    handle = layer.register_forward_hook(lambda m, args, kwargs, out: seen.update(hidden=args[0], **kwargs), with_kwargs=True)
    weights = model(ids, **holding(model, cache), output_attentions=True).attentions[2]
    handle.remove()
    score = decoder.last_query_score(layer, seen["hidden"], seen["position_embeddings"], cache.layers[2].keys)
    assert torch.allclose(score, weights.mean(1)[:, -1], rtol=0, atol=1e-12)
    hidden, keys, *cos_sin = (t.to(torch.bfloat16) for t in (seen["hidden"], cache.layers[2].keys, *seen["position_embeddings"]))
    half = decoder.last_query_score(layer.to(torch.bfloat16), hidden, cos_sin, keys)
    assert half.dtype == torch.float32


def test_of_equal_scores_the_later_position_leaves():
    """By hand: 0.5 three times among candidates 1..4, two leave: position 4 holds the lowest, then the latest of the equals."""
    score = torch.tensor([[0.0, 0.5, 0.5, 0.5, 0.1]])
    free = torch.tensor([[False, True, True, True, True]])
    assert selection.select(score, free, 3).tolist() == [[0, 1, 2]]
    assert selection.select(score, free, 3, high=True).tolist() == [[0, 1, 4]]  # 3, then 2


def test_without_install_a_pruned_cache_refuses_to_run_unpruned(model, layout):
    with pytest.raises(UserError, match=r"layer 3 computed on 66 tokens, but .* leaves 41; call fastav.install"):
        greedy(model, input_ids=prompt(model), **holding(model, fastav.PrunedCache(model.config, layout, FastAV())))


def test_calls_that_would_go_silently_wrong_are_refused(model, layout):
    fastav.install(model)
    ids = prompt(model)

    def cache(**settings):
        return fastav.PrunedCache(model.config, layout, FastAV(**settings))

    with pytest.raises(UserError, match="65 tokens, its layout 66"):
        greedy(model, input_ids=ids[:, 1:], **holding(model, cache()))
    with pytest.raises(UserError, match="prefill_chunk_size"):
        greedy(model, input_ids=ids, **holding(model, cache()), prefill_chunk_size=16)
    with pytest.raises(UserError, match="use_cache=False"):
        model(ids, **holding(model, cache()), use_cache=False)
    used = cache()
    greedy(model, input_ids=ids, **holding(model, used))
    with pytest.raises(UserError, match="already holds a prompt"):
        model(ids, **holding(model, used))
    with pytest.raises(UserError, match="assisted"):
        used.crop(-1)
    with pytest.raises(UserError, match="start must be from 1 to 5 for this model of 6 layers, got 6"):
        cache(start=6)
    with pytest.raises(UserError, match="at least 1, got 0"):
        cache(start=0)
    with pytest.raises(UserError, match="compiled"):
        fastav.install(torch.compile(model))


def test_assisted_decoding_is_refused(model, layout):
    fastav.install(model)
    with pytest.raises((UserError, ValueError)):
        greedy(
            model,
            input_ids=prompt(model),
            assistant_model=random_qwen2(n_layers=2),
            **holding(model, fastav.PrunedCache(model.config, layout, FastAV())),
        )


def test_sliding_window_layers_are_refused_from_start_on_and_allowed_before(layout):
    def config(first_sliding):
        return Qwen2Config(
            vocab_size=97,
            hidden_size=48,
            intermediate_size=64,
            num_hidden_layers=6,
            num_attention_heads=4,
            num_key_value_heads=2,
            layer_types=["sliding_attention" if i == first_sliding else "full_attention" for i in range(6)],
            use_sliding_window=True,
            sliding_window=8,
        )

    with pytest.raises(UserError, match="layer 4 uses sliding_attention"):
        fastav.PrunedCache(config(4), layout, FastAV())
    fastav.PrunedCache(config(1), layout, FastAV())


def test_models_with_deepstack_need_a_start_after_the_last_injection(layout):
    config = Qwen2Config(num_hidden_layers=6)
    config.vision_config = type("Vision", (), {"deepstack_visual_indexes": [1, 2, 3]})()
    with pytest.raises(UserError, match="start must be at least 4, got 2"):
        fastav.PrunedCache(config, layout, FastAV(start=2))
    fastav.PrunedCache(config, layout, FastAV(start=4))


def test_hooks_leave_position_ids_out_of_pruned_layers(model, layout):
    """Gappy position ids look like packed sequences to FlashAttention."""
    fastav.install(model)
    seen = []
    for layer in model.model.layers:
        layer.self_attn.register_forward_pre_hook(
            lambda m, args, kwargs: seen.append(kwargs.get("position_ids")), with_kwargs=True
        )
    model(prompt(model), **holding(model, fastav.PrunedCache(model.config, layout, FastAV())))
    assert [p is None for p in seen] == [False] * 3 + [True] * 3


def test_no_layer_waits_for_the_host(model, layout, monkeypatch):
    """On a CPU stand-in for CUDA's sync check: nothing in the hooks reads a value or a data-dependent shape. A model's first
    pruned request is apart: it proves once that the layers rotate their queries.
    """
    fastav.install(model)
    model(prompt(model), **holding(model, fastav.PrunedCache(model.config, layout, FastAV(rule="low-attentive"))))
    cache = fastav.PrunedCache(model.config, layout, FastAV(rule="low-attentive"))
    for name in ("item", "tolist", "nonzero", "__bool__", "cpu", "numpy", "__int__", "__float__"):
        monkeypatch.setattr(torch.Tensor, name, _forbidden(name, getattr(torch.Tensor, name)))
    model.model.layers[0].register_forward_pre_hook(lambda *a: _ARMED.set())
    model.model.layers[-1].register_forward_hook(lambda *a: _ARMED.clear())
    model(prompt(model), **holding(model, cache), attention_mask=None)


_ARMED = threading.Event()


def _forbidden(name, real):
    def method(self, *args, **kwargs):
        assert not _ARMED.is_set(), f"Tensor.{name} between layers"
        return real(self, *args, **kwargs)

    return method


def test_offloaded_weights_give_the_same_tokens(model, layout, tmp_path):
    """accelerate keeps weights on the meta device outside the module call; the score must not read them directly."""
    from accelerate import disk_offload

    ids = prompt(model)
    fastav.install(model)
    want = greedy(model, input_ids=ids, **holding(model, fastav.PrunedCache(model.config, layout, FastAV())))
    disk_offload(model, str(tmp_path), execution_device=torch.device("cpu"))
    assert model.model.layers[4].self_attn.q_proj.weight.is_meta
    got = greedy(model, input_ids=ids, **holding(model, fastav.PrunedCache(model.config, layout, FastAV())))
    assert got[0] == want[0]


def test_streaming_sampling_and_stopping_still_work(model, layout):
    """Sampling with a seed through the hooks = sampling with the same seed under keep-all, when nothing is pruned."""
    fastav.install(model)
    ids = prompt(model)

    def sample(cache):
        torch.manual_seed(5)
        return model.generate(ids, do_sample=True, max_new_tokens=8, **holding(model, cache))[0, -8:].tolist()

    assert sample(fastav.PrunedCache(model.config, layout, FastAV(rule="all", p=0))) == sample(None)
    beams = model.generate(
        ids,
        num_beams=3,
        do_sample=False,
        max_new_tokens=6,
        **holding(model, fastav.PrunedCache(model.config, layout, FastAV(rule="all", p=0))),
    )
    assert beams.tolist() == model.generate(ids, num_beams=3, do_sample=False, max_new_tokens=6).tolist()
