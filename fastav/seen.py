"""What a score may look at: one decoder layer during prefill (the protocol `Seen` of fastav/methods/scores.py).

Shapes: B rows, N prompt tokens, n left of them, q of those that ask, G key/value heads, E head width, D model width.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from fastav.decoder import attention_rows, prove_rotation, rotated_keys
from fastav.selection import Positions, take


@dataclass(frozen=True, eq=False)
class LayerSeen(Positions):
    """A layer and the one that follows.

    entered, hidden  [B, n, D]: the layer's input and output; cos_sin [.., n, E] each; keys [B, G, n, E]: just cached.
    pad              bool [B or 1, N] or None; to_prove: layers whose attention was used before they ran.
    """

    layer: nn.Module
    following: nn.Module | None
    entered: torch.Tensor
    hidden: torch.Tensor
    cos_sin: tuple[torch.Tensor, torch.Tensor]
    keys: torch.Tensor
    pad: torch.Tensor | None
    to_prove: set[nn.Module]

    def prove(self) -> None:
        """See decoder.prove_rotation. Once for each layer, since it waits for the device."""
        if not getattr(self.layer, "_fastav_proven", False):
            prove_rotation(self.layer, self.entered, self.cos_sin, self.keys)
            self.layer._fastav_proven = True

    def attention(self, weights: str = "own", rows: torch.Tensor | None = None) -> torch.Tensor:
        layer, hidden, keys = self.layer, self.entered, self.keys
        if weights == "own":
            self.prove()
        else:
            layer = self.following if weights == "next" else self.layer
            self.to_prove.add(layer)
            hidden = self.hidden.to(_device(layer, self.hidden))
            keys = rotated_keys(layer, hidden, self.cos_sin)
        positions = self.positions.to(keys.device)
        unseen = None if self.pad is None else take(self.pad.to(keys.device), positions)[:, None]  # [B, 1, n]
        if rows is None:
            asking, cos_sin = hidden[:, -1:], tuple(t[..., -1:, :] for t in self.cos_sin)
        else:
            rows = rows.to(keys.device).expand(len(positions), -1).contiguous()
            at = torch.searchsorted(positions.contiguous(), rows)[..., None].to(hidden.device)
            asking = torch.take_along_dim(hidden, at, 1)
            cos_sin = tuple(torch.take_along_dim(t, at.to(t.device), -2) for t in self.cos_sin)
            future = positions[:, None] > rows[..., None]
            unseen = future if unseen is None else future | unseen
        return attention_rows(layer, asking, cos_sin, keys, unseen).to(self.positions.device)


class Left(Positions):
    """The tokens that earlier cuts after the same layer have left. Attention is computed over all that the layer saw, then
    narrowed to them.
    """

    def __init__(self, seen: Positions, kept: torch.Tensor):
        super().__init__(take(seen.positions, kept))
        object.__setattr__(self, "_whole", (seen, kept))

    def attention(self, weights: str = "own", rows: torch.Tensor | None = None) -> torch.Tensor:
        seen, kept = self._whole
        return torch.take_along_dim(seen.attention(weights, rows), kept[:, None], -1)


def _device(layer: nn.Module, otherwise: torch.Tensor) -> torch.device:
    """Where the layer computes. Under offload its weights lie on no device, and accelerate moves what the layer is given."""
    return next((p.device for p in layer.parameters() if not p.is_meta), otherwise.device)
