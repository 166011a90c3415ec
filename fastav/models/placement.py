"""Where weights go: all of them to one device, or by a map over GPUs, main memory and disk."""

from __future__ import annotations

import psutil
import torch
from accelerate import infer_auto_device_map
from torch import nn

from fastav.errors import UserError


def free_bytes(device: torch.device) -> int:
    """Memory that is free on a device now. What torch keeps of a GPU for its own use is free, too."""
    if device.type != "cuda":
        return psutil.virtual_memory().available
    kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return torch.cuda.mem_get_info(device)[0] + kept


def check_memory(needed: int, device: torch.device, dtype: torch.dtype) -> None:
    """Raises UserError when weights of `needed` bytes are more than is free on the device."""
    free = free_bytes(device)
    if needed > free:
        raise UserError(
            f"the weights take {needed / 1e9:.1f} GB in {str(dtype).removeprefix('torch.')}, and {free / 1e9:.1f} GB are free "
            f"on {device}; a 16-bit dtype, another device or, for a checkpoint, device_map='auto' may fit"
        )


class Placement:
    """Called with a parameter's name: where it goes. `map` is module name -> device, "cpu" or "disk" (see weights.load).

    Raises UserError for a map that misses a parameter or does not go with the device of the prompts.
    """

    def __init__(self, module: nn.Module, device: torch.device, dtype: torch.dtype, device_map: str | dict | None):
        if device_map is not None and device.type == "cpu" and torch.cuda.is_available():
            raise UserError("a device map on a machine with a GPU needs a CUDA device for the prompt; leave out device cpu")
        self.map = {"": device} if device_map is None else device_map
        if isinstance(device_map, str):
            if device_map != "auto":
                raise UserError(f"unknown device map {device_map!r}; allowed: auto, or a dict of module name -> device")
            self.map = _spread(module, dtype)
        if "" in self.map and len(self.map) > 1:
            raise UserError("the device map gives '' (the whole model) beside parts of it; name either the whole or every part")
        for name in module.state_dict():
            self(name)

    def __call__(self, name: str):
        parts = name.split(".")
        for i in range(len(parts), -1, -1):
            if (prefix := ".".join(parts[:i])) in self.map:
                return self.map[prefix]
        raise UserError(f"the device map has no place for {name}; it names {', '.join(self.map)}")


def _spread(module: nn.Module, dtype: torch.dtype) -> dict:
    """Device map over all GPUs, then main memory, then disk. No place is filled beyond its room; where the GPUs hold
    everything, they hold shares as equal as whole decoder layers allow.
    """
    whole = sorted({c for m in module.modules() for c in getattr(m, "_no_split_modules", None) or ()})
    # Wrapped, because accelerate warns of a model whose config ties weights; what `empty` makes has none that are tied.
    wrapped = nn.ModuleDict({"model": module})
    room = _room()

    def fill(limit: float) -> dict:
        """One place after the other, as accelerate does, with at most `limit` bytes on each GPU."""
        limits = {place: min(n, limit) if isinstance(place, int) else n for place, n in room.items()}
        return infer_auto_device_map(wrapped, max_memory=limits, dtype=dtype, no_split_module_classes=whole)

    def on_gpus(found: dict) -> bool:
        return all(isinstance(place, int) for place in found.values())

    low, high = 0, max(room.values(), default=0)
    found = fill(high)
    if on_gpus(found):
        for _ in range(10):  # the smallest limit that does; accelerate's own balance leaves one of two equal cards a fifth more
            limit = (low + high) // 2
            if on_gpus(tried := fill(limit)):
                found, high = tried, limit
            else:
                low = limit
    return {name.removeprefix("model").removeprefix("."): place for name, place in found.items()}


def _room() -> dict[int | str, int]:
    """Bytes for weights on every GPU (by index) and in main memory ("cpu"): what is free, less a reserve for the run.

    The reserve is a tenth, and at least 1.5 GB. A prompt token takes 3 m + 4 d activations (m MLP width, d model width) and its
    keys and values: in 16 bits 0.2 MB of a 7B decoder of 28 layers with 4 KV heads. So 1.5 GB are for 7,500 tokens.
    """
    gpus = [torch.device("cuda", i) for i in range(torch.cuda.device_count())]
    free = {gpu.index: free_bytes(gpu) for gpu in gpus}
    if not any(getattr(torch.cuda.get_device_properties(gpu), "is_integrated", False) for gpu in gpus):
        free["cpu"] = free_bytes(torch.device("cpu"))  # an integrated GPU's memory is the main memory
    room = {place: n - max(n // 10, 1_500_000_000) for place, n in free.items()}
    return {place: n for place, n in room.items() if n > 0}
