"""What a browser, a link or an API client asks for, checked: every door of the page goes through here.

Nothing that is asked for names a file, and nothing is rounded or filled in. Pure: no gradio, no torch.
"""

from __future__ import annotations

import re
import reprlib

from fastav import methods
from fastav.errors import UserError
from fastav.methods.fastav import FINE, RULES
from fastav.methods.trim import Trim

MAX_QUESTION = 500  # characters
MAX_P = 90  # percent per layer

_BRIEF = reprlib.Repr()
_BRIEF.maxstring = 80


def brief(value) -> str:
    """`value` as an error shows it; a long one loses its middle."""
    return _BRIEF.repr(value)


def file(given: str | dict | None) -> str:
    """The path of an upload, from gradio's own record of it or as it is. Raises UserError where there is none."""
    path = given.get("path") if isinstance(given, dict) else given
    if not path or not isinstance(path, str):
        raise UserError("There is no clip yet: add a video or audio file, or pick an example.")
    return path


def question(given: str | None) -> str:
    """The question without the space around it. Raises UserError for none, one too long, or what is no text."""
    if given is not None and not isinstance(given, str):
        raise UserError(f"The question must be text, got {brief(given)}.")
    text = (given or "").strip()
    if not text:
        raise UserError("The question is empty: ask something about the clip.")
    if len(text) > MAX_QUESTION:
        raise UserError(f"The question has {len(text)} characters; at most {MAX_QUESTION} are allowed.")
    return text


def method(start, p, rule, fine, trim=False, n_layers: int | None = None) -> methods.Method:
    """The method that the controls are set to, for a model of `n_layers` (None: not known yet).

    Raises UserError for a setting that is missing, of another type, or outside the page's limits.
    """
    if not isinstance(rule, str) or not rule.isascii() or len(rule) > 20:  # FastAV itself knows the rules
        raise UserError(f"unknown rule {brief(rule)}; allowed: {', '.join(RULES)}")
    if fine not in FINE:
        raise UserError(f"unknown fine {brief(fine)}; allowed: {', '.join(FINE)}")
    if not isinstance(trim, bool):
        raise UserError(f"trim must be true or false, got {brief(trim)}")
    start = _whole("start", start, 1, None if n_layers is None else n_layers - 1)
    chosen = methods.FastAV(start=start, p=_whole("p", p, 0, MAX_P), rule=rule, fine=fine)
    return Trim(chosen) if trim else chosen


def link(text: str, n_layers: int) -> methods.Method:
    """The method that a share link names by its text form. Raises UserError for what the controls cannot be set to."""
    # The text form could name a plan's file: no character that only a path needs gets through.
    if not re.fullmatch(r"[a-z0-9:=,+()-]{1,200}", text):
        raise UserError(f"the link asks for the method {brief(text)}; one looks like trim+fastav:start=4,p=20,rule=first(750)")
    asked = methods.parse(text, n_layers)
    trim = isinstance(asked, Trim)
    inner = asked.inner if trim else asked
    if not isinstance(inner, methods.FastAV):
        raise UserError(f"the link asks for {brief(text)}; the page can show fastav and trim+fastav")
    if method(inner.start, inner.p, inner.rule, inner.fine, trim, n_layers) != asked:
        raise UserError(f"the link asks for {brief(text)}; of its settings the page has start, p, rule and fine")
    return asked


def _whole(name: str, value, low: int, high: int | None) -> int:
    """A whole number within limits. JSON has one kind of number, so 4.0 is 4; nothing is rounded and true is no number."""
    whole = isinstance(value, int) or (isinstance(value, float) and value.is_integer())
    if isinstance(value, bool) or not whole or value < low or (high is not None and value > high):
        limits = f"of at least {low}" if high is None else f"from {low} to {high}"
        raise UserError(f"{name} must be a whole number {limits}, got {brief(value)}")
    return int(value)
