"""Provenance: which FastAV, checkpoint, plan, libraries and machine produced a record. Reads files and asks git."""

from __future__ import annotations

import functools
import hashlib
import os
import re
import subprocess
from collections.abc import Iterable
from pathlib import Path

from fastav import __version__, machine
from fastav.errors import UserError

_ROOT = Path(__file__).resolve().parents[1]
_CHECKPOINT_SUFFIXES = ("safetensors", "bin", "json", "txt", "model", "jinja")
_HASHED_WHOLE_BYTES = 100_000_000


def of(adapter) -> dict:
    """The fields of a Result that are the same for every answer of one loaded model (see models/adapter.py)."""
    return {
        "fastav": fastav(),
        "weights_sha256": weights_sha256(adapter.folder),
        "checkpoint_commit": hub_commit(adapter.folder),
        "device": machine.name(adapter.device),
        "dtype": str(adapter.model.dtype).removeprefix("torch."),
        "attn": adapter.model.config._attn_implementation,
        "versions": machine.versions(adapter.device),
    }


@functools.cache
def fastav() -> dict:
    """version; commit of the git checkout, with "+dirty" where tracked files differ from it, None without one;
    source_sha256 over the package's Python files, which tells two dirty trees apart.
    """
    package = Path(__file__).parent
    return {"version": __version__, "commit": _commit(), "source_sha256": _digest(package, sorted(package.rglob("*.py")))}


def weights_sha256(folder: Path) -> str:
    """Digest of a checkpoint's files: tells one set of weights from another in the same folder; "" where there are none.

    Files over 100 MB enter with their size and their first and last MB, which differ between any two trained checkpoints.
    """
    files = sorted(path for suffix in _CHECKPOINT_SUFFIXES for path in folder.glob(f"*.{suffix}") if path.is_file())
    return _digest(folder, files) if files else ""


def hub_commit(folder: Path) -> str | None:
    """The commit of a hub snapshot, which the hub's cache names the folder after; None for any other folder."""
    return folder.name if folder.parent.name == "snapshots" and re.fullmatch("[0-9a-f]{40}", folder.name) else None


def plan_file(method: str) -> Path | None:
    """The file that a method's text form names as plan=FILE."""
    named = re.search(r"[:,]plan=([^,]+)", method)
    return Path(named[1].strip()) if named else None


def plan_sha256(method: str) -> str | None:
    """Digest of the file that a method's text form names as plan=FILE; None where it names none.

    Raises UserError when the file cannot be read.
    """
    path = plan_file(method)
    return None if path is None else file_sha256(path)


def file_sha256(path: Path) -> str:
    """sha256 of a file's bytes. Raises UserError when it cannot be read."""
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    except OSError as error:
        raise UserError(f"cannot read {str(path)!r}: {error.strerror}") from None
    return digest.hexdigest()


def _digest(folder: Path, files: Iterable[Path]) -> str:
    digest = hashlib.sha256()
    for file in files:
        size = file.stat().st_size
        digest.update(f"{file.relative_to(folder).as_posix()} {size}\n".encode())
        with file.open("rb") as stream:
            if size <= _HASHED_WHOLE_BYTES:
                digest.update(stream.read())
            else:
                digest.update(stream.read(1_000_000))
                stream.seek(size - 1_000_000)
                digest.update(stream.read())
    return digest.hexdigest()


def _commit() -> str | None:
    if not (_ROOT / ".git").exists():  # a wheel; git would find whatever repository the environment lies in
        return None
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}

    def git(*arguments: str) -> str:
        command = ["git", "--no-optional-locks", "-C", str(_ROOT), *arguments]
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=30).stdout.strip()

    try:
        return git("rev-parse", "HEAD") + ("+dirty" if git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.SubprocessError):
        return None
