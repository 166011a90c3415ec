"""The machine that a figure was measured on, in words: device, versions, load. torch is imported when asked."""

from __future__ import annotations

import os
import platform
import re
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

_LIBRARIES = ("torch", "transformers", "accelerate", "tokenizers", "safetensors", "numpy", "av", "pillow")


def name(device) -> str:
    """A GPU's name; of a CPU its architecture and how many threads compute."""
    import torch

    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{platform.machine()} CPU, {torch.get_num_threads()} threads"


def versions(device) -> dict[str, str]:
    """Name -> version of Python and the libraries, on a GPU of CUDA and the driver, too."""
    import torch

    found = {"python": platform.python_version()}
    for library in _LIBRARIES:
        try:
            found[library] = version(library)
        except PackageNotFoundError:
            found[library] = "none"
    if device.type == "cuda":
        found["cuda"] = torch.version.cuda or torch.version.hip or "unknown"
        found["driver"] = _driver()
    return found


def conditions(device) -> dict:
    """What a timing needs beside it. load_average: processes that wanted a core in the minute before, ours included."""
    import torch

    if device.type == "cuda":
        capability = {"compute_capability": ".".join(map(str, torch.cuda.get_device_capability(device)))}
    else:
        capability = {"cpu_capability": torch.backends.cpu.get_cpu_capability()}
    load = {"load_average": round(os.getloadavg()[0], 2)} if hasattr(os, "getloadavg") else {}
    return {"machine": name(device), **capability, "cores": os.cpu_count(), **load, "versions": versions(device)}


def _driver() -> str:
    try:
        text = Path("/proc/driver/nvidia/version").read_text()
    except OSError:
        return "unknown"
    named = re.search(r"Module.*?\s(\d+\.[\d.]+)\s", text)
    return named[1] if named else "unknown"
