"""Attention rollout (eq. 2-3 of the paper) and calibration: which media positions still matter at the middle layer.

A_l [N, N] is layer l's attention averaged over heads, A'_l = alpha A_l + (1 - alpha) I, and R_l = A'_l A'_{l-1} ...
A'_0, so R_l[i, j] is how much of what token i holds after layer l came from input j. Every row of R sums to 1.

Read with care: causal attention alone, uniform and without any model, also gathers R on the first positions.
`uniform_rollout` gives that curve, and no figure should be shown without it.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from torch import nn
from transformers import DynamicCache

from fastav.decoder import cache_keyword, decoder_layers, rotated_query
from fastav.errors import UserError
from fastav.layout import TokenLayout
from fastav.plan import Plan

STATISTICS = ("visible-column", "column", "last-row")


@torch.inference_mode()
def rollout(model: nn.Module, n_layers: int, alpha: float = 0.5, **inputs) -> torch.Tensor:
    """R after the first `n_layers` layers, float32 [N, N], of one forward of `model(**inputs)` with batch size 1.

    Streaming: heads are averaged one at a time and layers multiplied as they run, so two N x N matrices are the peak and
    the model may run under any attention kernel.
    """
    state: dict[str, torch.Tensor] = {}
    cache = DynamicCache(config=model.config)

    def after(index):
        def hook(layer, args, kwargs, output):
            hidden = args[0] if args else kwargs["hidden_states"]
            queries = rotated_query(layer, hidden, kwargs["position_embeddings"])[0]
            attention = mean_attention(queries, cache.layers[index].keys[0], layer.self_attn.scaling)
            state["rollout"] = step(state.get("rollout"), attention, alpha)

        return hook

    layers = decoder_layers(model)
    handles = [layers[i].register_forward_hook(after(i), with_kwargs=True) for i in range(n_layers)]
    try:
        model(**inputs, **{cache_keyword(model): cache}, use_cache=True)
    finally:
        for handle in handles:
            handle.remove()
    return state["rollout"]


def mean_attention(queries: torch.Tensor, keys: torch.Tensor, scaling: float) -> torch.Tensor:
    """Causal attention averaged over heads, float32 [N, N], from queries [H, N, E] and keys [G, N, E]; one head at a time."""
    heads, n, _ = queries.shape
    future = torch.ones(n, n, dtype=torch.bool, device=queries.device).triu_(1)
    mean = torch.zeros(n, n, device=queries.device)
    for head in range(heads):
        key = keys[head * len(keys) // heads]
        logits = queries[head].float() @ key.float().T * scaling
        mean += logits.masked_fill_(future, -torch.inf).softmax(-1)
    return mean.div_(heads)


def step(previous: torch.Tensor | None, attention: torch.Tensor, alpha: float) -> torch.Tensor:
    """R_l from R_{l-1} [N, N] (None before the first layer) and A_l [N, N]."""
    if previous is None:
        mixed = attention * alpha
        mixed.diagonal().add_(1 - alpha)
        return mixed
    return torch.addmm(previous, attention, previous, beta=1 - alpha, alpha=alpha)


def uniform_rollout(n: int, n_layers: int, alpha: float = 0.5) -> torch.Tensor:
    """R [n, n] of a decoder whose every row attends equally to all it can see."""
    attention = torch.ones(n, n).tril_() / torch.arange(1, n + 1)[:, None]
    result = None
    for _ in range(n_layers):
        result = step(result, attention, alpha)
    return result


def influence(matrix: torch.Tensor, statistic: str = "visible-column") -> np.ndarray:
    """float32 [N], one value per input position, from R [N, N].

    visible-column: mean over the rows that can see the column, so that late positions are not low merely for being late;
    column: mean over all rows; last-row: what the last token holds. Raises UserError for another name.
    """
    n = len(matrix)
    if statistic == "visible-column":
        values = matrix.sum(0) / torch.arange(n, 0, -1, device=matrix.device)
    elif statistic == "column":
        values = matrix.mean(0)
    elif statistic == "last-row":
        values = matrix[-1]
    else:
        raise UserError(f"unknown statistic {statistic!r}; allowed: {', '.join(STATISTICS)}")
    return values.float().cpu().numpy()


def calibrate(
    samples: Iterable[tuple[TokenLayout, np.ndarray]],
    *,
    model: str,
    start: int,
    keep: float = 0.42,
    statistic: str = "visible-column",
    alpha: float = 0.5,
) -> Plan:
    """A plan from (layout, influence [N]) of calibration clips, as `influence(rollout(...))` gives them.

    The curve is the mean per media offset; the threshold lets the fraction `keep` of all media tokens of these clips pass.
    Raises UserError without samples or for a fraction outside 0..1.
    """
    if not 0 < keep <= 1:
        raise UserError(f"keep must be a fraction of the audio and video tokens above 0 and at most 1, got {keep}")
    total, count = np.zeros(0), np.zeros(0)
    uniform_total, offsets, n_clips = np.zeros(0), [], 0
    for layout, values in samples:
        where = layout.media_offset
        media = where >= 0
        grown = max(len(total), int(where.max()) + 1)
        total, count, uniform_total = (np.pad(a, (0, grown - len(a))) for a in (total, count, uniform_total))
        uniform = influence(uniform_rollout(len(layout), start, alpha), statistic)
        np.add.at(total, where[media], values[media])
        np.add.at(uniform_total, where[media], uniform[media])
        np.add.at(count, where[media], 1)
        offsets.append(where[media])
        n_clips += 1
    if not n_clips:
        raise UserError("calibration needs at least one clip with audio or video")
    curve, uniform = (a / np.maximum(count, 1) for a in (total, uniform_total))
    curve = curve.astype(np.float32)
    values = np.sort(curve[np.concatenate(offsets)])[::-1]
    threshold = float(values[max(round(keep * len(values)), 1) - 1])
    return Plan(
        model=model,
        start=start,
        statistic=statistic,
        alpha=alpha,
        n_clips=n_clips,
        keep=keep,
        threshold=threshold,
        curve=tuple(float(v) for v in curve),
        uniform=tuple(float(v) for v in uniform),
    )
