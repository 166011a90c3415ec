"""Which versions of transformers FastAV was tried with. requirements.txt states the range; nothing else repeats it."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement

from fastav.errors import UserError

_ROOT = Path(__file__).resolve().parents[1]


@cache
def tried(package: str) -> Requirement:
    """The line of requirements.txt about `package`. An installed wheel has the same lines as its metadata."""
    if (_ROOT / "pyproject.toml").is_file():
        lines = (_ROOT / "requirements.txt").read_text().splitlines()
    else:
        lines = metadata.requires("fastav") or []
    found = (Requirement(text) for line in lines if (text := line.partition("#")[0].strip()))
    return next(requirement for requirement in found if requirement.name == package)


def untried(package: str = "transformers") -> str | None:
    """A sentence about an installed version that lies outside the tried range; None inside it."""
    version, specifier = metadata.version(package), tried(package).specifier
    if specifier.contains(version, prereleases=True):
        return None
    return f"{package} {version} has not been tried with FastAV (tried: {specifier})"


@cache
def warn_if_untried() -> None:
    """One line on stderr, once per process."""
    if note := untried():
        logging.getLogger("fastav").warning("fastav: %s; if answers or errors look odd, install a tried version", note)


@contextmanager
def blaming_untried() -> Iterator[None]:
    """What fails inside this under an untried transformers becomes a UserError that says so first."""
    try:
        yield
    except Exception as error:
        if note := untried():
            text = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
            raise UserError(f"{note}: {text}") from error
        raise
