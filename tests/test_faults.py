"""An evaluation survives what happens to it: no memory, any exception, a full disk, Ctrl-C at any line. The model is a stub.
Oracle: the summary of the run to which nothing happened.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from evaluating import ROOT, VISIBLE, document, evaluate, lasting, method, small_set, stub

TESTS = ROOT / "tests"


@pytest.fixture
def session(monkeypatch):
    return stub(monkeypatch)


@pytest.fixture
def data(tmp_path):
    return small_set(tmp_path / "data")


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out"


def raising(error):
    def do():
        raise error

    return do


def code_of(data, out, *more):
    """The exit code, or the exception that came out instead."""
    try:
        return evaluate(data, out, *more)
    except Exception as error:
        return repr(error)


def errors(out):
    found = [json.loads(line) for line in (out / "records.jsonl").read_text().splitlines()[1:]]
    return [(r["error_kind"], r["error"]) for r in found if "error" in r]


# --- one question fails -----------------------------------------------------------------------------------------------

NO_MEMORY = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    RuntimeError("[enforce fail at alloc_cpu.cpp:124] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to ..."),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    MemoryError(),
    np._core._exceptions._ArrayMemoryError((1 << 40,), np.dtype("uint8")),
    OSError(12, "Cannot allocate memory"),
]


@pytest.mark.parametrize("error", NO_MEMORY, ids=lambda error: type(error).__name__)
def test_out_of_memory_is_that_questions_error_and_the_run_goes_on(session, data, out, capsys, error):
    session.trouble = {"car": raising(error)}
    assert code_of(data, out) == 3
    text, err = capsys.readouterr()
    assert "8 questions without an answer (8 out of memory)" in text and "Traceback" not in err
    assert {kind for kind, _ in errors(out)} == {"out of memory"} and session.n_freed == 8
    numbers = json.loads(text.splitlines()[-1])
    assert method(numbers, 0)["tasks"][VISIBLE]["n"] == 4 and method(numbers, 0)["errors"] == 4
    n_calls = len(session.calls)
    session.trouble = {}
    assert evaluate(data, out) == 0
    assert len(session.calls) - n_calls == 8 and method(document(capsys), 0)["errors"] == 0


def test_a_clip_that_needs_too_much_memory_is_its_questions_error(session, data, out, capsys, monkeypatch):
    read = session.read
    monkeypatch.setattr(session, "read", lambda path: raising(MemoryError())() if "00002" in path.name else read(path))
    assert code_of(data, out) == 3
    assert [kind for kind, _ in errors(out)] == ["out of memory"] * 10


def test_weights_that_need_too_much_memory_are_one_line(session, data, out, capsys, monkeypatch):
    monkeypatch.setattr(sys.modules["fastav.session"], "load", lambda *args, **kwargs: raising(NO_MEMORY[0])())
    assert code_of(data, out) == 2
    err = capsys.readouterr().err
    assert "no memory for the weights of tiny: CUDA out of memory" in err and err.count("\n") == 1


def test_any_other_exception_is_one_record_and_one_traceback(session, data, out, capsys):
    session.trouble = {"car": raising(ValueError("odd\nshape")), "match": lambda: {}["key"]}
    assert code_of(data, out) == 3
    err = capsys.readouterr().err
    assert sorted(set(errors(out))) == [("KeyError", "KeyError: 'key'"), ("ValueError", "ValueError: odd shape")]
    assert len(errors(out)) == 16 and err.count("Traceback") == 2
    assert err.splitlines()[-1].startswith("partial: 16 answers are missing")


def test_a_result_that_cannot_be_written_is_that_questions_error(session, data, out, monkeypatch):
    answer = session.answer

    def broken(clip, question, *args, **kwargs):
        result = answer(clip, question, *args, **kwargs)
        object.__setattr__(result, "flops", float("nan") if "car" in question else 1.0)
        return result

    monkeypatch.setattr(session, "answer", broken)
    assert code_of(data, out) == 3
    assert [kind for kind, _ in errors(out)] == ["ValueError"] * 8


HUNGRY = """
import resource, sys
sys.path[:0] = [{root!r}, {tests!r}]
from types import ModuleType
import numpy, torch
import evaluating
MB = 1_000_000
def of_torch():
    first = torch.zeros(300 * MB, dtype=torch.uint8)
    return first, torch.zeros(300 * MB, dtype=torch.uint8)
def of_numpy():
    first = numpy.ones(300 * MB, numpy.uint8)
    return first, numpy.ones(300 * MB, numpy.uint8)
