"""Checkpoints: a local folder or a hub snapshot -> tensors -> a module, straight onto the device in the wanted dtype.

safetensors first, `.bin` only through torch's weights-only unpickler, never code from a checkpoint. Every key of the
checkpoint is used, or the adapter says that it is ignored; anything else is an error that names the key.
"""

from __future__ import annotations

import json
import math
import pickle
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from accelerate import dispatch_model, init_empty_weights
from accelerate.utils import set_module_tensor_to_device
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError, safe_open
from torch import nn
from tqdm import tqdm

from fastav.errors import UserError, out_of_memory
from fastav.models.placement import Placement, check_memory

_FLOATS = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
_SAFETENSORS_DTYPES = dict(zip(("F64", "F32", "F16", "BF16"), _FLOATS, strict=True))
_TEXTS = ["*.json", "*.txt", "*.model"]


def locate(checkpoint: str | None, default_hub_id: str, revision: str | None = None) -> Path:
    """The folder of a checkpoint: a local folder, or the snapshot of a hub id.

    An id that is given is downloaded where it is not cached; the default alone (`checkpoint` None) never starts a download
    of many gigabytes. Raises UserError with the command that fixes it.
    """
    import huggingface_hub

    if checkpoint and Path(checkpoint).expanduser().is_dir():
        if revision is not None:
            raise UserError(f"{checkpoint} is a folder, which has no revisions; leave out {revision!r}")
        return Path(checkpoint).expanduser()
    hub_id = default_hub_id if checkpoint is None else str(checkpoint)
    if not re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", hub_id):
        raise UserError(
            f"{hub_id!r} is not a folder; give --checkpoint a folder with weights or a hub id such as {default_hub_id}"
        )
    command = f"hf download {hub_id}" + (f" --revision {revision}" if revision else "")
    try:
        folder = Path(huggingface_hub.snapshot_download(hub_id, revision=revision, local_files_only=True))
        _weight_files(folder)
        return folder
    except Exception:  # not cached, or only a part of it is
        if checkpoint is None:
            raise UserError(
                f"the weights of {hub_id} are not on this machine; fetch them with `{command}`, "
                "or give --checkpoint a folder that holds them"
            ) from None
    try:
        texts = huggingface_hub.snapshot_download(hub_id, revision=revision, allow_patterns=_TEXTS)
        sharded = (Path(texts) / "model.safetensors.index.json").is_file()
        files = ("*.safetensors",) if sharded else ("*.safetensors", "*.bin")
        return Path(huggingface_hub.snapshot_download(hub_id, revision=revision, allow_patterns=[*_TEXTS, *files]))
    except Exception as error:  # of the hub library, or of whichever HTTP client it uses
        raise UserError(
            f"{hub_id} is no folder here and could not be fetched from the hub ({type(error).__name__}); where there is a "
            f"network, `{command}` fetches it"
        ) from error


def read_json(folder: Path, name: str) -> dict:
    """A JSON object of a checkpoint folder. Raises UserError when it is missing or broken."""
    path = Path(folder) / name
    try:
        record = json.loads(path.read_text())
        if not isinstance(record, dict):
            raise ValueError("it is not an object")
        return record
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read {path} ({error}); a checkpoint folder needs it") from error


@contextmanager
def describes(folder: Path, what: str) -> Iterator[None]:
    """Reading or building from config.json inside this: a missing or impossible value becomes one named error."""
    try:
        yield
    except (ArithmeticError, AttributeError, LookupError, RuntimeError, StrictDataclassError, TypeError, ValueError) as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise UserError(f"{Path(folder) / 'config.json'} does not describe {what} ({reason})") from error


