"""The mechanism: a PrunedCache holds the cuts of one request, stateless hooks on the stock model carry them out.

Knows no method and no model by name. Shapes: B rows, N prompt tokens, n tokens left, L layers, H query heads, G key/value heads,
E head width, D model width. Positions are *original positions* 0..N-1 unless said otherwise.

Why hooks and a cache: `model.generate()` stays the only generation loop, so streaming, stopping and sampling keep working, and a
request without a PrunedCache runs the untouched model.
"""

from __future__ import annotations

import weakref
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import nn
from transformers import DynamicCache
from transformers import __version__ as transformers_version

from fastav.decoder import (
    arguments,
    cache_keyword,
    decoder_layers,
    refuse_unfit_call,
    refuse_unfit_layers,
)
from fastav.errors import UserError
from fastav.flops import relative_percent
from fastav.layout import PAD, TokenLayout, layout_of
from fastav.methods import FastAV, Method
from fastav.methods.cut import BEFORE, keys_again, lengths_of
from fastav.methods.equal import solved
from fastav.seen import LayerSeen, Left
from fastav.selection import Positions, selections_of, take, with_features
from fastav.versions import blaming_untried, warn_if_untried

_INSTALLED: weakref.WeakSet[nn.Module] = weakref.WeakSet()


class PrunedCache(DynamicCache):
    """The KV cache of one request: it knows what to prune and, after prefill, what was kept.

    positions[l]  LongTensor [B or 1, n_l]: original positions that layer l computed on, ascending; None before prefill.
    lengths[l]    tokens that layer l computes on at prefill, known before it runs.
    keys_again    tokens whose keys are projected once more for scores.

    layout and method hold for all rows of a batch, or are sequences with one for each row: then all rows must have equally many
    tokens, of which equally many leave at each cut. Raises UserError when a method does not fit the model or its layout. A cache
    serves one request.
    """

    def __init__(self, config, layout: TokenLayout | Sequence[TokenLayout], method: Method | Sequence[Method]):
        super().__init__(config=config)
        n_layers = config.get_text_config(decoder=True).num_hidden_layers
        self.layouts, methods = _of_rows(layout), _of_rows(method)
        methods = methods * len(self.layouts) if len(methods) == 1 else methods
        self.n_tokens = len(self.layouts[0])
        methods = tuple(of_prompt(config, layout, method) for layout, method in zip(self.layouts, methods, strict=True))
        cuts = [method.cuts(layout, n_layers) for layout, method in zip(self.layouts, methods, strict=True)]
        if any(cuts):
            refuse_unfit_layers(config, self.layers, min(layer for each in cuts for layer in each))
        leave = [{layer: [cut.n_removed for cut in stage] for layer, stage in each.items()} for each in cuts]
        if any(len(layout) != self.n_tokens for layout in self.layouts) or any(each != leave[0] for each in leave):
            raise UserError(
                "the rows of this batch keep unlike numbers of tokens; "
                "batch only rows of equal length of which equally many leave at each cut"
            )
        self._config, self._method = config, " and ".join(dict.fromkeys(map(str, methods)))
        self.lengths = lengths_of(cuts[0], self.n_tokens, n_layers)
        self.keys_again = keys_again(cuts[0], self.n_tokens)
        self.positions: list[torch.Tensor | None] = [None] * n_layers
        self._selections = selections_of(cuts, self.n_tokens)
        pad = torch.from_numpy(np.stack([layout.kind == PAD for layout in self.layouts]))
        self._pad = pad if bool(pad.any()) else None
        self._to_prove: set[nn.Module] = set()  # layers whose attention was a score before they ran

    def update(self, key_states, value_states, layer_idx, *args, **kwargs):
        """Store K and V [B, G, n, E]. A prefill whose length is not the planned one must never go unnoticed."""
        n, planned = key_states.shape[-2], self.lengths[layer_idx]
        if self.layers[layer_idx].get_seq_length() == 0 and n != planned:
            with blaming_untried():
                raise UserError(
                    f"layer {layer_idx} computed on {n} tokens, but {self._method} leaves {planned}{self._why_unpruned()}"
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

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Tokens so far, counted as if none had left before layer 0: from this the model derives the next position."""
        n = super().get_seq_length(layer_idx)
        return n + self.n_tokens - self.lengths[0] if n and layer_idx == 0 else n

    def get_mask_sizes(self, query_length: int, layer_idx: int) -> tuple[int, int]:
        n, offset = super().get_mask_sizes(query_length, layer_idx)
        began = layer_idx == 0 and self.layers[0].get_seq_length()
        return (n + self.n_tokens - self.lengths[0] if began else n), offset

    def kept(self, row: int = 0) -> list[list[int]]:
        """Per layer the original positions it computed on. Waits for the device: call it after generate."""
        return [p[min(row, len(p) - 1)].tolist() for p in self.positions]

    def _start(self, embeds: torch.Tensor) -> torch.Tensor:
        """The embeddings [B, N, D], merged where a score merges.

        Everything that the hooks need goes to the device, and scores by features are made, before layer 0: no later layer waits
        for the host.
        """
        for layer in sorted(self._selections):
            moved = []
            for selection in self._selections[layer]:
                selection, merged = with_features(selection.to(embeds.device), self.layouts, embeds)
                embeds = merged if layer == BEFORE else embeds
                moved.append(selection)
            self._selections[layer] = moved
        self._pad = None if self._pad is None else self._pad.to(embeds.device, non_blocking=True)
        self.positions[0] = torch.arange(self.n_tokens, device=embeds.device)[None]
        return embeds

    def _remove(self, layer: int, seen: Positions, positions: torch.Tensor) -> torch.Tensor:
        """LongTensor [B or 1, n]: the index of what the cuts after `layer` leave of the tokens at `positions`."""
        kept = torch.arange(positions.shape[-1], device=positions.device)[None]
        for selection in self._selections[layer]:
            selection = selection.to(positions.device)
            kept = take(kept, selection.choose(Left(seen, kept), take(positions, kept)))
        self.positions[layer + 1] = take(positions, kept)
        return kept


def of_prompt(config, layout: TokenLayout, method: Method) -> Method:
    """A method that asks for FLOPs, with the settings that it comes to on this prompt; any other as it is."""
    text = config.get_text_config(decoder=True)
    n_tokens = len(layout)
    return solved(method, layout, text.num_hidden_layers, lambda kept, again: relative_percent(kept, n_tokens, text, again))


def _of_rows(given) -> tuple:
    """(what holds for all rows,), or what each row has."""
    return tuple(given) if isinstance(given, Sequence) else (given,)


def cache_of(config, layout: TokenLayout, method: Method) -> DynamicCache:
    """The cache of one request: stock transformers' own where the method removes nothing, so that vanilla is the stock path."""
    pruned = PrunedCache(config, layout, method)
    return pruned if pruned._selections else DynamicCache(config=config)


def lengths_in(cache: DynamicCache, layout: TokenLayout) -> list[int]:
    """[L] tokens that each layer computes on at prefill."""
    return cache.lengths if isinstance(cache, PrunedCache) else [len(layout)] * len(cache.layers)


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
    for index, (layer, following) in enumerate(zip(layers, [*layers[1:], None], strict=True)):
        if not getattr(layer, "_fastav_installed", False):
            layer._fastav_installed = True
            names = list(arguments(layer))
            layer.register_forward_pre_hook(_before(index, names), with_kwargs=True)
            layer.register_forward_hook(_after(index, names, following), with_kwargs=True)
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


def _before(index: int, names: list[str]):
    """Pre-hook of layer `index`, whose arguments have these names: it narrows cos/sin and mask to the original positions that
    are left.
    """

    def hook(layer, args, kwargs):
        cache = _cache_among(args, kwargs)
        if cache is None:
            return None
        given = _by_name(names, args, kwargs)
        with blaming_untried():
            narrowed = narrow(cache, given)
        if narrowed is None:
            return None
        given.update(narrowed)
        return (given.pop("hidden_states"),), given

    def narrow(cache: PrunedCache, kwargs: dict) -> dict | None:
        hidden, narrowed = kwargs["hidden_states"], {}
        prefill = cache.layers[index].get_seq_length() == 0
        if index == 0:
            refuse_unfit_call(cache.n_tokens, kwargs, prefill)
            if prefill:
                hidden = cache._start(hidden)
                if BEFORE in cache._selections:
                    kept = cache._remove(BEFORE, Positions(cache.positions[0]), cache.positions[0])
                    narrowed["hidden_states"] = torch.take_along_dim(hidden, kept[..., None], 1)
        if cache.lengths[index] == cache.n_tokens:
            return None
        positions = cache.positions[index].to(hidden.device)
        narrowed["position_ids"] = None  # gappy ids would look like packed sequences to FlashAttention; cos/sin carry RoPE
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
            new = torch.arange(cache.n_tokens, mask.shape[-1], device=hidden.device)
            seen = torch.cat([positions, new.expand(len(positions), -1)], -1)
            narrowed["attention_mask"] = _columns(mask.to(hidden.device), seen)
        return narrowed

    return hook


def _after(index: int, names: list[str], following: nn.Module | None):
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
        if keys.shape[-2] != hidden.shape[1]:
            return None  # a decode step
        entered, cos_sin = kwargs["hidden_states"], kwargs["position_embeddings"]
        positions = cache.positions[index].to(hidden.device)
        seen = LayerSeen(positions, layer, following, entered, hidden, cos_sin, keys, cache._pad, cache._to_prove)
        if layer in cache._to_prove:
            seen.prove()
        if following is None:
            return None
        if index not in cache._selections:
            cache.positions[index + 1] = positions
            return None
        kept = cache._remove(index, seen, positions)
        hidden = torch.take_along_dim(hidden, kept[..., None], 1)
        return (hidden, *output[1:]) if isinstance(output, tuple) else hidden

    return hook


def _cache_among(args: tuple, kwargs: dict) -> PrunedCache | None:
    """The request's cache. By type: transformers has renamed the argument before."""
    return next((value for value in (*kwargs.values(), *args) if isinstance(value, PrunedCache)), None)


def _by_name(names: list[str], args: tuple, kwargs: dict) -> dict:
    """All arguments of a call by name, wherever they stood."""
    return {**dict(zip(names, args, strict=False)), **kwargs}


def _columns(mask: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
    """The given columns [B or 1, k] of a mask [B, 1, q, T] or [B, T]."""
    return torch.take_along_dim(mask, columns[:, None, None] if mask.dim() == 4 else columns, -1)
