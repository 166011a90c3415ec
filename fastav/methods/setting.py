"""A method's settings: what each may be, and one line of help. Text form, page and command line read this."""

from __future__ import annotations

from dataclasses import Field, field, fields
from typing import Any

from fastav.errors import UserError


def setting(default: Any, help: str, *, low=None, high=None, choices: tuple[str, ...] = ()) -> Any:
    """A dataclass field with its help and either a range (inclusive) or its choices."""
    return field(default=default, metadata={"help": help, "low": low, "high": high, "choices": choices})


def check(method) -> None:
    """Raises UserError for a number outside its range or a word that is no choice. None is left to the model."""
    for each in fields(method):
        value = getattr(method, each.name)
        if value is not None and each.metadata:
            _check(each, value)


def _check(each: Field, value) -> None:
    low, high, choices = (each.metadata[name] for name in ("low", "high", "choices"))
    if choices and value not in choices:
        raise UserError(f"unknown {each.name} {value!r}; allowed: {', '.join(choices)}")
    if low is None and high is None:
        return
    whole = "int" in str(each.type)
    kind = "a whole number" if whole else "a number"
    allowed = f"{kind} of at least {low}" if high is None else f"{kind} from {low} to {high}"
    fits = isinstance(value, int if whole else (int, float)) and not isinstance(value, bool)
    if not fits or value < low or (high is not None and value > high):
        raise UserError(f"{each.name} must be {allowed}, got {value}")
