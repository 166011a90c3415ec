"""What FastAV takes from a stock transformers decoder: its layers, their queries, and the name under which the cache travels.

Shapes: B rows, N prompt tokens, n left of them, k or q of those, H query heads, G key/value heads, E head width, D model width.
"""

from __future__ import annotations

import inspect
import sys

import torch
from torch import nn
from transformers import DynamicLayer
from transformers import __version__ as transformers_version

from fastav.errors import UserError

# Of a key's length: more than rounding in 16 bits (under 1 %), far less than a rotation that is there or not.
_KEY_TOLERANCE = 0.03


def decoder_layers(model: nn.Module) -> nn.ModuleList:
    """The ModuleList of the text decoder's layers: the one of the right length whose layers have a norm and a query
    projection.
    """
    count = model.config.get_text_config(decoder=True).num_hidden_layers
    found = [
        module
        for name, module in model.named_modules()
        if isinstance(module, nn.ModuleList)
        and len(module) == count
        and all(hasattr(layer, "input_layernorm") and hasattr(getattr(layer, "self_attn", None), "q_proj") for layer in module)
    ]
    if len(found) != 1:
        raise UserError(
            f"found {len(found)} decoders of {count} layers in {type(model).__name__}; FastAV needs exactly one whose layers "
            "have input_layernorm and self_attn.q_proj (for Qwen2.5-Omni, give model.thinker)"
        )
    return found[0]


def arguments(layer: nn.Module) -> dict[str, inspect.Parameter]:
    """Of the layer's forward, in order, without self. A subclass that only hands them on has those of the class it wraps."""
    found = [dict(inspect.signature(kind.forward).parameters) for kind in type(layer).__mro__ if hasattr(kind, "forward")]
    named = next((names for names in found if "hidden_states" in names), found[0])
    return {name: parameter for name, parameter in named.items() if name != "self"}


def cache_keyword(model: nn.Module) -> str:
    """The argument by which this model's forward, its layers and `generate` take the cache.

    transformers 5.24 renamed it. Raises UserError for a model whose layers take no cache.
    """
    layer = decoder_layers(model)[0]
    for name, parameter in arguments(layer).items():
        if name in ("cache", "past_key_values") or "Cache" in str(parameter.annotation):
            return name
    raise UserError(
        f"{type(layer).__name__} takes no cache under transformers {transformers_version}, and FastAV prunes by way of it; "
        "use a model whose decoder layers are given one"
    )


def rotated_query(layer: nn.Module, hidden: torch.Tensor, position_embeddings) -> torch.Tensor:
    """The layer's own queries [B, H, k, E] for k of its inputs: hidden [B, k, D], (cos, sin) each [.., k, E].

    Norm, projection and rotation are called as modules, so quantised, LoRA and offloaded layers work.
    """
    return _rotated(layer, hidden, position_embeddings, "q")


def rotated_keys(layer: nn.Module, hidden: torch.Tensor, position_embeddings) -> torch.Tensor:
    """The layer's own keys [B, G, k, E], like `rotated_query`."""
    return _rotated(layer, hidden, position_embeddings, "k")


def last_query_score(layer: nn.Module, hidden: torch.Tensor, position_embeddings, keys: torch.Tensor, pad=None) -> torch.Tensor:
    """How much the last query attends to each token in this layer (eq. 4 of the paper). Returns [B, n], each row sums to 1.

    hidden [B, n, D] is the layer's input, position_embeddings its (cos, sin) [.., n, E], keys [B, G, n, E] the rotated keys the
    layer just cached, pad bool [B, n] keys to leave out.
    """
    last = tuple(t[..., -1:, :] for t in position_embeddings)
    unseen = None if pad is None else pad[:, None]
    return attention_rows(layer, hidden[:, -1:], last, keys, unseen)[:, 0]


def attention_rows(layer: nn.Module, asking: torch.Tensor, position_embeddings, keys: torch.Tensor, unseen=None):
    """Attention of some of a layer's inputs, mean over heads, [B, q, n]: asking [B, q, D] with (cos, sin) [.., q, E] of them,
    keys [B, G, n, E], unseen bool [B or 1, q or 1, n] those that a row cannot see. In float32, or the model's dtype if wider.
    """
    query = rotated_query(layer, asking, position_embeddings)  # [B, H, q, E]
    dtype = torch.promote_types(query.dtype, torch.float32)
    query = query.to(keys.device, dtype).unflatten(1, (keys.shape[1], -1))  # [B, G, H/G, q, E]
    logits = query @ keys.to(dtype).transpose(-1, -2).unsqueeze(2) * layer.self_attn.scaling  # [B, G, H/G, q, n]
    if unseen is not None:
        logits = logits.masked_fill(unseen[:, None, None], -torch.inf)
    return logits.softmax(-1).mean((1, 2))


