"""Pruning methods by the name a person types."""

from __future__ import annotations

from fastav.errors import UserError
from fastav.methods.cut import Cut, Method, lengths
from fastav.methods.diverse import Diverse
from fastav.methods.divprune import DivPrune
from fastav.methods.equal import AtFlops, at_flops, solved
from fastav.methods.evs import EVS
from fastav.methods.fastav import FastAV
from fastav.methods.fastv import FastV
from fastav.methods.omnizip import OmniZip
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
    "Setting",
    "Trim",
    "Vanilla",
    "class_of",
    "lengths",
    "parse",
    "parts",
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

    "seats@45:..." is a method at 45 % of vanilla's FLOPs, see equal.py.
    With `n_layers`, a missing start becomes the middle layer and one outside the model is refused.
    Raises UserError for an unknown name, setting or value, listing what is allowed.
    """
    first, plus, rest = text.strip().partition("+")
    if first == "trim":
        if rest.strip().partition("+")[0] == "trim":
            raise UserError(f"{text!r} trims twice; allowed: trim or trim+METHOD")
        return Trim(parse(rest if plus else "vanilla", n_layers))
    name, _, given = text.strip().partition(":")
    name, at, percent = name.partition("@")
    method = build(class_of(name), given)
    if at:
        method = at_flops(method, number("FLOPs", percent), names(given))
    return method if n_layers is None else method.fit(n_layers)
