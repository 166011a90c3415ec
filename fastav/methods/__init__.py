"""Pruning methods by the name a person types."""

from __future__ import annotations

import re

from fastav.errors import UserError
from fastav.methods.cut import Cut, Method, lengths
from fastav.methods.diverse import Diverse
from fastav.methods.divprune import DivPrune
from fastav.methods.equal import AtFlops, at_flops, solved
from fastav.methods.evs import EVS
from fastav.methods.fastav import FastAV
from fastav.methods.fastv import FastV
from fastav.methods.omnizip import OmniZip
from fastav.methods.pair import Pair
from fastav.methods.pyramiddrop import PyramidDrop
from fastav.methods.random import Random
from fastav.methods.seats import SEATS
from fastav.methods.setting import Setting, settings
from fastav.methods.stride import Stride
from fastav.methods.text import build, names, number
from fastav.methods.trim import Trim, parts
from fastav.methods.vanilla import Vanilla
from fastav.methods.vidcom2 import VidCom2
from fastav.methods.vtw import VTW

METHODS = {
    each.name: each
    for each in (FastAV, Diverse, FastV, SEATS, OmniZip, PyramidDrop, VTW, EVS, VidCom2, DivPrune, Stride, Random, Vanilla)
}

__all__ = [
    "METHODS",
    "AtFlops",
    "Cut",
    "FastAV",
    "Method",
    "Pair",
    "Setting",
    "Trim",
    "Vanilla",
    "class_of",
    "lengths",
    "parse",
    "parts",
    "plain",
    "settings",
    "solved",
]


def class_of(name: str) -> type[Method]:
    """The class of the method of that name. Raises UserError for an unknown one, listing what is allowed."""
    if name not in METHODS:
        names = ", ".join(sorted(METHODS))
        raise UserError(f"unknown method {name!r}; allowed: {names}, and trim or trim+METHOD")
    return METHODS[name]


def parse(text: str, n_layers: int | None = None) -> Method:
    """The method that `text` names, e.g. "vanilla", "fastav", "fastav:p=30,rule=first(750)", "trim" or "trim+fastav:p=30".

    "seats@45:..." is a method at 45 % of vanilla's FLOPs, see equal.py; "evs+fastav" two methods in turn, see pair.py.
    With `n_layers`, a missing start becomes the middle layer and one outside the model is refused.
    Raises UserError for an unknown name, setting or value, listing what is allowed.
    """
    first, *others = re.split(r"\+(?![0-9])", text.strip(), maxsplit=1)  # not that of 1e+5
    if first == "trim":
        if others and others[0].strip().partition("+")[0] == "trim":
            raise UserError(f"{text!r} trims twice; allowed: trim or trim+METHOD")
        return Trim(parse(others[0] if others else "vanilla", n_layers))
    if others:
        pair = Pair(parse(first), parse(others[0]))
        return pair if n_layers is None else pair.fit(n_layers)
    name, _, given = text.strip().partition(":")
    name, at, percent = name.partition("@")
    method = build(class_of(name), given)
    if at:
        method = at_flops(method, number("FLOPs", percent), names(given))
    return method if n_layers is None else method.fit(n_layers)


def plain(method: Method) -> tuple[Method, ...]:
    """The methods with settings of their own in a composed one, or itself."""
    if isinstance(method, Pair):
        return (*plain(method.first), *plain(method.second))
    return plain(method.inner) if isinstance(method, (Trim, AtFlops)) else (method,)