def prove_rotation(layer: nn.Module, hidden: torch.Tensor, position_embeddings, keys: torch.Tensor) -> None:
    """Raises UserError unless this layer rotates as `rotated_query` does.

    Keys are made like queries, and the layer has just cached its own: the last one, keys [B, G, n, E], is made once more from
    hidden [B, n, D]. Layers without rotary positions (SmolLM3, Cohere2) differ. Waits for the device.
    """
    last = tuple(t[..., -1:, :] for t in position_embeddings)
    own, cached = rotated_keys(layer, hidden[:, -1:], last).float(), keys[:, :, -1:].float()
    if (own.to(cached.device) - cached).norm() > _KEY_TOLERANCE * cached.norm():
        raise UserError(
            f"a layer of {type(layer).__name__} makes its keys otherwise than by norm, projection and rotary positions, so its "
            "last-query scores would be wrong; layers without rotary positions cannot be pruned by them"
        )


def _rotated(layer: nn.Module, hidden: torch.Tensor, position_embeddings, which: str) -> torch.Tensor:
    """Queries ("q") or keys ("k") [B, heads, k, E] of hidden [B, k, D]."""
    attention = layer.self_attn
    rows = getattr(attention, f"{which}_proj")(layer.input_layernorm(hidden))
    rows = rows.view(*hidden.shape[:2], -1, attention.head_dim)
    if hasattr(attention, f"{which}_norm"):
        rows = getattr(attention, f"{which}_norm")(rows)
    rows = rows.transpose(1, 2)
    rotate = sys.modules[type(attention).__module__].apply_rotary_pos_emb
    return rotate(rows, rows, *(t.to(rows.device) for t in position_embeddings))[0]


def refuse_unfit_layers(config, caches, first: int) -> None:
    """Raises UserError where a cut after layer `first` or a later one cannot be carried out.

    caches: the cache's own layers, which know what each layer attends to. A layer with a window or with a state of another
    kind holds no keys of all tokens. Models that add image features to early layers need all tokens there.
    """
    for layer, held in enumerate(caches[max(first, 0) :], max(first, 0)):
        if type(held) is not DynamicLayer:
            kind = "sliding_attention" if getattr(held, "is_sliding", False) else f"a {type(held).__name__}"
            raise UserError(
                f"layer {layer} uses {kind}, which cannot be pruned; only full_attention layers from layer {first} on can"
            )
    injections = getattr(getattr(config, "vision_config", None), "deepstack_visual_indexes", None) or []
    if injections and first < len(injections):
        raise UserError(
            f"this model adds image features after layers 0..{len(injections) - 1}; "
            f"start must be at least {len(injections) + 1}, got {first + 1}"
        )


def refuse_unfit_call(planned: int, kwargs: dict, prefill: bool) -> None:
    """Raises UserError for ways of calling a model that would give wrong answers without a word.

    planned: tokens of the prompt's layout; kwargs: arguments of layer 0 by name.
    """
    mask = kwargs.get("attention_mask")
    if torch.compiler.is_compiling():
        raise UserError("a compiled model cannot be pruned: lengths differ per layer and request; use the plain model")
    if kwargs.get("use_cache") is False:
        raise UserError("use_cache=False feeds the whole prompt again at every step; pruning needs use_cache=True")
    if mask is not None and not isinstance(mask, torch.Tensor):
        raise UserError(f"attention masks of type {type(mask).__name__} are not supported; use sdpa, eager or flash_attention_2")
    n = kwargs["hidden_states"].shape[1]
    if prefill and n != planned:
        raise UserError(
            f"the prompt has {n} tokens, its layout {planned}; "
            "chunked prefill (prefill_chunk_size) and other prompts need their own cache"
        )
    if not prefill and n != 1:
        raise UserError(
            f"{n} tokens were given to a PrunedCache that already holds a prompt; a cache serves one request, make a new one"
        )
