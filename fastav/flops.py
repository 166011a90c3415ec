"""Prefill FLOPs: two closed forms, and fvcore's count as the check.

"FLOP" is not well defined: here, as in fvcore, one multiply-add counts one. Counted are the decoder layers at prefill
and the logits of the last position; encoders and decode steps are not. Attention counts all n x n scores, though a
causal kernel may skip half.

Scores that project the keys of tokens once more (`keys_again` of them, see methods/cut.py) count with that product.

Letters: n tokens, d model width, m MLP width, H query heads, G key/value heads, E head width, V vocabulary, L layers.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from importlib import import_module

import torch
from torch import nn
from transformers import MODEL_MAPPING, PreTrainedModel

# Elementwise or reducing operations, which by convention cost nothing beside matrix products. Anything else must be counted.
_FREE_OPS = {
    f"aten::{name}"
    for name in (
        "abs add cos div exp gelu gelu_ mean mul neg pow reciprocal rsqrt rsub sigmoid silu sin softmax sub sum tanh"
    ).split()
}


def gqa_flops(lengths: Sequence[int], config, keys_again: int = 0) -> float:
    """Closed form for a gated-MLP decoder with grouped-query attention; equals the fvcore count.

    Per layer n d (2 H E + 2 G E) + 2 n^2 H E + 3 n d m, plus d V for the last position's logits and d G E for each key again.
    `lengths` [L]: tokens that each layer computes on; `config`: the text decoder's config.
    """
    d, m = config.hidden_size, config.intermediate_size
    head = getattr(config, "head_dim", None) or d // config.num_attention_heads
    q, kv = config.num_attention_heads * head, config.num_key_value_heads * head
    layers = sum(n * d * (2 * q + 2 * kv) + 2 * n * n * q + 3 * n * d * m for n in lengths)
    return float(layers + d * config.vocab_size + keys_again * d * kv)


def paper_flops(lengths: Sequence[int], config, keys_again: int = 0) -> float:
    """The paper's formula (section 3.1, after FastV): 4 n d^2 + 2 n^2 d + 2 n d m per layer, and d^2 for each key again.
    Ignores GQA, the MLP's gate and the logits.
    """
    d, m = config.hidden_size, config.intermediate_size
    return float(sum(4 * n * d * d + 2 * n * n * d + 2 * n * d * m for n in lengths) + keys_again * d * d)


def relative_percent(lengths: Sequence[int], n_tokens: int, config, keys_again: int = 0) -> float:
    """Closed form, vanilla on the same prompt of `n_tokens` = 100."""
    return 100 * gqa_flops(lengths, config, keys_again) / gqa_flops([n_tokens] * len(lengths), config)


def fvcore_flops(lengths: Sequence[int], config, keys_again: int = 0) -> float:
    """fvcore's count over a skeleton of the decoder on the meta device: no weights, no memory, cached by length.

    Raises RuntimeError naming the operation when the decoder uses one that fvcore cannot count and that is not elementwise.
    """
    key = config.to_json_string(use_diff=False)
    logits = config.hidden_size * config.vocab_size
    layers = sum(_layer_flops(key, type(config), n) for n in lengths)
    return float(layers + logits + (_keys_flops(key, type(config), keys_again) if keys_again else 0))


@lru_cache(maxsize=4)
def _skeleton(config_json: str, config_class: type) -> nn.Module:
    import json

    config = config_class.from_dict({**json.loads(config_json), "num_hidden_layers": 1, "layer_types": ["full_attention"]})
    config._attn_implementation = "sdpa"
    with torch.device("meta"):
        return _decoder_class(config_class)(config).layers[0]


def _decoder_class(config_class: type) -> type:
    """The decoder of a config. AutoModel does not list those that come only as a part of a larger model."""
    if config_class in MODEL_MAPPING:
        return MODEL_MAPPING[config_class]
    home = import_module(config_class.__module__.replace(".configuration_", ".modeling_"))
    models = (c for c in vars(home).values() if isinstance(c, type) and issubclass(c, PreTrainedModel))
    return next(c for c in models if c.config_class is config_class)


@lru_cache(maxsize=4096)
def _layer_flops(config_json: str, config_class: type, n: int) -> float:
    layer = _skeleton(config_json, config_class)
    width, head = layer.self_attn.q_proj.in_features, layer.self_attn.head_dim
    hidden, cos_sin = torch.empty(1, n, width, device="meta"), torch.empty(1, n, head, device="meta")
    return count_flops(_WithRotary(layer), (hidden, cos_sin, cos_sin))


def _keys_flops(config_json: str, config_class: type, n: int) -> float:
    project = _skeleton(config_json, config_class).self_attn.k_proj
    return count_flops(project, (torch.empty(1, n, project.in_features, device="meta"),))


class _WithRotary(nn.Module):
    """A decoder layer with (hidden, cos, sin) as positional arguments, which is what a trace needs."""

    def __init__(self, layer: nn.Module):
        super().__init__()
        self.layer = layer

    def forward(self, hidden, cos, sin):
        return self.layer(hidden, position_embeddings=(cos, sin))


def count_flops(module: nn.Module, inputs: tuple) -> float:
    """Multiply-adds of one forward, by fvcore with a handle for fused attention, which it would silently leave out."""
    from fvcore.nn import FlopCountAnalysis

    analysis = FlopCountAnalysis(module, inputs).set_op_handle("aten::scaled_dot_product_attention", _attention_flops)
    analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False)
    total = analysis.total()
    unknown = sorted(set(analysis.unsupported_ops()) - _FREE_OPS)
    if unknown:
        raise RuntimeError(f"fvcore cannot count {', '.join(unknown)}; the FLOPs would be wrong. Add a handle in {__name__}")
    return total


def _attention_flops(inputs, outputs) -> float:
    """softmax(Q K^T) V: B H n E for each of the two products, times n keys. Q [B, H, n, E], K [B, G or H, k, E]."""
    (batch, heads, n, head), keys = inputs[0].type().sizes(), inputs[1].type().sizes()[-2]
    return 2 * batch * heads * n * keys * head
