"""Ctrl-C in an evaluation: the line says how to go on.

Nothing needs to be put in order before the process ends: each answer is written as a whole (store.py), a summary replaces the one
before as a whole (run.py).
"""

from __future__ import annotations

import shlex
import sys

from fastav import interrupt

CODE = interrupt.CODE
_command = list(sys.orig_argv)


def install() -> None:
    interrupt.install(lambda: f"\ninterrupted; {way_on()}")


def command(words: list[str]) -> None:
    """What was typed, for a caller that is not the command line."""
    _command[:] = words


def begun() -> None:
    """From now on --fresh would throw away what this run has answered."""
    _command[:] = [word for word in _command if not (word.startswith("--f") and "--fresh".startswith(word))]


def way_on() -> str:
    return f"this goes on from here: {shlex.join(_command)}"
