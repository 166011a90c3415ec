"""The mechanism: PrunedCache carries one request's plan, stateless hooks on the stock model carry it out.

Knows no method and no model by name. Shapes: B rows, N prompt tokens, n tokens left, L layers, H query heads, G key/value heads,
E head width, D model width. Positions are *original positions* 0..N-1 unless said otherwise.

Why hooks and a cache: `model.generate()` stays the only generation loop, so streaming, stopping and sampling keep working, and a
request without a PrunedCache runs the untouched model.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace

import torch
from torch import nn
from transformers import DynamicCache

from fastav.errors import UserError
from fastav.layout import PAD, TokenLayout
from fastav.methods import Method, lengths


@dataclass(frozen=True, eq=False)
class _Step:
    """One cut, ready for the device: either `index` (into what is left) known in advance, or a score to rank by."""

    n_kept: int
    high: bool
    candidates: torch.Tensor  # bool [N]
    score: torch.Tensor | None  # float [N]; None: last-query score
    index: torch.Tensor | None = None  # LongTensor [1, n_kept]

    def to(self, device) -> _Step:
        tensors = {k: v.to(device, non_blocking=True) for k, v in vars(self).items() if isinstance(v, torch.Tensor)}
        return replace(self, **tensors)


class PrunedCache(DynamicCache):
    """The KV cache of one request, with what to prune and, after prefill, what was kept.

    positions[l]  LongTensor [B or 1, n_l]: original positions that layer l computed on, ascending; None before prefill.
    lengths[l]    tokens that layer l computes on at prefill, known before it runs.

    Raises UserError when the method does not fit the model or the layout. A cache serves one request.
    """

    def __init__(self, config, layout: TokenLayout, method: Method):
        super().__init__(config=config)
        text = config.get_text_config(decoder=True)
        self.layout, self.method = layout, method
        cuts = method.cuts(layout, text.num_hidden_layers)
        _refuse_unfit_layers(config, text, cuts)
        self.lengths = lengths(method, layout, text.num_hidden_layers)
        self.positions: list[torch.Tensor | None] = [None] * text.num_hidden_layers
        self._steps = _resolve(cuts, layout)
        self._pad = torch.from_numpy(layout.kind == PAD) if (layout.kind == PAD).any() else None

    def update(self, key_states, value_states, layer_idx, *args, **kwargs):
        """Store K and V [B, G, n, E]. A prefill whose length is not the planned one must never go unnoticed."""
        n, planned = key_states.shape[-2], self.lengths[layer_idx]
        if self.layers[layer_idx].get_seq_length() == 0 and n != planned:
            hint = "" if self.positions[0] is not None else "; call fastav.install(model) first"
            raise UserError(f"layer {layer_idx} computed on {n} tokens, but {self.method} plans {planned}{hint}")
        return super().update(key_states, value_states, layer_idx, *args, **kwargs)

    def crop(self, *args, **kwargs):
        raise UserError("assisted and contrastive decoding shorten the cache, which a PrunedCache cannot do; use plain decoding")

    def kept(self, row: int = 0) -> list[list[int]]:
        """Per layer the original positions it computed on. Waits for the device: call it after generate."""
        return [p[min(row, len(p) - 1)].tolist() for p in self.positions]

    def _start(self, device) -> None:
        """Send everything the hooks need to the device before layer 0, so that no later layer waits for the host."""
        self.positions[0] = torch.arange(len(self.layout), device=device)[None]
        self._steps = {layer: [step.to(device) for step in steps] for layer, steps in self._steps.items()}
        self._pad = None if self._pad is None else self._pad.to(device, non_blocking=True)


def install(model: nn.Module) -> None:
    """Add the hooks to every decoder layer of a stock transformers model, once; a second call does nothing.

    Requests whose cache is not a PrunedCache, also concurrent ones, run the untouched model.
    Raises UserError for a compiled model or one whose decoder layers are not found.
    """
    if hasattr(model, "_orig_mod") or getattr(model, "_compiled_call_impl", None) is not None:
        raise UserError("the model is compiled; install FastAV on the plain model (lengths differ per layer and request)")
    layers = decoder_layers(model)
    for index, layer in enumerate(layers):
        if not getattr(layer, "_fastav_installed", False):
            layer._fastav_installed = True
            layer.register_forward_pre_hook(_before(index), with_kwargs=True)
            layer.register_forward_hook(_after(index), with_kwargs=True)


def rotated_query(layer: nn.Module, hidden: torch.Tensor, position_embeddings) -> torch.Tensor:
    """The layer's own queries [B, H, k, E] for k of its inputs: hidden [B, k, D], (cos, sin) each [.., k, E].

    Norm, projection and rotation are called as modules, so quantised, LoRA and offloaded layers work.
    """
    attention = layer.self_attn
    query = attention.q_proj(layer.input_layernorm(hidden))
    query = query.view(*hidden.shape[:2], -1, attention.head_dim)
    if hasattr(attention, "q_norm"):
        query = attention.q_norm(query)
    query = query.transpose(1, 2)
    rotate = sys.modules[type(attention).__module__].apply_rotary_pos_emb
    return rotate(query, query, *(t.to(query.device) for t in position_embeddings))[0]


def last_query_score(layer: nn.Module, hidden: torch.Tensor, position_embeddings, keys: torch.Tensor, pad=None) -> torch.Tensor:
    """How much the last query attends to each token in this layer (eq. 4 of the paper). Returns [B, n], each row sums to 1.

    hidden [B, n, D] is the layer's input, position_embeddings its (cos, sin) [.., n, E], keys [B, G, n, E] the rotated keys the
    layer just cached, pad bool [B, n] keys to leave out. Computed in float32, or the model's dtype if wider.
    """
    query = rotated_query(layer, hidden[:, -1:], tuple(t[..., -1:, :] for t in position_embeddings))  # [B, H, 1, E]
    dtype = torch.promote_types(query.dtype, torch.float32)
    groups = keys.shape[1]
    query = query.to(keys.device, dtype).view(len(query), groups, -1, query.shape[-1])  # [B, G, H/G, E]
    logits = query @ keys.to(dtype).transpose(-1, -2) * layer.self_attn.scaling  # [B, G, H/G, n]
    if pad is not None:
        logits = logits.masked_fill(pad[:, None, None], -torch.inf)
    return logits.softmax(-1).mean((1, 2))


def select(score: torch.Tensor, candidates: torch.Tensor, n_kept: int, high: bool = False) -> torch.Tensor:
    """Indices [B, n_kept], ascending, of what stays of [B, n] tokens: all but the candidates with the lowest score.

    `high`: the highest leave instead. Of equal scores the later one leaves (the sort is stable). No host sync.
    """
    ranked = torch.where(candidates, -score if high else score, torch.inf)
    return ranked.sort(dim=-1, descending=True, stable=True).indices[:, :n_kept].sort(dim=-1).values


def _resolve(cuts, layout: TokenLayout) -> dict[int, list[_Step]]:
    """Turn cuts into steps; a cut by a known score becomes an index as long as what is left is known before the run."""
    left: torch.Tensor | None = torch.arange(len(layout))[None]
    n_left, steps = len(layout), {}
    for layer in sorted(cuts):
        for cut in cuts[layer]:
            n_left -= cut.n_removed
            score = None if cut.score is None else torch.from_numpy(cut.score)
            step = _Step(n_left, cut.remove == "high", torch.from_numpy(cut.candidates), score)
            if left is not None and score is not None:
                index = select(score[left], step.candidates[left], n_left, step.high)
                left = left.gather(1, index)
                step = replace(step, index=index)
            else:
                left = None
            steps.setdefault(layer, []).append(step)
    return steps


def _before(index: int):
    """Pre-hook of layer `index`: give it this request's rows of cos/sin and mask, by original position."""

    def hook(layer, args, kwargs):
        cache = kwargs.get("past_key_values")
        if not isinstance(cache, PrunedCache):
            return None
        hidden = args[0] if args else kwargs["hidden_states"]
        prefill = cache.layers[index].get_seq_length() == 0
        if index == 0:
            _refuse_unfit_call(cache, hidden, kwargs, prefill)
            if prefill:
                cache._start(hidden.device)
        if cache.lengths[index] == len(cache.layout):
            return None
        positions = cache.positions[index].to(hidden.device)
        narrowed = {"position_ids": None}  # gappy ids would look like packed sequences to FlashAttention; cos/sin carry RoPE
        mask = kwargs.get("attention_mask")
        if prefill:
            narrowed["position_embeddings"] = tuple(
                torch.take_along_dim(t, positions[..., None].to(t.device), -2) for t in kwargs["position_embeddings"]
            )
            if mask is not None:
                mask = mask.to(positions.device)
                if mask.dim() == 4:
                    mask = torch.take_along_dim(mask, positions[:, None, :, None], 2)
                narrowed["attention_mask"] = _columns(mask, positions)
        elif mask is not None:
            # transformers sizes the mask by layer 0: take this layer's columns, then the generated ones.
            new = torch.arange(len(cache.layout), mask.shape[-1], device=hidden.device)
            seen = torch.cat([positions, new.expand(len(positions), -1)], -1)
            narrowed["attention_mask"] = _columns(mask.to(hidden.device), seen)
        return args, {**kwargs, **narrowed}

    return hook


