"""The controls of every method's settings, made from the settings themselves.

They only write the text form of a method, which is what is sent and checked. Those of the chosen method are visible.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

import gradio as gr

from fastav.methods import METHODS, Method, Setting
from fastav.page import request

N = "750"  # in a choice such as first(N), until a person types another
# Runs in the browser, so that a click on Run that follows at once finds the new text. A number that was emptied is written as
# "null", which is refused; a setting that may be left out is then left out.
WRITE = """(method, trim, ...values) => {
  const settings = %s.flatMap(([owner, name, optional], i) =>
    owner !== method || (optional && [null, ""].includes(values[i])) ? [] : [`${name}=${values[i]}`]);
  return (trim ? "trim+" : "") + method + (settings.length ? ":" : "") + settings.join(",");
}"""


class Controls:
    """The boxes, built where the layout asks for them; `name` is the method at first.

    boxes   each by the name that `state` gives it, "trim" too; a method's row is "NAME:", a setting's box "NAME:SETTING".
    inputs  what the script `write` makes the text of.
    """

    def __init__(self, name: str, n_layers: int):
        self.boxes = {"name": gr.Dropdown(list(METHODS), value=name, label="Method", elem_id="method-name")}
        written = {}
        for method, settings in _methods(METHODS[name]().fit(n_layers), n_layers):
            with gr.Row(visible=method.name == name) as self.boxes[f"{method.name}:"]:
                for each in settings:
                    self.boxes[f"{method.name}:{each.name}"] = box = control(each, getattr(method, each.name))
                    written[box] = (method.name, each.name, _may_be_left_out(each))
        self.boxes["trim"] = gr.Checkbox(label="Before the decoder: leave out encoded audio padding (trim)")
        self.inputs = [self.boxes["name"], self.boxes["trim"], *written]
        self.write = WRITE % json.dumps(list(written.values()))


def control(setting: Setting, value):
    """The box of one setting."""
    look = {"value": value, "label": setting.words, "info": setting.help, "min_width": 220}
    if setting.choices:
        return gr.Dropdown(choices(setting), allow_custom_value=any(_open(choice) for choice in setting.choices), **look)
    if setting.type is bool:
        return gr.Checkbox(**look)
    if setting.type is str or _may_be_left_out(setting):  # an empty gr.Number becomes 0 in the browser
        return gr.Textbox(**look)
    whole, low, high = setting.type is int, setting.low, setting.high
    if low is None or high is None or value is None:  # a slider cannot be empty
        return gr.Number(precision=0 if whole else None, **look)
    return gr.Slider(low, high, step=1 if whole else (high - low) / 1000, buttons=[], **look)


def choices(setting: Setting) -> list[tuple[str, str]]:
    """(what it means, the choice) of each."""
    meanings = setting.choices if isinstance(setting.choices, dict) else dict(zip(setting.choices, setting.choices, strict=True))
    return [
        (re.sub(r"\bN\b", N, words), re.sub(r"\bN\b", N, choice)) if _open(choice) else (words, choice)
        for choice, words in meanings.items()
    ]


def state(chosen: Method, n_layers: int) -> dict[str, dict]:
    """What every box but trim shows where the method `chosen`, without trim, is asked for: the others have their defaults."""
    updates = {"name": gr.update(value=chosen.name), **visible(chosen.name)}
    for method, settings in _methods(chosen, n_layers):
        for each in settings:
            limit = {"maximum": each.high} if each.layer else {}
            updates[f"{method.name}:{each.name}"] = gr.update(value=getattr(method, each.name), **limit)
    return updates


def visible(name: str) -> dict[str, dict]:
    """The rows of all methods: that of the method `name` alone shows."""
    return {f"{each}:": gr.update(visible=each == name) for each in METHODS}


def _methods(chosen: Method, n_layers: int) -> Iterator[tuple[Method, tuple[Setting, ...]]]:
    """(method, its settings) of every method: `chosen`, and the others as they are by default."""
    for name, method_class in METHODS.items():
        chosen_or_default = chosen if name == chosen.name else method_class().fit(n_layers)
        yield chosen_or_default, request.settings(method_class, n_layers)


def _may_be_left_out(setting: Setting) -> bool:
    return setting.default is None and not setting.layer


def _open(choice: str) -> bool:
    return choice.endswith("(N)")
