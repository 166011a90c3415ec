"""Device, dtype and attention kernel: defaults, and what each GPU can do."""

from __future__ import annotations

import logging
import re
from functools import lru_cache

import torch

from fastav.errors import UserError

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
ATTENTION = ("sdpa", "eager", "flash_attention_2")
AMPERE = (8, 0)  # compute capability of the first GPUs that multiply in bfloat16 and run FlashAttention 2


def resolve(device=None, dtype=None, attn=None, device_map=None) -> tuple[torch.device, torch.dtype, str]:
    """Device, dtype and attention kernel, with defaults: CUDA where there is one, sdpa; bfloat16 on GPUs that multiply in it,
    float16 on older ones, which is said, float32 on a CPU.

    device_map   as in weights.load: what is chosen must suit every GPU that the model may lie on.
    A GPU always comes back with its index, which much of torch.cuda asks for: "cuda" is the current one.
    Raises UserError for an unknown name, a device that is not there, or what one of the GPUs cannot do.
    """
    device = _device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    gpus = _gpus(device, device_map)
    for gpu in gpus:
        _check_kernels(gpu)
    old = next((gpu for gpu in gpus if torch.cuda.get_device_capability(gpu) < AMPERE), None)
    if dtype is None:
        dtype = "float32" if device.type == "cpu" else "bfloat16" if old is None else "float16"
        if dtype == "float16":
            _say(f"{_called(old)} does not multiply in bfloat16: the model computes in float16")
    if dtype not in DTYPES:
        raise UserError(f"unknown dtype {dtype!r}; allowed: {', '.join(DTYPES)}")
    if dtype == "bfloat16" and old is not None:
        # torch imitates it there: every time and byte would be the imitation's.
        raise UserError(f"bfloat16 needs compute capability 8.0 (Ampere), and {_called(old)} is older; give float16 or float32")
    attn = attn or "sdpa"
    if attn not in ATTENTION:
        raise UserError(f"unknown attention {attn!r}; allowed: {', '.join(ATTENTION)}")
    if attn == "flash_attention_2":
        from transformers.utils import is_flash_attn_2_available

        if old is not None:
            raise UserError(f"{attn} needs compute capability 8.0 (Ampere), and {_called(old)} is older; give sdpa")
        if not is_flash_attn_2_available() or device.type != "cuda":
            raise UserError("flash_attention_2 needs a GPU and the flash-attn package: pip install -r requirements-gpu.txt")
        if dtype == "float32":
            raise UserError("flash_attention_2 computes in 16 bits; give dtype bfloat16 or float16")
    return device, DTYPES[dtype], attn


def _device(name) -> torch.device:
    """A CPU or a GPU that is there, with its index. Raises UserError for another."""
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UserError(f"unknown device {name!r}; allowed: cpu, cuda, cuda:0, ...") from error
    if device.type not in ("cpu", "cuda") or (device.type == "cpu" and device.index):
        raise UserError(f"unknown device {str(device)!r}; allowed: cpu, cuda, cuda:0, ...")
    if device.type == "cpu":
        return device
    if not torch.cuda.is_available():
        raise UserError(f"device {device} was asked for, but torch sees no CUDA GPU; allowed here: cpu")
    index = torch.cuda.current_device() if device.index is None else device.index
    if index >= torch.cuda.device_count():
        raise UserError(f"device {device} was asked for, but there are {torch.cuda.device_count()} GPUs, counted from cuda:0")
    return torch.device("cuda", index)


def _gpus(device: torch.device, device_map) -> list[torch.device]:
    """The GPUs that prompts and weights may lie on. Raises UserError for a place of the map that is not there."""
    places = device_map.values() if isinstance(device_map, dict) else ()
    if device_map == "auto":
        places = range(torch.cuda.device_count() if torch.cuda.is_available() else 0)
    found = [device, *(_device(f"cuda:{p}" if isinstance(p, int) else p) for p in places if p != "disk")]
    return [gpu for gpu in dict.fromkeys(found) if gpu.type == "cuda"]


def _check_kernels(gpu: torch.device) -> None:
    """Raises UserError where this build of torch has no code for a GPU, so that nothing would run on it.

    Machine code (sm_75) runs on its own major version from its minor version on, PTX (compute_75) on everything newer. Builds
    that name their targets otherwise (ROCm), or not at all, are not judged.
    """
    major, minor = torch.cuda.get_device_capability(gpu)
    built = re.findall(r"\b(sm|compute)_(\d+)(\d)", " ".join(torch.cuda.get_arch_list()))
    runs = [(int(a), int(b)) <= (major, minor) and (kind == "compute" or int(a) == major) for kind, a, b in built]
    if runs and not any(runs):
        targets = ", ".join(dict.fromkeys(f"{a}.{b}" for _, a, b in built))
        raise UserError(
            f"torch {torch.__version__} is built for compute capability {targets}, which does not run on {_called(gpu)}; "
            "install a torch that does, or give device cpu"
        )


def _called(gpu: torch.device) -> str:
    """For example "cuda:0 (Tesla T4, 7.5)"."""
    return f"{gpu} ({torch.cuda.get_device_name(gpu)}, {'.'.join(map(str, torch.cuda.get_device_capability(gpu)))})"


@lru_cache
def _say(text: str) -> None:
    """Each text once: a model is resolved several times. Python prints a warning on stderr where no logging is set up."""
    logging.getLogger(__name__).warning(text)