def _after(index: int):
    """Hook of layer `index`: after prefill, remove what the method's cuts remove before the next layer."""

    def hook(layer, args, kwargs, output):
        cache = kwargs.get("past_key_values")
        if not isinstance(cache, PrunedCache):
            return None
        hidden = output[0] if isinstance(output, tuple) else output
        keys = cache.layers[index].keys
        if keys.shape[-2] != hidden.shape[1] or index + 1 == len(cache.positions):
            return None  # a decode step, or nothing follows
        positions = cache.positions[index].to(hidden.device)
        if index not in cache._steps:
            cache.positions[index + 1] = positions
            return None

        kept = torch.arange(hidden.shape[1], device=hidden.device)[None]  # index into this layer's tokens
        score = None
        for step in (step.to(hidden.device) for step in cache._steps[index]):
            here = _take(positions, kept)
            if step.index is not None:
                chosen = step.index
            elif step.score is not None:
                chosen = select(step.score[here], step.candidates[here], step.n_kept, step.high)
            else:
                if score is None:
                    pad = None if cache._pad is None else cache._pad.to(keys.device)[positions.to(keys.device)]
                    entered = args[0] if args else kwargs["hidden_states"]
                    score = last_query_score(layer, entered, kwargs["position_embeddings"], keys, pad).to(hidden.device)
                chosen = select(_take(score, kept), step.candidates[here], step.n_kept, step.high)
            kept = _take(kept, chosen)
        cache.positions[index + 1] = _take(positions, kept)
        hidden = torch.take_along_dim(hidden, kept[..., None], 1)
        return (hidden, *output[1:]) if isinstance(output, tuple) else hidden

    return hook