class Weights:
    """The tensors of a checkpoint folder by key. Reads headers only, until `tensors` is asked.

    files   in which order they are read; shapes, dtypes: of every key; file_of: where a key lies.
    Raises UserError for a folder without weights, a missing shard, a cut or broken file.
    """

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        self.files = _weight_files(self.folder)
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.dtypes: dict[str, torch.dtype] = {}
        self.file_of: dict[str, Path] = {}
        for file in self.files:
            for key, shape, dtype in _header(file):
                if key in self.file_of:
                    raise UserError(f"{key} lies both in {self.file_of[key].name} and in {file.name} of {self.folder}")
                self.shapes[key], self.dtypes[key], self.file_of[key] = shape, dtype, file

    def tensors(self, file: Path, keys: Collection[str], device: torch.device) -> Iterator[tuple[str, torch.Tensor]]:
        """(key, tensor) of some keys of one file. From safetensors they come straight to `device`; a `.bin` file is mapped."""
        with _readable(file):
            if file.suffix == ".safetensors":
                with safe_open(file, "pt", device=str(device)) as opened:
                    for key in keys:
                        yield key, opened.get_tensor(key)
            else:
                opened = _unpickled(file, "cpu")
                yield from ((key, opened[key]) for key in keys)


def empty(build: Callable[[], nn.Module]) -> nn.Module:
    """What `build` makes, with its parameters on the meta device: no memory, no random initialisation. Buffers are real, so
    that tables which no checkpoint holds (rotary frequencies) are right.
    """
    with init_empty_weights(include_buffers=False):
        return build().eval().requires_grad_(False)


def load(
    module: nn.Module,
    weights: Weights,
    rename: Callable[[str], str | None],
    *,
    original: Callable[[str], str] = lambda name: name,
    device: torch.device,
    dtype: torch.dtype,
    device_map: str | dict | None = None,
) -> list[str]:
    """Fill a module made by `empty`. Returns the checkpoint keys that were deliberately ignored.

    rename       checkpoint key -> name in `module.state_dict()`, or None for a key that is deliberately ignored.
    original     the other way round, for naming a key that is missing.
    device_map   None: everything on `device`. "auto": over all GPUs, then main memory, then disk, with memory for the run left
                 free (see placement.py). A dict of module name -> device, "cpu" or "disk", as accelerate has it; what lies on
                 disk stays in the checkpoint's own files.
    Raises UserError naming keys that are missing, unknown or of another shape, or when the weights cannot fit.
    """
    names = {key: rename(key) for key in weights.shapes}
    _check_keys(module, weights, names, original)
    for parameter in module.parameters():  # a tensor takes its placeholder's dtype, also each time it comes back from disk
        if parameter.is_floating_point():
            parameter.data = parameter.data.to(dtype)
    placed = Placement(module, device, dtype, device_map)
    wanted = {key: name for key, name in names.items() if name is not None}
    if device_map is None:
        check_memory(n_bytes(weights, wanted, dtype), device, dtype)
    on_disk = {}
    with tqdm(total=len(wanted), unit="tensor", desc="loading weights", leave=False) as bar:
        for file in weights.files:
            keys = {key for key in wanted if weights.file_of[key] == file}
            stays = {key for key in keys if placed(wanted[key]) == "disk"}
            if stays and file.suffix != ".safetensors":
                raise UserError(f"{file.name}: only safetensors files can stay on disk; convert the checkpoint or change the map")
            for key in stays:
                on_disk[wanted[key]] = {
                    "safetensors_file": str(file),
                    "weight_name": key,
                    "dtype": str(dtype).removeprefix("torch."),
                }
            bar.update(len(stays))
            for key, tensor in weights.tensors(file, sorted(keys - stays), torch.device("cpu") if device_map else device):
                set_module_tensor_to_device(module, wanted[key], placed(wanted[key]), value=tensor)
                bar.update()
    if device_map is None:
        module.to(device)  # the buffers; the parameters are there
    else:
        dispatch_model(module, placed.map, offload_index=on_disk or None, force_hooks=True)
    return sorted(key for key, name in names.items() if name is None)


def n_bytes(weights: Weights, keys, dtype: torch.dtype) -> int:
    """What the tensors of `keys` take in memory in `dtype`."""
    return sum(math.prod(weights.shapes[key]) for key in keys) * dtype.itemsize


