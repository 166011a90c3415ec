"""A function in a process of its own: when it crashes, hangs or takes too much memory, this process goes on.

Not multiprocessing, whose children first import the main script of their parent: that takes seconds for the page, and a
script without a main guard would start itself again.
"""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable
from importlib import import_module


class Died(Exception):
    """The child ended without an answer; the text says how."""


class TooSlow(Exception):
    """The child was silent for too long and was ended."""


def call(function: str, *args, patience_sec: float, max_bytes: int, **callbacks: Callable):
    """What `function(*args, **callbacks)` returns or raises, from a fresh Python process.

    function: "module:name". Its arguments and result, and what the callbacks are given and return, are pickled.
    callbacks: run here, whenever the function calls them there. What they raise is raised here, and the child is ended.
    patience_sec: longest time from one callback to the next, or to the result.
    max_bytes: memory that the child may allocate; only Linux keeps to it.
    Raises Died, TooSlow, and MemoryError for a child that asked for more.
    """
    serve = f"import sys; sys.path[:] = {[str(p) for p in sys.path]}; from fastav.clip.child import _serve; _serve()"
    one_thread = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}  # of numpy: stacks of more threads would count as memory
    process = subprocess.Popen([sys.executable, "-c", serve], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=one_thread)
    try:
        _send(process, (max_bytes, function, args, list(callbacks)))
        while True:
            kind, *content = _answer(process, patience_sec)
            if kind == "returned":
                return content[0]
            if kind == "raised":
                error, its_traceback = content
                raise error from RuntimeError(its_traceback)
            name, given = content
            _send(process, callbacks[name](*given))
    finally:
        process.kill()
        process.communicate()  # closes the pipes and waits


def _send(process: subprocess.Popen, thing) -> None:
    try:
        pickle.dump(thing, process.stdin, protocol=5)
        process.stdin.flush()
    except OSError:
        pass  # it has died: `_answer` tells how


def _answer(process: subprocess.Popen, patience_sec: float) -> tuple:
    was_slow = threading.Event()

    def end():
        was_slow.set()
        process.kill()

    watch = threading.Timer(patience_sec, end)
    watch.daemon = True
    watch.start()
    try:
        return pickle.load(process.stdout)
    except (EOFError, pickle.UnpicklingError) as error:
        if was_slow.is_set():
            raise TooSlow(f"silent for {patience_sec:g} s") from error
        code = process.wait()
        how = signal.strsignal(-code) if code < 0 else f"exit code {code}"
        raise Died(how) from error
    finally:
        watch.cancel()


def _serve() -> None:
    """The child's side: answer the one call that comes in on standard input."""
    answers = os.fdopen(os.dup(1), "wb")
    silence = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silence, 1)  # what C libraries print must not get between the answers

    def answer(*content) -> None:
        pickle.dump(content, answers, protocol=5)
        answers.flush()

    def asks(name: str) -> Callable:
        def ask(*given):
            answer("asks", name, given)
            return pickle.load(sys.stdin.buffer)

        return ask

    max_bytes, function, args, callbacks = pickle.load(sys.stdin.buffer)
    module, _, name = function.partition(":")
    run = getattr(import_module(module), name)
    try:
        import resource

        # Not RLIMIT_AS: reserved addresses count there, of which many threads have many.
        resource.setrlimit(resource.RLIMIT_DATA, (max_bytes, max_bytes))
    except (ImportError, ValueError, OSError):  # Windows has no such limit
        pass
    os.dup2(silence, 2)  # decoders print about every flaw
    try:
        answer("returned", run(*args, **{name: asks(name) for name in callbacks}))
    except Exception as error:
        its_traceback = traceback.format_exc()
        try:
            pickle.loads(pickle.dumps(error))
        except Exception:  # exceptions of C libraries
            error = MemoryError() if isinstance(error, MemoryError) else RuntimeError(repr(error))
        answer("raised", error, its_traceback)
