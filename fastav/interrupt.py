"""Ctrl-C at any moment: one line and exit code 130.

The process ends at once instead of by KeyboardInterrupt, which libraries swallow, or turn into errors of their own while they are
being imported.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable

CODE = 128 + signal.SIGINT


def install(line: Callable[[], str] = lambda: "interrupted") -> None:
    """For programs alone. Processes that are forked from this one end without a word."""
    program = os.getpid()

    def stop(*_) -> None:
        if os.getpid() == program:
            os.write(2, f"{line()}\n".encode())
        os._exit(CODE)

    signal.signal(signal.SIGINT, stop)
