"""Ctrl-C at any moment: one line that says how to go on, and exit code 130.

The process ends at once instead of by KeyboardInterrupt, which libraries swallow, or turn into errors of their own while they
are being imported. Nothing needs to be put in order: each answer is written as a whole (store.py), a summary replaces the one
before as a whole (run.py).
"""

from __future__ import annotations

import os
import shlex
import signal
import sys

CODE = 130
_command = list(sys.orig_argv)


def install() -> None:
    signal.signal(signal.SIGINT, _stop)


def command(words: list[str]) -> None:
    """What was typed, for a caller that is not the command line."""
    _command[:] = words


def begun() -> None:
    """From now on --fresh would throw away what this run has answered."""
    _command[:] = [word for word in _command if not (word.startswith("--f") and "--fresh".startswith(word))]


def way_on() -> str:
    return f"this goes on from here: {shlex.join(_command)}"


def _stop(*_) -> None:
    os.write(2, f"\ninterrupted; {way_on()}\n".encode())
    os._exit(CODE)
