"""Models by the name a person types. An adapter holds everything special to one checkpoint family; importing this loads none."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from fastav.errors import UserError
from fastav.versions import blaming_untried

if TYPE_CHECKING:
    from fastav.models.adapter import Adapter

_ADAPTERS = {
    "qwen2.5-omni": "fastav.models.qwen2_5_omni.adapter:Qwen25OmniAdapter",
    "tiny": "fastav.models.tiny:Tiny",
    "video-salmonn-2": "fastav.models.video_salmonn2.adapter:VideoSALMONN2Adapter",
    "videollama2.1-av": "fastav.models.videollama2.adapter:VideoLLaMA2Adapter",
}


def names() -> list[str]:
    return sorted(_ADAPTERS)


def check_name(name: str) -> None:
    """Raises UserError for a model that is not there."""
    if name not in _ADAPTERS:
        raise UserError(f"unknown model {name!r}; allowed: {', '.join(names())}")


def adapter_class(name: str) -> type[Adapter]:
    """The adapter class of model `name`, which holds no weights. Raises UserError for an unknown name."""
    check_name(name)
    module, _, adapter = _ADAPTERS[name].partition(":")
    return getattr(import_module(module), adapter)


def load_model(
    name: str,
    checkpoint: str | None = None,
    *,
    revision: str | None = None,
    device=None,
    dtype: str | None = None,
    device_map: str | dict | None = None,
    attn: str | None = None,
) -> Adapter:
    """The adapter of model `name` with its weights (see models/adapter.py).

    checkpoint   a local folder or a hub id; None: the published one (the built-in one for "tiny").
    revision     branch, tag or commit of a hub id.
    device, dtype, attn   see device.resolve; device_map: see weights.load.
    Raises UserError for an unknown name, missing or unfit weights, an impossible device.
    """
    options = {"revision": revision, "device": device, "dtype": dtype, "device_map": device_map, "attn": attn}
    with blaming_untried():
        return adapter_class(name)(checkpoint, **options)
