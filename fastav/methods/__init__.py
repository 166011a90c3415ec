"""Pruning methods by the name a person types, and their text form `name:setting=value,...`."""

from __future__ import annotations

from dataclasses import fields, replace

from fastav.errors import UserError
from fastav.methods.cut import Cut, Method, lengths
from fastav.methods.fastav import FastAV
from fastav.methods.trim import Trim
from fastav.methods.vanilla import Vanilla

METHODS = {"fastav": FastAV, "vanilla": Vanilla}

__all__ = ["METHODS", "Cut", "FastAV", "Method", "Trim", "Vanilla", "lengths", "parse"]


def parse(text: str, n_layers: int | None = None) -> Method:
    """The method that `text` names, e.g. "vanilla", "fastav", "fastav:p=30,rule=first(750)", "trim" or "trim+fastav:p=30".

    With `n_layers`, a missing start becomes the middle layer and one outside the model is refused.
    Raises UserError for an unknown name, setting or value, listing what is allowed.
    """
    first, plus, rest = text.strip().partition("+")
    if first == "trim":
        inner = parse(rest if plus else "vanilla", n_layers)
        if isinstance(inner, Trim):
            raise UserError(f"{text!r} trims twice; allowed: trim or trim+METHOD")
        return Trim(inner)
    name, _, settings = text.strip().partition(":")
    if name not in METHODS:
        names = ", ".join(sorted(METHODS))
        raise UserError(f"unknown method {name!r}; allowed: {names}, and trim or trim+METHOD")
    allowed = {f.name: f for f in fields(METHODS[name])}
    values = {}
    for item in filter(None, (part.strip() for part in settings.split(","))):
        key, equals, value = item.partition("=")
        if key not in allowed or not equals:
            names = ", ".join(f"{k}=" for k in allowed) or "none"
            raise UserError(f"unknown setting {item!r} of {name}; allowed: {names}")
        if "int" in str(allowed[key].type):
            if not value.lstrip("-").isdigit():
                raise UserError(f"{key} must be a whole number, got {value!r}")
            value = int(value)
        values[key] = value
    method = METHODS[name](**values)
    if n_layers is not None and isinstance(method, FastAV):
        start = n_layers // 2 if method.start is None else method.start
        if not 1 <= start < n_layers:
            raise UserError(f"start must be from 1 to {n_layers - 1} for this model of {n_layers} layers, got {start}")
        method = replace(method, start=start)
    return method
