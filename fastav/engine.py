"""The mechanism: PrunedCache carries one request's plan, stateless hooks on the stock model carry it out.

Knows no method and no model by name. Shapes: B rows, N prompt tokens, n tokens left, L layers, H query heads, G key/value heads,
E head width, D model width. Positions are *original positions* 0..N-1 unless said otherwise.

Why hooks and a cache: `model.generate()` stays the only generation loop, so streaming, stopping and sampling keep working, and a
request without a PrunedCache runs the untouched model.
"""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import nn
from transformers import DynamicCache
from transformers import __version__ as transformers_version

from fastav.decoder import (
    arguments,
    cache_keyword,
    decoder_layers,
    prove_rotation,
    refuse_unfit_call,
    refuse_unfit_layers,
    rotated_query,
)
from fastav.errors import UserError
from fastav.layout import PAD, TokenLayout, layout_of
from fastav.methods import FastAV, Method, lengths
from fastav.versions import blaming_untried, warn_if_untried

_INSTALLED: weakref.WeakSet[nn.Module] = weakref.WeakSet()


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
        if cuts:
            refuse_unfit_layers(config, self.layers, min(cuts))
        self._config = config
        self.lengths = lengths(method, layout, text.num_hidden_layers)
        self.positions: list[torch.Tensor | None] = [None] * text.num_hidden_layers
        self._steps = _resolve(cuts, layout)
        self._pad = torch.from_numpy(layout.kind == PAD) if (layout.kind == PAD).any() else None

    def update(self, key_states, value_states, layer_idx, *args, **kwargs):
        """Store K and V [B, G, n, E]. A prefill whose length is not the planned one must never go unnoticed."""
        n, planned = key_states.shape[-2], self.lengths[layer_idx]
        if self.layers[layer_idx].get_seq_length() == 0 and n != planned:
            with blaming_untried():
                raise UserError(
                    f"layer {layer_idx} computed on {n} tokens, but {self.method} plans {planned}{self._why_unpruned()}"
                )
        return super().update(key_states, value_states, layer_idx, *args, **kwargs)

    def _why_unpruned(self) -> str:
        """What a user can do about a layer that the hooks did not prune."""
        if self.positions[0] is not None:
            return ""
        if not any(model.config is self._config for model in _INSTALLED):
            return "; call fastav.install(model) first"
        return f"; under transformers {transformers_version} this model does not hand its cache to the decoder layers"

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
    Raises UserError for a compiled model, one whose decoder layers are not found, or one whose layers are given no cache.
    """
    warn_if_untried()
    if hasattr(model, "_orig_mod") or getattr(model, "_compiled_call_impl", None) is not None:
        raise UserError("the model is compiled; install FastAV on the plain model (lengths differ per layer and request)")
    with blaming_untried():
        layers = decoder_layers(model)
        cache_keyword(model)
    for index, layer in enumerate(layers):
        if not getattr(layer, "_fastav_installed", False):
            layer._fastav_installed = True
            names = list(arguments(layer))
            layer.register_forward_pre_hook(_before(index, names), with_kwargs=True)
            layer.register_forward_hook(_after(index, names), with_kwargs=True)
    _INSTALLED.add(model)


def pruned(model: nn.Module, inputs: Mapping | TokenLayout, method: Method = FastAV()) -> dict[str, PrunedCache]:  # noqa: B008
    """What makes one `generate` a pruned one: `model.generate(**inputs, **fastav.pruned(model, inputs))`.

    Installs the hooks, makes layout and cache of this request, and names the cache as this transformers wants it.
    inputs: what the model's processor returned, or a TokenLayout where the model names no media tokens.
    Raises UserError as `install`, `layout_of` and `PrunedCache` do.
    """
    install(model)
    layout = inputs if isinstance(inputs, TokenLayout) else layout_of(inputs, model.config)
    return {cache_keyword(model): PrunedCache(model.config, layout, method)}


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


def _before(index: int, names: list[str]):
    """Pre-hook of layer `index`, whose arguments have these names: give it this request's rows of cos/sin and mask, by
    original position.
    """

    def hook(layer, args, kwargs):
        cache = _cache_among(args, kwargs)
        if cache is None:
            return None
        given = _by_name(names, args, kwargs)
        with blaming_untried():
            narrowed = narrow(cache, given)
        return narrowed and ((given.pop("hidden_states"),), {**given, **narrowed})

    def narrow(cache: PrunedCache, kwargs: dict) -> dict | None:
        hidden = kwargs["hidden_states"]
        prefill = cache.layers[index].get_seq_length() == 0
        if index == 0:
            refuse_unfit_call(len(cache.layout), kwargs, prefill)
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
        return narrowed

    return hook


def _after(index: int, names: list[str]):
    """Hook of layer `index`, whose arguments have these names: after prefill, remove what the method's cuts remove before the
    next layer.
    """

    def hook(layer, args, kwargs, output):
        cache = _cache_among(args, kwargs)
        if cache is None:
            return None
        with blaming_untried():
            return remove(layer, cache, _by_name(names, args, kwargs), output)

    def remove(layer, cache: PrunedCache, kwargs: dict, output):
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
                    entered, cos_sin = kwargs["hidden_states"], kwargs["position_embeddings"]
                    if not getattr(layer, "_fastav_proven", False):  # in a layer's first pruned request alone: it waits
                        prove_rotation(layer, entered, cos_sin, keys)
                        layer._fastav_proven = True
                    score = last_query_score(layer, entered, cos_sin, keys, pad).to(hidden.device)
                chosen = select(_take(score, kept), step.candidates[here], step.n_kept, step.high)
            kept = _take(kept, chosen)
        cache.positions[index + 1] = _take(positions, kept)
        hidden = torch.take_along_dim(hidden, kept[..., None], 1)
        return (hidden, *output[1:]) if isinstance(output, tuple) else hidden

    return hook


def _cache_among(args: tuple, kwargs: dict) -> PrunedCache | None:
    """The request's cache. By type: transformers has renamed the argument before."""
    return next((value for value in (*kwargs.values(), *args) if isinstance(value, PrunedCache)), None)


def _by_name(names: list[str], args: tuple, kwargs: dict) -> dict:
    """All arguments of a call by name, wherever they stood."""
    return {**dict(zip(names, args, strict=False)), **kwargs}


def _take(values: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """values [B or 1, n] at index [B or 1, k] -> [B or 1, k]; indices are valid by construction, so nothing is checked."""
    rows = max(len(values), len(index))
    return values.expand(rows, -1).gather(1, index.expand(rows, -1))


def _columns(mask: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
    """The given columns [B or 1, k] of a mask [B, 1, q, T] or [B, T]."""
    return torch.take_along_dim(mask, columns[:, None, None] if mask.dim() == 4 else columns, -1)
