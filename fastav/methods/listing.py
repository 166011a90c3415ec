"""What `python -m fastav methods` prints: every method and its settings, read from the classes themselves."""

from __future__ import annotations

import inspect
import re
from dataclasses import replace

from fastav.methods import METHODS, Pair, Setting, Trim, class_of, settings


def listing(name: str | None = None) -> str:
    """All methods, or the one of that name. Raises UserError for an unknown one."""
    if name is not None:
        return _described(Trim if name == Trim.name else class_of(name))
    parts = [_described(each) for each in (*METHODS.values(), Trim)]
    parts += ["METHOD@45\n  The method at 45 % of vanilla's FLOPs, by the one setting that turns there."]
    return "\n\n".join([*parts, f"evs+fastav, divprune+fastav\n  {first_sentence(Pair)}"])


def _described(method: type) -> str:
    if method is Trim:
        return f"trim, trim+METHOD\n  {first_sentence(method)}"
    return "\n".join([method.name, f"  {first_sentence(method)}", *(_setting(each) for each in settings(method))])


def _setting(each: Setting) -> str:
    shown = replace(each, high="the last layer") if each.layer else each
    lines = [each.help] if each.choices else [each.help, shown.allowed]
    default = "the middle layer" if each.layer and each.default is None else "none" if each.default is None else each.default
    lines[-1] += f"; default: {default}"
    if each.choices:
        words = each.choices if isinstance(each.choices, dict) else dict.fromkeys(each.choices, "")
        width = max(map(len, words))
        lines += [f"  {choice:{width}}  {meaning}".rstrip() for choice, meaning in words.items()]
    return "\n".join(f"    {each.name + '=' if i == 0 else '':<12}{line}" for i, line in enumerate(lines))


def first_sentence(method: type) -> str:
    """Of its docstring. A sentence ends at a full stop before a capital letter or an empty line: not in "eq. 2"."""
    paragraph = " ".join(inspect.getdoc(method).partition("\n\n")[0].split())
    return re.split(r"(?<=\.) (?=[A-Z])", paragraph)[0]
