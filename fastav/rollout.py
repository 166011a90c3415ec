"""Attention rollout (eq. 2-3 of the paper): which input positions still matter after a layer.

A_l [N, N] is layer l's attention averaged over heads, A'_l = alpha A_l + (1 - alpha) I, and R_l = A'_l A'_{l-1} ...
A'_0, so R_l[i, j] is how much of what token i holds after layer l came from input j. Every row of R sums to 1.

Read with care: causal attention alone, uniform and without any model, also gathers R on the first positions.
`uniform_influence` gives that curve, and no figure should be shown without it.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import nn
from transformers import DynamicCache

from fastav.decoder import cache_keyword, decoder_layers, rotated_query
from fastav.errors import UserError
from fastav.plan import STATISTICS


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
            keys = cache.layers[index].keys[0]
            hidden = (args[0] if args else kwargs["hidden_states"]).to(keys.device)
            queries = rotated_query(layer, hidden, kwargs["position_embeddings"])[0]
            previous = state.get("rollout")
            attention = mean_attention(queries, keys, layer.self_attn.scaling)
            state["rollout"] = step(None if previous is None else previous.to(keys.device), attention, alpha)

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


def influence(matrix: torch.Tensor, statistic: str = "visible-column") -> np.ndarray:
    """float32 [N], one value per input position, from R [N, N].

    visible-column: mean over the rows that can see the column, so that late positions are not low merely for being late;
    column: mean over all rows; last-row: what the last token holds. Raises UserError for another name.
    """
    rows, divisor = _weights(len(matrix), statistic)
    return (torch.from_numpy(rows).to(matrix) @ matrix).float().cpu().numpy() / divisor.astype(np.float32)


def uniform_influence(n: int, n_layers: int, alpha: float = 0.5, statistic: str = "visible-column") -> np.ndarray:
    """float64 [n]: `influence` of a decoder whose every row attends equally to all it can see; needs no model.

    Every statistic is a row vector times R, so layer after layer passes it down and no matrix is needed. Errors as `influence`.
    """
    rows, divisor = _weights(n, statistic)
    for _ in range(n_layers):
        seen = np.cumsum((rows / np.arange(1, n + 1))[::-1])[::-1]  # row i gives 1 / (i + 1) of itself to each j <= i
        rows = alpha * seen + (1 - alpha) * rows
    return rows / divisor


def _weights(n: int, statistic: str) -> tuple[np.ndarray, np.ndarray]:
    """float64 [n] weights of R's rows, and what each column of their sum is divided by."""
    if statistic == "visible-column":
        return np.ones(n), np.arange(n, 0, -1.0)
    if statistic == "column":
        return np.ones(n), np.full(n, float(n))
    if statistic == "last-row":
        return (np.arange(n) == n - 1).astype(float), np.ones(n)
    raise UserError(f"unknown statistic {statistic!r}; allowed: {', '.join(STATISTICS)}")
