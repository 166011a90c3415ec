"""Pruning methods by the name a person types, and their text form `name:setting=value,...`."""

from __future__ import annotations

import math
import re
from dataclasses import fields, replace
from types import NoneType
from typing import get_args, get_type_hints

from fastav.errors import UserError
from fastav.methods.cut import Cut, Method, lengths
from fastav.methods.fastav import FastAV
from fastav.methods.trim import Trim
from fastav.methods.vanilla import Vanilla

METHODS = {"fastav": FastAV, "vanilla": Vanilla}

__all__ = ["METHODS", "Cut", "FastAV", "Method", "Trim", "Vanilla", "lengths", "parse"]


_FORMS = {
    int: ("a whole number", "1 to 18 digits 0-9, after a minus sign or not"),
    float: ("a number", "finite ones such as 20, 0.25 and -1e-3"),
    bool: ("a yes or no", "true, false"),
}


def parse(text: str, n_layers: int | None = None) -> Method:
    """The method that `text` names, e.g. "vanilla", "fastav", "fastav:p=30,rule=first(750)", "trim" or "trim+fastav:p=30".

    A setting is converted to the type of the method's field, and may be given once. With `n_layers`, a missing start becomes
    the middle layer and one outside the model is refused.
    Raises UserError for an unknown name, setting or value, listing what is allowed.
    """
    first, plus, rest = text.strip().partition("+")
    if first == "trim":
        if rest.strip().partition("+")[0] == "trim":
            raise UserError(f"{text!r} trims twice; allowed: trim or trim+METHOD")
        return Trim(parse(rest if plus else "vanilla", n_layers))
    name, _, settings = text.strip().partition(":")
    if name not in METHODS:
        names = ", ".join(sorted(METHODS))
        raise UserError(f"unknown method {name!r}; allowed: {names}, and trim or trim+METHOD")
    hints = get_type_hints(METHODS[name])
    types = {f.name: hints[f.name] for f in fields(METHODS[name])}
    values = {}
    for item in filter(None, (part.strip() for part in settings.split(","))):
        key, equals, value = item.partition("=")
        if key not in types or not equals:
            names = ", ".join(f"{k}=" for k in types) or "none"
            raise UserError(f"unknown setting {item!r} of {name}; allowed: {names}")
        if key in values:
            raise UserError(f"{key} is given twice, as {values[key]} and {value!r}; allowed: once")
        values[key] = _typed(key, value, types[key])
    method = METHODS[name](**values)
    if n_layers is not None and isinstance(method, FastAV):
        start = n_layers // 2 if method.start is None else method.start
        if not 1 <= start < n_layers:
            raise UserError(f"start must be from 1 to {n_layers - 1} for this model of {n_layers} layers, got {start}")
        method = replace(method, start=start)
    return method


def _typed(name: str, text: str, kind: type) -> int | float | bool | str:
    """What a setting's text means where its field is an int, float, bool or str, or one of them or None.

    Python's own int() and float() take more than a person means: "1_0", "\u0663", " 7", "nan". Raises UserError.
    """
    kind = next((k for k in get_args(kind) if k is not NoneType), kind)
    if kind is str:
        return text
    if kind is int and re.fullmatch(r"-?[0-9]{1,18}", text):
        return int(text)
    number = r"-?([0-9]+(\.[0-9]*)?|\.[0-9]+)(e[+-]?[0-9]+)?"
    if kind is float and re.fullmatch(number, text, re.IGNORECASE) and math.isfinite(float(text)):
        return float(text)
    if kind is bool and text.lower() in ("true", "false"):
        return text.lower() == "true"
    what, allowed = _FORMS[kind]
    raise UserError(f"{name} must be {what}, got {text!r}; allowed: {allowed}")