def _check_keys(module: nn.Module, weights: Weights, names: dict[str, str | None], original: Callable[[str], str]) -> None:
    """All names of the module are given once, in its shapes and as floating-point numbers, and nothing else is."""
    expected = module.state_dict()
    used = {key: name for key, name in names.items() if name is not None}
    times = Counter(used.values())
    problems = {
        "missing": [original(name) for name in sorted(set(expected) - set(times))],
        "unknown key": sorted(key for key, name in used.items() if name not in expected),
        "given twice": sorted(key for key, name in used.items() if times[name] > 1),
        "wrong shape": [
            f"{key} is {weights.shapes[key]}, expected {tuple(expected[name].shape)}"
            for key, name in used.items()
            if name in expected and weights.shapes[key] != tuple(expected[name].shape)
        ],
        "numbers that are quantised or no floating point": [
            key
            for key, name in used.items()
            if name in expected and expected[name].is_floating_point() and weights.dtypes[key] not in _FLOATS
        ],
    }
    told = [
        f"{problem}: {', '.join(keys[:8])}" + (f" and {len(keys) - 8} more" if len(keys) > 8 else "")
        for problem, keys in problems.items()
        if keys
    ]
    if told:
        raise UserError(f"{weights.folder} does not hold this model's weights; {'; '.join(told)}")


def _weight_files(folder: Path) -> list[Path]:
    for suffix, stem in ((".safetensors", "model"), (".bin", "pytorch_model")):
        index = folder / f"{stem}{suffix}.index.json"
        if index.is_file():
            where = read_json(folder, index.name).get("weight_map")
            if not isinstance(where, dict) or not where or not all(isinstance(name, str) for name in where.values()):
                raise UserError(f"{index} has no weight_map of tensor name -> file; fetch it again")
            shards = sorted(set(where.values()))
            missing = [name for name in shards if not (folder / name).is_file()]
            if missing:
                raise UserError(f"{folder} lacks {', '.join(missing)}, which {index.name} names; fetch it again")
            return [folder / name for name in shards]
        if (folder / f"{stem}{suffix}").is_file():
            return [folder / f"{stem}{suffix}"]
    raise UserError(f"{folder} holds no weights; expected model.safetensors, pytorch_model.bin, or shards with their index.json")


def _header(file: Path) -> Iterator[tuple[str, tuple[int, ...], torch.dtype]]:
    """(key, shape, dtype) of every tensor of a file."""
    with _readable(file):
        if file.suffix == ".safetensors":
            with safe_open(file, "pt") as opened:
                for key in opened.keys():  # noqa: SIM118  (not a dict)
                    view = opened.get_slice(key)
                    yield key, tuple(view.get_shape()), _SAFETENSORS_DTYPES.get(view.get_dtype(), torch.int64)
        else:
            for key, tensor in _unpickled(file, "meta").items():
                yield key, tuple(tensor.shape), tensor.dtype


def _unpickled(file: Path, device: str) -> dict[str, torch.Tensor]:
    try:
        found = torch.load(file, map_location=device, weights_only=True, mmap=True)
    except RuntimeError:  # the format before torch 1.6 cannot be mapped
        found = torch.load(file, map_location=device, weights_only=True)
    if not isinstance(found, dict) or not all(isinstance(k, str) and isinstance(t, torch.Tensor) for k, t in found.items()):
        raise UserError(f"{file} does not hold a dict of tensors by name, as a checkpoint's weights do")
    return found


@contextmanager
def _readable(file: Path) -> Iterator[None]:
    """Turns the ways in which a file can be broken into one named error."""
    try:
        yield
    except (SafetensorError, pickle.UnpicklingError, EOFError, KeyError, OSError, RuntimeError) as error:
        if out_of_memory(error):
            raise
        reason = " ".join(str(error).split())
        raise UserError(f"{file} is cut or damaged ({reason}); fetch it again") from error
