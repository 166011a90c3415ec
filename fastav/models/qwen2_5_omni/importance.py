"""What the last layer of an encoder attended to: hooks that hold its queries and keys, and the attention that each key received.

Letters: S patches or pieces of sound, H heads, E head width, W patches of a window.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence

import numpy as np
import torch
from torch import nn

_CELLS = 2**24  # of an attention map that are held at a time


class Held:
    """Queries and keys of an attention layer's last forward, for the thread that ran it, until they are taken.

    asks, offers: the linear layers that make them. Their outputs are read, never their weights, which may lie elsewhere.
    """

    def __init__(self, attention: nn.Module, asks: nn.Module, offers: nn.Module):
        self._here, self._heads = threading.local(), attention.num_heads
        attention.register_forward_pre_hook(self._rotation, with_kwargs=True)
        asks.register_forward_hook(lambda module, args, output: self._here.__dict__.update(queries=output))
        offers.register_forward_hook(lambda module, args, output: self._here.__dict__.update(keys=output))

    def _rotation(self, module, args, kwargs):
        self._here.rotation = kwargs.get("position_embeddings")

    def take(self) -> tuple[torch.Tensor, torch.Tensor]:
        """(queries, keys) [H, S, E], rotated where the layer rotates; they are then no longer held."""
        here = self._here.__dict__
        rotation = here.pop("rotation")
        both = [here.pop(name).unflatten(-1, (self._heads, -1)).transpose(0, 1) for name in ("queries", "keys")]
        return tuple(each if rotation is None else _rotated(each, *rotation) for each in both)


def _rotated(states, cos, sin):
    wide = states.to(torch.promote_types(states.dtype, torch.float32))
    first, second = wide.chunk(2, -1)
    return (wide * cos + torch.cat([-second, first], -1) * sin).to(states.dtype)


def received(queries: torch.Tensor, keys: torch.Tensor, window: int) -> torch.Tensor:
    """[S] attention that each key receives: softmax(q K^T / sqrt(E)) inside windows of W = `window` adjacent keys, the last one
    shorter, mean over heads, sum over the queries. No whole map is ever held.
    """
    found = []
    for q, k in zip(queries.split(window, 1), keys.split(window, 1), strict=True):
        k = k.to(torch.promote_types(k.dtype, torch.float32))
        rows = max(_CELLS // (k.shape[0] * k.shape[1]), 1)
        maps = ((block.to(k.dtype) @ k.mT * k.shape[-1] ** -0.5).softmax(-1) for block in q.split(rows, 1))
        found.append(sum(each.mean(0).sum(0) for each in maps))
    return torch.cat(found)


def heard_importance(queries: torch.Tensor, keys: torch.Tensor, window: int) -> np.ndarray:
    """float32 [A]: what each audio token received, the mean of its two pieces; an odd last piece is no token."""
    each = received(queries, keys, window)
    return each[: len(each) // 2 * 2].view(-1, 2).mean(1).float().cpu().numpy()


def seen_importance(queries: torch.Tensor, keys: torch.Tensor, grid: Sequence[int], config) -> np.ndarray:
    """float32 [V]: what each video token received inside its two time steps, the mean of its merged patches, row by row.

    grid: time steps, and height and width in patches. The encoder has each step's tokens in squares, not row by row.
    """
    steps, height, width = grid
    merge, side = config.spatial_merge_size, config.window_size // config.spatial_merge_size // config.patch_size
    each = received(queries, keys, 2 * height * width).view(steps, -1, merge**2).mean(-1)
    return each[:, square_order(height // merge, width // merge, side).argsort()].flatten().float().cpu().numpy()


def square_order(rows: int, columns: int, side: int) -> torch.Tensor:
    """LongTensor [rows * columns]: the tokens of one time step in squares of side x side, row by row, each row by row."""
    index = torch.arange(rows * columns).view(rows, columns)
    squares = (index[r : r + side, c : c + side].flatten() for r in range(0, rows, side) for c in range(0, columns, side))
    return torch.cat(list(squares))