def of_python():
    first = bytearray(300 * MB)
    return first, bytearray(300 * MB)
def half():
    torch.zeros(300 * MB, dtype=torch.uint8)
module = ModuleType("fastav.session")
trouble = {{"car": of_torch, "match": of_numpy, "Describe": of_python, "sound": half}}
module.load = lambda *args, **kwargs: evaluating.StubSession(trouble=trouble)
sys.modules["fastav.session"] = module
from eval import run
size = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (size + 450 * MB,) * 2)
sys.exit(run.main(sys.argv[1:]))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_AS and /proc")
def test_memory_that_the_system_refuses_is_given_back_for_the_next_question(data, tmp_path, out):
    """An address space with room for one block of 300 MB, not for two. Questions that need two fail, by torch, numpy and
    Python; those between them that need one are answered.
    """
    driver = tmp_path / "driver.py"
    driver.write_text(HUNGRY.format(root=str(ROOT), tests=str(TESTS)))
    command = [sys.executable, driver, "--bench", "avhbench", "--data-root", data, "--output", out, "--method", "vanilla"]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.returncode == 3, done.stderr
    assert "Traceback" not in done.stderr
    found = [json.loads(line) for line in (out / "records.jsonl").read_text().splitlines()[1:]]
    kinds = {r["text"]: r.get("error_kind") for r in found}
    assert [kinds[text] for text in kinds if "dog" in text] == [None, None]
    assert [kinds[text] for text in kinds if "dog" not in text] == ["out of memory"] * 3
    said = " ".join(r["error"] for r in found if "error" in r)
    assert "DefaultCPUAllocator" in said and "Unable to allocate" in said


# --- everything stops -------------------------------------------------------------------------------------------------

# Runs eval/run.py as the script it is, again and again, each time in a process of its own. `trace` may be a function that is
# called at every line in eval/, `limit` the largest file that may be written.
DRIVER = """
import json, os, resource, runpy, signal, sys, traceback
from types import ModuleType
sys.path[:0] = [{root!r}, {tests!r}]
import evaluating
module = ModuleType("fastav.session")
module.load = lambda *args, **kwargs: evaluating.StubSession()
sys.modules["fastav.session"] = module
signal.signal(signal.SIGINT, signal.default_int_handler)

def command(output, *more, at=0, limit=None):
    reads, ends = zip(*(os.pipe() for _ in range(3)))
    if os.fork():
        for end in ends:
            os.close(end)
        found = [open(read).read() for read in reads]
        return os.waitstatus_to_exitcode(os.wait()[1]), *found[:2], int(found[2] or 0)
    os.dup2(ends[0], 1)
    os.dup2(ends[1], 2)
    n_lines = 0

    def trace(frame, event, arg):
        nonlocal n_lines
        if not frame.f_code.co_filename.startswith({root!r} + "/eval/"):
            return None
        n_lines += event == "line"
        if event == "line" and n_lines == at:
            os.kill(os.getpid(), signal.SIGINT)
        return trace

    code = 1
    try:
        if limit is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
        sys.argv = sys.orig_argv[:] = ["run.py", "--bench", "avhbench", "--data-root", {data!r}, "--output", output, *more]
        sys.settrace(trace)
        runpy.run_path({root!r} + "/eval/run.py", run_name="__main__")
    except SystemExit as done:
        code = done.code
    except BaseException:
        traceback.print_exc()
    sys.settrace(None)
    try:
        sys.stdout.flush()
        sys.stderr.flush()
        os.write(ends[2], str(n_lines).encode())
    finally:
        os._exit(code)

whole, text, _, n_lines = command({out!r} + "-whole")
found = []
"""
INTERRUPTIONS = """
for at in range(10, n_lines + 1, max(1, n_lines // 40)):
    output = {out!r} + f"-{{at}}"
    code, _, err, _ = command(output, "--fresh", at=at)
    again = command(output)
    found.append((at, code, err, again[0], again[1]))
print(json.dumps((whole, text, found)))
"""
FULL_DISKS = """
size = os.path.getsize({out!r} + "-whole/records.jsonl")
for limit in range(0, size - 100, size // 15):  # times are written with more digits or fewer: a run may need less
    output = {out!r} + f"-{{limit}}"
    code, _, err, _ = command(output, limit=limit)
    records = open(output + "/records.jsonl", "rb").read()
    again = command(output)
    found.append((limit, code, err, len(records), records.count(b"\\n"), records[-1:] in (b"", b"\\n"), again[0], again[1]))
print(json.dumps((whole, text, found)))
"""