def _take(values: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """values [B or 1, n] at index [B or 1, k] -> [B or 1, k]; indices are valid by construction, so nothing is checked."""
    rows = max(len(values), len(index))
    return values.expand(rows, -1).gather(1, index.expand(rows, -1))


def _columns(mask: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
    """The given columns [B or 1, k] of a mask [B, 1, q, T] or [B, T]."""
    return torch.take_along_dim(mask, columns[:, None, None] if mask.dim() == 4 else columns, -1)


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


def _refuse_unfit_layers(config, text, cuts) -> None:
    """Pruned layers need full attention over a plain cache, and models that add image features to early layers need
    all tokens there.
    """
    if not cuts:
        return
    first = min(cuts)
    kinds = getattr(text, "layer_types", None) or []
    for layer, kind in enumerate(kinds[first:], first):
        if kind != "full_attention":
            raise UserError(
                f"layer {layer} uses {kind}, which cannot be pruned; only full_attention layers from layer {first} on can"
            )
    injections = getattr(getattr(config, "vision_config", None), "deepstack_visual_indexes", None) or []
    if first < len(injections):
        raise UserError(
            f"this model adds image features after layers 0..{len(injections) - 1}; "
            f"start must be at least {len(injections) + 1}, got {first + 1}"
        )


def _refuse_unfit_call(cache: PrunedCache, hidden: torch.Tensor, kwargs, prefill: bool) -> None:
    """Ways of calling a model that would give wrong answers without a word."""
    mask = kwargs.get("attention_mask")
    if torch.compiler.is_compiling():
        raise UserError("a compiled model cannot be pruned: lengths differ per layer and request; use the plain model")
    if kwargs.get("use_cache") is False:
        raise UserError("use_cache=False feeds the whole prompt again at every step; pruning needs use_cache=True")
    if mask is not None and not isinstance(mask, torch.Tensor):
        raise UserError(f"attention masks of type {type(mask).__name__} are not supported; use sdpa, eager or flash_attention_2")
    n, planned = hidden.shape[1], len(cache.layout)
    if prefill and n != planned:
        raise UserError(
            f"the prompt has {n} tokens, its layout {planned}; "
            "chunked prefill (prefill_chunk_size) and other prompts need their own cache"
        )
    if not prefill and n != 1:
        raise UserError(
            f"{n} tokens were given to a PrunedCache that already holds a prompt; a cache serves one request, make a new one"
        )
