"""Models by the name a person types. An adapter holds everything special to one checkpoint family; importing this loads none."""

from __future__ import annotations

from importlib import import_module

from fastav.errors import UserError

_ADAPTERS = {"tiny": "fastav.models.tiny:Tiny"}


def names() -> list[str]:
    return sorted(_ADAPTERS)


def load_model(name: str, checkpoint: str | None = None, device=None, dtype=None, attn: str | None = None):
    """The adapter of model `name` with its weights (see models/adapter.py). Raises UserError for an unknown name or
    missing weights.
    """
    if name not in _ADAPTERS:
        raise UserError(f"unknown model {name!r}; allowed: {', '.join(names())}")
    module, _, adapter = _ADAPTERS[name].partition(":")
    return getattr(import_module(module), adapter)(checkpoint, device=device, dtype=dtype, attn=attn)
