"""What loading a published checkpoint will take, from its headers and config alone."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from fastav import models
from fastav.models.device import resolve
from fastav.models.placement import free_bytes
from fastav.models.weights import Weights, describes, locate, n_bytes, read_json


@dataclass(frozen=True)
class Estimate:
    """weight_bytes: all tensors that the model uses, in `dtype`; free_bytes: on `device` now; tokens: per kind, of a clip of
    `duration_sec` with sound and a short question; kv_bytes: their keys and values in every layer, without pruning.
    """

    folder: Path
    n_tensors: int
    weight_bytes: int
    free_bytes: int
    device: torch.device
    dtype: torch.dtype
    duration_sec: float
    tokens: dict[str, int]
    kv_bytes: int

    def __str__(self) -> str:
        dtype, total = str(self.dtype).removeprefix("torch."), sum(self.tokens.values())
        parts = " + ".join(f"{n} {kind}" for kind, n in self.tokens.items())
        return (
            f"{self.n_tensors} tensors, {self.weight_bytes / 1e9:.2f} GB in {dtype}, {self.free_bytes / 1e9:.1f} GB free on "
            f"{self.device}; a {self.duration_sec:g} s clip with sound is about {total} tokens ({parts}), "
            f"{self.kv_bytes / 1e6:.1f} MB of KV cache unpruned"
        )


def estimate(
    name: str, checkpoint=None, *, revision=None, device=None, dtype=None, device_map=None, duration_sec=10.0
) -> Estimate:
    """For a model whose weights are a published checkpoint's. Raises UserError where the folder or its files are not readable."""
    published = models.adapter_class(name).published
    folder = locate(checkpoint, published.hub_id, revision)
    config, weights = read_json(folder, "config.json"), Weights(folder)
    device, dtype, _ = resolve(device, dtype, None, device_map)
    with describes(folder, name):
        tokens, n_numbers = published.token_estimate(config, duration_sec), kv_numbers(config)
    used = [key for key in weights.shapes if published.rename(key) is not None]
    return Estimate(
        folder=folder,
        n_tensors=len(used),
        weight_bytes=n_bytes(weights, used, dtype),
        free_bytes=free_bytes(device),
        device=device,
        dtype=dtype,
        duration_sec=duration_sec,
        tokens=tokens,
        kv_bytes=sum(tokens.values()) * n_numbers * dtype.itemsize,
    )


def kv_numbers(config: dict) -> int:
    """Numbers that one token puts into the KV cache: K and V of every layer."""
    config = config.get("thinker_config", config)
    config = config.get("text_config", config)
    head = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    return 2 * config["num_hidden_layers"] * config["num_key_value_heads"] * head
