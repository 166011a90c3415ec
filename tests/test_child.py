"""A function in a process of its own. Oracle: the same function called here; what the system says of a process that ended."""

import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from fastav.clip import child

LIMITS = {"patience_sec": 20.0, "max_bytes": 2_000_000_000}


class Unpicklable(Exception):
    def __init__(self, a, b):
        super().__init__(f"{a} and {b}")


# What is called in the child, which imports this module.


def asking(start: int, step, add) -> int:
    return add(start, step(start))


def own_pid() -> int:
    return os.getpid()


def noisy() -> str:
    os.write(1, b"printed by a C library")
    os.write(2, b"printed by a C library")
    return "answer"


def raising(error: Exception):
    raise error


def raising_unpicklable():
    raise Unpicklable(1, 2)


def filled(n_bytes: int) -> int:
    return len(np.ones(n_bytes, np.uint8))


def telling_its_pid(hear) -> None:
    hear(os.getpid())
    time.sleep(60)


def slow_but_steady(tick) -> str:
    for _ in range(4):
        time.sleep(0.4)
        tick()
    return "done"


def test_it_returns_what_the_function_returns_here():
    assert child.call("operator:add", 1, 2, **LIMITS) == 3
    array = np.random.default_rng(0).normal(size=(3, 100_000))
    np.testing.assert_array_equal(child.call("numpy:transpose", array, **LIMITS), array.T)
    assert child.call("test_child:own_pid", **LIMITS) != os.getpid()


def test_callbacks_run_here_and_their_answers_reach_the_function():
    seen = []

    def step(value):
        seen.append((value, os.getpid()))
        return value * 10

    result = child.call("test_child:asking", 4, step=step, add=lambda a, b: a + b, **LIMITS)
    assert result == asking(4, lambda v: v * 10, lambda a, b: a + b) == 44
    assert seen == [(4, os.getpid())]


def test_what_libraries_print_stays_out_of_the_answers(capfd):
    assert child.call("test_child:noisy", **LIMITS) == "answer"
    assert capfd.readouterr() == ("", "")


def test_what_the_function_raises_is_raised_here_with_its_traceback():
    with pytest.raises(KeyError, match="'key'") as caught:
        child.call("test_child:raising", KeyError("key"), **LIMITS)
    assert "in raising" in str(caught.value.__cause__)
    with pytest.raises(RuntimeError, match="1 and 2"):
        child.call("test_child:raising_unpicklable", **LIMITS)


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_a_child_that_dies_is_told_by_how_it_died():
    with pytest.raises(child.Died, match="^Segmentation fault$"):
        child.call("faulthandler:_sigsegv", **LIMITS)
    with pytest.raises(child.Died, match="^exit code 3$"):
        child.call("os:_exit", 3, **LIMITS)


def test_a_silent_child_is_ended_and_a_steady_one_is_not():
    began = time.monotonic()
    with pytest.raises(child.TooSlow):
        child.call("time:sleep", 15, **{**LIMITS, "patience_sec": 1.0})
    assert time.monotonic() - began < 10
    ticks = []
    # 1.6 s in all, never more than 0.4 s and the start at once
    assert child.call("test_child:slow_but_steady", tick=lambda: ticks.append(1), **{**LIMITS, "patience_sec": 1.5}) == "done"
    assert len(ticks) == 4


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux keeps to the limit")
def test_a_child_that_takes_too_much_memory_is_a_memory_error():
    few = {**LIMITS, "max_bytes": 500_000_000}
    assert child.call("test_child:filled", 100_000_000, **few) == 100_000_000
    with pytest.raises(MemoryError):
        child.call("test_child:filled", 600_000_000, **few)


def test_no_child_is_left_when_a_callback_raises():
    pids = []

    def hear(pid):
        pids.append(pid)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        child.call("test_child:telling_its_pid", hear=hear, **LIMITS)
    with pytest.raises(ProcessLookupError):
        os.kill(pids[0], 0)


def test_a_script_without_a_main_guard_may_call_it(tmp_path):
    """multiprocessing would run the script again in each child."""
    script = tmp_path / "script.py"
    script.write_text(
        "print('once')\nfrom fastav.clip import child\n"
        "print(child.call('operator:add', 1, 2, patience_sec=20, max_bytes=2_000_000_000))\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[1])}
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, env=environment)
    assert done.stdout == "once\n3\n", done.stderr