def drive(script, data, out):
    filled = (DRIVER + script).format(root=str(ROOT), tests=str(TESTS), data=str(data), out=str(out))
    driver = data.parent / "driver.py"
    driver.write_text(filled)
    done = subprocess.run([sys.executable, driver], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    code, text, found = json.loads(done.stdout)
    assert code == 0
    return lasting(json.loads(text.splitlines()[-1])), found


def lines(err):
    """What stands on stderr beside progress bars."""
    return [line for line in err.replace("\r", "\n").splitlines() if line.strip() and "%|" not in line]


def test_ctrl_c_at_any_line_is_one_line_and_loses_nothing(tmp_path, out):
    """About forty places in eval/, from the script's imports (a few lines must pass before it can listen) to its last line."""
    whole, found = drive(INTERRUPTIONS, small_set(tmp_path / "data", n_clips=1), out)
    assert len(found) >= 38
    for at, code, err, again, text in found:
        assert (code, again) == (130, 0), f"line {at}: {err}"
        assert len(lines(err)) == 1 and lines(err)[0].startswith("interrupted; "), f"line {at}: {err}"
        assert lasting(json.loads(text.splitlines()[-1])) == whole


def test_ctrl_c_while_the_script_imports_is_one_line(tmp_path):
    """A stand-in for a package that takes long to import."""
    (tmp_path / "tqdm.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGINT)\nfor _ in range(10): pass\n")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    command = [sys.executable, ROOT / "eval" / "run.py", "--bench", "avhbench", "--fresh"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 130 and len(lines(done.stderr)) == 1
    assert done.stderr.strip().endswith("eval/run.py --bench avhbench --fresh")  # nothing has been moved aside yet


def test_the_line_that_resumes_does_not_start_over(session, data, out, capsys):
    session.trouble = {"car": raising(KeyboardInterrupt())}
    assert evaluate(data, out, "--fresh", "--limit", 4) == 130
    last = capsys.readouterr().err.splitlines()[-1]
    assert "--limit 4" in last and "--fresh" not in last


def test_a_full_disk_is_one_line_and_keeps_the_answers(tmp_path, out):
    whole, found = drive(FULL_DISKS, small_set(tmp_path / "data", n_clips=2), out)
    assert len(found) >= 15
    for limit, code, err, size, n_lines, ends, again, text in found:
        assert code in (2, 3) and again == 0, f"{limit} bytes: {err}"
        assert len(lines(err)) == 1 and "records.jsonl': File too large" in err, f"{limit} bytes: {err}"
        assert ends and limit - 2000 < size <= limit  # less than one record is missing
        assert f"the {max(0, n_lines - 1)} answers in it are kept" in err
        assert lasting(json.loads(text.splitlines()[-1])) == whole


def test_a_full_disk_names_the_command_that_goes_on(session, data, out, capsys, monkeypatch):
    """With --fresh the same command would start over."""
    monkeypatch.setattr(os, "fsync", lambda file: raising(OSError(28, "No space left on device"))())
    assert code_of(data, out, "--fresh") == 3
    last = capsys.readouterr().err.splitlines()[-1]
    assert "records.jsonl': No space left on device; the 10 answers in it are kept; this goes on from here: python" in last
    assert "--output" in last and "--fresh" not in last


FINISHED = """
small = command({out!r} + "-whole", limit=100)
print(json.dumps((whole, text, small[:3])))
"""


def test_no_room_for_the_summary_leaves_the_one_before_and_still_prints(data, out):
    whole, (code, text, err) = drive(FINISHED, data, out)
    assert code == 3 and len(lines(err)) == 1 and "summary.json': File too large" in err
    assert lasting(json.loads(text.splitlines()[-1])) == whole
    folder = Path(f"{out}-whole")
    assert lasting(json.loads((folder / "summary.json").read_text())) == whole
    assert not list(folder.glob("*.part"))


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_no_room_for_what_is_printed_is_no_traceback(data, out, tmp_path, stream):
    from evaluating import DRIVER as plain

    driver = tmp_path / "driver.py"
    driver.write_text(plain.format(root=str(ROOT), tests=str(TESTS), delay=0))
    command = [sys.executable, driver, "--bench", "avhbench", "--data-root", data, "--output", out]
    with open("/dev/full", "w") as full:
        streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, stream: full}
        done = subprocess.run(command, text=True, **streams)
    assert done.returncode == 3
    if stream == "stdout":
        assert lines(done.stderr)[-1].startswith("error: cannot write the tables to stdout: No space left")
        assert "Traceback" not in done.stderr and (out / "summary.json").exists()
