"""A method's settings: what each may be, and one line of help. Text form, page and command line read this and nothing else."""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Collection
from dataclasses import dataclass, field, fields
from types import NoneType
from typing import Any, get_args, get_type_hints

from fastav.errors import UserError


def setting(
    default: Any,
    help: str,
    *,
    low=None,
    high=None,
    choices: Collection[str] = (),
    label: str = "",
    layer: bool = False,
    file: bool = False,
) -> Any:
    """A dataclass field that is a setting: see `Setting` for what may be said of it."""
    about = {"help": help, "low": low, "high": high, "choices": choices, "label": label, "layer": layer, "file": file}
    return field(default=default, metadata=about)


@dataclass(frozen=True)
class Setting:
    """One setting of a class of methods.

    name     its field's.
    type     int, float, bool or str. It may also be None where that is the default.
    help     one line.
    low      the least number allowed; high: the greatest. None: no such limit.
    choices  the words allowed, as a dict with what each means or without. One that ends in (N) stands for any whole number N.
    label    its name in words.
    layer    True for a layer, counted from 0. None is then the middle one, and the last one is the greatest allowed.
    file     True where it names a file. A visitor of the page may not set it.
    """

    name: str
    type: type
    default: Any
    help: str = ""
    low: float | None = None
    high: float | None = None
    choices: Collection[str] = ()
    label: str = ""
    layer: bool = False
    file: bool = False

    @property
    def words(self) -> str:
        return self.label or self.name.replace("_", " ").capitalize()

    @property
    def allowed(self) -> str:
        """What it may be, as errors and lists say it."""
        if self.choices:
            return ", ".join(self.choices)
        if self.file or self.type not in (int, float):
            return "a file" if self.file else {bool: "true or false", str: "text"}[self.type]
        number = "a whole number" if self.type is int else "a number"
        if self.low is not None and self.high is not None:
            return f"{number} from {self.low} to {self.high}"
        limits = [f" of at {word} {limit}" for word, limit in (("least", self.low), ("most", self.high)) if limit is not None]
        return number + "".join(limits)

    def check(self, value) -> None:
        """Raises UserError for another type, a number outside its range or a word that is no choice. None is the model's."""
        if value is None:
            return
        if self.choices and not any(_is(value, choice) for choice in self.choices):
            raise UserError(f"unknown {self.name} {value!r}; allowed: {self.allowed}")
        if self.type not in (int, float):
            return
        number = isinstance(value, int if self.type is int else (int, float)) and not isinstance(value, bool)
        low, high = (-math.inf if self.low is None else self.low), (math.inf if self.high is None else self.high)
        if not number or not low <= value <= high:  # nan fails every comparison
            raise UserError(f"{self.name} must be {self.allowed}, got {value}")


@functools.cache
def settings(method_class: type) -> tuple[Setting, ...]:
    """The settings of a class of methods, in the order of its fields."""
    hints = get_type_hints(method_class)
    return tuple(Setting(each.name, _plain(hints[each.name]), each.default, **each.metadata) for each in fields(method_class))


def check(method) -> None:
    """Raises UserError for a setting outside what it may be."""
    for each in settings(type(method)):
        each.check(getattr(method, each.name))


def _plain(hint: type) -> type:
    """int of int | None."""
    return next((each for each in get_args(hint) if each is not NoneType), hint)


def _is(value, choice: str) -> bool:
    pattern = re.escape(choice).replace(r"\(N\)", r"\([0-9]{1,9}\)")
    return isinstance(value, str) and re.fullmatch(pattern, value) is not None
