"""The text form of a method, `name:setting=value,...`: what a person types, a link carries and a record stores."""

from __future__ import annotations

import math
import re

from fastav.errors import UserError
from fastav.methods.cut import Method
from fastav.methods.setting import settings

_FORMS = {
    int: ("a whole number", "1 to 18 digits 0-9, after a minus sign or not"),
    float: ("a number", "finite ones such as 20, 0.25 and -1e-3"),
    bool: ("a yes or no", "true, false"),
}


def build(method_class: type[Method], text: str) -> Method:
    """The method of this class with the settings of `text`, as in "p=30,rule=all": each is converted to the type of its field and
    given once.

    Raises UserError for an unknown setting or value, listing what is allowed.
    """
    types = {each.name: each.type for each in settings(method_class)}
    values = {}
    for item in filter(None, (part.strip() for part in text.split(","))):
        key, equals, value = item.partition("=")
        if key not in types or not equals:
            names = ", ".join(f"{k}=" for k in types) or "none"
            raise UserError(f"unknown setting {item!r} of {method_class.name}; allowed: {names}")
        if key in values:
            raise UserError(f"{key} is given twice, as {values[key]} and {value!r}; allowed: once")
        values[key] = _typed(key, value, types[key])
    return method_class(**values)


def names(text: str) -> list[str]:
    """Which settings a text such as "p=30,rule=all" gives."""
    return [item.partition("=")[0].strip() for item in text.split(",") if item.strip()]


def number(name: str, text: str) -> float:
    """The number that a text means. Raises UserError for what is none."""
    return _typed(name, text, float)


def _typed(name: str, text: str, wanted: type) -> int | float | bool | str:
    """What a setting's text means where its field is an int, float, bool or str.

    Python's own int() and float() take more than a person means: "1_0", "\u0663", " 7", "nan". Raises UserError.
    """
    if wanted is str:
        return text
    if wanted is int and re.fullmatch(r"-?[0-9]{1,18}", text):
        return int(text)
    number = r"-?([0-9]+(\.[0-9]*)?|\.[0-9]+)(e[+-]?[0-9]+)?"
    if wanted is float and re.fullmatch(number, text, re.IGNORECASE) and math.isfinite(float(text)):
        return float(text)
    if wanted is bool and text.lower() in ("true", "false"):
        return text.lower() == "true"
    what, allowed = _FORMS[wanted]
    raise UserError(f"{name} must be {what}, got {text!r}; allowed: {allowed}")
