"""What a browser, a link or an API client asks for, checked: every door of the page goes through here.

Every door asks for a method by its text form. Nothing that is asked for names a file, and nothing is rounded or replaced.
Pure: no gradio, no torch.
"""

from __future__ import annotations

import re
import reprlib
from dataclasses import replace

from fastav import methods
from fastav.errors import UserError

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


def settings(method_class: type[methods.Method], n_layers: int) -> tuple[methods.Setting, ...]:
    """What the page lets a person set of a method: all but files, as far as the page and a model of `n_layers` allow."""
    shown = []
    for each in methods.settings(method_class):
        if each.layer:
            each = replace(each, high=n_layers - 1)
        elif (method_class.name, each.name) == ("fastav", "p"):
            each = replace(each, high=MAX_P)
        shown += [] if each.file else [each]
    return tuple(shown)


def method(text: str, n_layers: int) -> methods.Method:
    """The method of a text form, for a model of `n_layers`. What the text leaves out has its default.

    Raises UserError for what is no method, names a file, or is outside the page's limits.
    """
    # Neither a path nor markup gets through.
    if not isinstance(text, str) or not re.fullmatch(r"[a-z0-9_.:=,+()@-]{1,200}", text):
        raise UserError(f"the method must be text such as trim+fastav:start=4,p=20,rule=first(750), got {brief(text)}")
    asked = methods.parse(text, n_layers)
    for own in methods.plain(asked):
        for each in methods.settings(type(own)):
            if each.file and getattr(own, each.name) != each.default:
                raise UserError(f"{each.name} names a file, which the page takes from nobody; allowed: all other settings")
        for each in settings(type(own), n_layers):
            each.check(getattr(own, each.name))
    return asked
