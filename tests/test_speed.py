"""The speed command at its smallest size. Oracle: arithmetic by hand on lengths, FLOPs and bytes; never the timings."""

import contextlib
import errno
import io
import json
import os
import signal
import subprocess
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace

import fake_cuda
import pytest
import torch
from fake_cuda import Card
from transformers import Qwen2Config

from eval import speed, timing
from fastav import flops, measure, memory
from fastav.errors import UserError

ROOT = Path(__file__).resolve().parents[1]
QUICK = ["--device", "cpu", "--size", "tiny", "--repeats", "2", "--p", "20"]

# A decoder of 4 layers, width 32, MLP 64, 2 heads of 16, one KV head, 100 words.
LENGTHS = {
    "vanilla": [2206] * 4,
    "fastav:p=0": [2206, 2206, 720, 720],  # 34 text + 676 video + 10 audio
    "fastav:p=20": [2206, 2206, 720, 583],  # 20 % of 686 are 137
    "trim+fastav:p=0": [1510, 1510, 720, 720],  # 696 audio tokens hear padding
    "trim+fastav:p=20": [1510, 1510, 720, 583],
}


def flops_of(lengths):
    """Per layer n d (2 q + 2 kv) + 2 n^2 q + 3 n d m, with d = q = 32, kv = 16, m = 64; and d V once."""
    return sum(n * 32 * 96 + 64 * n * n + 3 * n * 32 * 64 for n in lengths) + 3200


@pytest.fixture(scope="module")
def document(tmp_path_factory):
    """(the JSON file's document, everything on stdout) of one run."""
    file, out = tmp_path_factory.mktemp("speed") / "cpu.json", io.StringIO()
    threads = torch.get_num_threads()
    with contextlib.redirect_stdout(out):
        code = speed.main(["--device", "cpu", "--size", "tiny", "--repeats", "2", "--p", "0,20", "--output", str(file)])
    torch.set_num_threads(threads)
    assert code == 0
    return json.loads(file.read_text()), out.getvalue()


def test_lengths_flops_and_bytes_are_those_by_hand(document):
    records = {r["method"]: r for r in document[0]["methods"]}
    assert {name: r["lengths"] for name, r in records.items()} == LENGTHS
    for name, r in records.items():
        assert r["flops_relative"] == pytest.approx(flops_of(LENGTHS[name]) / flops_of(LENGTHS["vanilla"]), rel=1e-12)
        assert r["kv_bytes"] == sum(LENGTHS[name]) * 2 * 16 * 4  # K and V, one head of 16, float32
        assert 0 < r["peak_bytes"] <= records["vanilla"]["peak_bytes"]
        assert r["host_syncs_between_layers"] is None
        assert all(low <= middle <= high for low, middle, high in (r["prefill_sec"], r["per_token_sec"]))
    assert records["vanilla"]["prefill_relative"] == [1.0, 1.0, 1.0]


def test_the_last_line_is_the_document_and_the_table_names_its_conditions(document):
    found, out = document
    *lines, last = out.splitlines()
    assert json.loads(last) == found
    text = "\n".join(lines)
    assert "34 text + 676 video + 1496 audio tokens = 2206" in text
    for name in ("machine", "cores", "load_average", "torch", "transformers", "attention", "dtype", "repeats"):
        assert f"{name} {dict(speed.flat(found['conditions']))[name]}" in text
    rows = [line.split() for line in lines if line.startswith(("vanilla ", "fastav", "trim"))]
    assert [row[0] for row in rows] == list(LENGTHS) and all(row[-1] == "-" for row in rows)
    assert rows[0][1] == "1.000"
    assert found["goal"] is None and "goal" not in text  # there is none for this size
    goal = {"method": "fastav:p=20", "limit": 0.575, "found": 0.571, "met": True}
    assert speed.report({**found, "goal": goal}).endswith("at most 0.575 of vanilla: 0.571, met")


@pytest.mark.parametrize(
    ("name", "total", "kept", "trimmed", "published", "trimmed_flops"),
    [("videollama2.1-av", 2206, 720, 1510, 55.7, 39), ("video-salmonn-2", 1910, 782, 1870, 57.2, 56)],
)
def test_token_counts_are_those_of_the_models(name, total, kept, trimmed, published, trimmed_flops):
    """FLOPs by the paper's formula at P = 20 in a 7B decoder; 782 = 30 text + 4 frames of 188."""
    layout = speed.MODELS[name]()
    _, plain, trim = speed.cases(layout, torch.zeros(1, total, 1), speed.labels([20]), Qwen2Config(**speed.SIZES["real"]))
    assert len(layout) == plain.lengths[13] == total and plain.lengths[14] == kept
    assert trim.lengths[13] == trimmed == trim.request.inputs.embeds.shape[1]
    config = Qwen2Config(**speed.SIZES["real"])
    full = flops.paper_flops([total] * 28, config)
    assert round(100 * flops.paper_flops(plain.lengths, config) / full, 1) == published
    assert round(100 * flops.paper_flops(trim.lengths, config) / full) == trimmed_flops


def test_times_are_compared_within_a_repeat(monkeypatch):
    """By hand: prefills 1, 3, 8 s beside vanilla's 2, 4, 8: ratios 0.5, 0.75, 1; gaps of 1 and 3 s are 2 s per token."""
    config = Qwen2Config(**speed.SIZES["tiny"])
    a, b = (SimpleNamespace(label=label, lengths=[5] * 4, keys_again=0) for label in ("vanilla", "x"))
    times = {"vanilla": [[t, 1.0] for t in (2.0, 4.0, 8.0)], "x": [[t, 1.0, 3.0] for t in (1.0, 3.0, 8.0)]}
    vanilla, own = ([SimpleNamespace(seconds=seconds, kv_bytes=7) for seconds in times[label]] for label in ("vanilla", "x"))
    record = timing._record(SimpleNamespace(config=config), b, a, own, vanilla, 11, [0.2, 0.8, 0.6], None)
    assert record["prefill_relative"] == [0.625, 0.75, 0.875]
    assert record["prefill_sec"] == [2.0, 3.0, 5.5] and record["per_token_sec"] == [2.0] * 3
    assert record["kv_bytes"] == 7 and record["peak_bytes"] == 11
    assert record["choosing_sec"] == 0.6 and record["choosing_relative"] == pytest.approx(0.6 / 4)


def test_methods_take_turns(monkeypatch):
    """Each repeat begins with the next method, after one warm-up of each."""
    order = []
    run = SimpleNamespace(seconds=[1.0, 1.0], kv_bytes=1)
    monkeypatch.setattr(measure, "generate", lambda model, request, n, forced: order.append(request) or run)
    monkeypatch.setattr(timing, "generate", lambda model, request, n: order.append(request) or run)
    monkeypatch.setattr(memory, "peak_memory", lambda run, device: (1, None))
    monkeypatch.setattr(timing, "choosing_sec", lambda model, case: 0.5)
    todo = [SimpleNamespace(label=label, request=label, lengths=[5] * 4, keys_again=0) for label in "abc"]
    model = SimpleNamespace(config=Qwen2Config(**speed.SIZES["tiny"]), device=torch.device("cpu"))
    records = speed.measure(model, todo, 4, SimpleNamespace(update=lambda: None))
    assert "".join(order) == "abc" + "abc" + "bca" + "cab" + "abc"
    assert [r["method"] for r in records] == list("abc")


def test_choosing_is_planning_scores_and_selecting(monkeypatch):
    """A clock that a score advances by 3 s; what ran before and after is not in it. Vanilla plans, and chooses nothing."""
    model, clock = speed.build("tiny", torch.device("cpu"), torch.float32, "sdpa"), [0.0]
    layout = speed.MODELS["videollama2.1-av"]()
    monkeypatch.setattr(timing.time, "perf_counter", lambda: clock[0])
    vanilla, one = speed.cases(layout, torch.randn(1, 2206, 32), ["fastv:audio=1"], model.config)

    def values(self, seen):
        clock[0] += 3
        return seen.attention(self.weights)[:, 0]

    monkeypatch.setattr("fastav.methods.scores.LastQuery.values", values)
    assert (timing.choosing_sec(model, vanilla), timing.choosing_sec(model, one)) == (0, 3)


def test_every_method_can_be_timed(capsys):
    """Smoke test, but for what is chosen for: names as typed, in their order, and a share of vanilla's prefill."""
    methods = ["seats@45", "omnizip", "evs+fastav"]
    assert speed.main([*QUICK, *(word for method in methods for word in ("--method", method))]) == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])["methods"]
    assert [r["method"] for r in found] == ["vanilla", *methods]
    assert all(0 < r["choosing_relative"] for r in found[1:])


def test_host_syncs_are_counted_between_the_layers_alone(monkeypatch):
    """A stand-in for CUDA's sync check: while it is on, one layer in the middle waits twice; waits outside do not count."""
    model = speed.build("tiny", torch.device("cpu"), torch.float32, "sdpa")
    layout = speed.MODELS["videollama2.1-av"]()
    case = speed.cases(layout, torch.randn(1, 2206, 32), ["fastav"], model.config)[1]
    mode = ["default"]
    monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", lambda new: mode.__setitem__(0, new))

    def wait(*args):
        if mode[0] == "warn":
            warnings.warn("called a synchronizing CUDA operation", stacklevel=1)

    assert timing.host_syncs(model, case, torch.device("cuda")) == 0
    for module in (model.model.embed_tokens, model.model.norm, model.lm_head):
        module.register_forward_hook(wait)
    assert timing.host_syncs(model, case, torch.device("cuda")) == 0
    for _ in range(2):
        model.model.layers[2].register_forward_hook(wait)
    assert timing.host_syncs(model, case, torch.device("cuda")) == 2
    assert mode == ["default"] and timing.host_syncs(model, case, torch.device("cpu")) is None


def test_goals_by_hand():
    """On a CPU 0.03 above the FLOPs, on a GPU 0.59; only FastAV at P = 20 is held to them."""
    record = {"method": "fastav:p=20", "flops_relative": 0.5, "prefill_relative": [0.5, 0.53, 0.6]}
    assert speed.goal([record], torch.device("cpu")) == {"method": "fastav:p=20", "limit": 0.53, "found": 0.53, "met": True}
    late = {**record, "prefill_relative": [0.5, 0.591, 0.6]}
    assert speed.goal([late], torch.device("cpu"))["met"] is False
    assert speed.goal([late], torch.device("cuda"))["limit"] == 0.59
    assert speed.goal([late], torch.device("cuda"))["met"] is False and speed.goal([record], torch.device("cuda"))["met"]
    assert speed.goal([{**record, "method": "trim+fastav:p=20"}], torch.device("cpu")) is None


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--model", "tiny"], "unknown model 'tiny'; allowed: videollama2.1-av, video-salmonn-2"),
        (["--size", "7b"], "unknown size '7b'; allowed: real, scaled, tiny"),
        (["--p", "10,120"], "whole percents from 0 to 100 with commas between, got '10,120'"),
        (["--p", ""], "got ''"),
        (["--repeats", "1"], "--repeats must be at least 2"),
        (["--threads", "0"], "got 7 and 0"),
        (["--attn", "fast"], "unknown attention 'fast'"),
        (["--output", "no/such/folder/x.json"], "a new file in a folder that exists"),
    ],
)
def test_what_cannot_be_measured_is_one_line_and_exit_code_2(capsys, given, message):
    assert speed.main(given) == 2
    found = capsys.readouterr().err
    assert found.startswith("error: ") and message in found and found.count("\n") == 1


def test_an_earlier_result_is_not_overwritten(capsys, tmp_path):
    (tmp_path / "a.json").write_text("kept")
    assert speed.main(["--size", "tiny", "--output", str(tmp_path / "a.json")]) == 2
    assert (tmp_path / "a.json").read_text() == "kept"


def outcome(given: list[str]):
    """The exit code; or what would be a traceback in a terminal."""
    threads = torch.get_num_threads()
    try:
        return speed.main(given)
    except BaseException as error:
        return repr(error)
    finally:
        torch.set_num_threads(threads)


def told(capsys) -> str:
    """The one line on stderr that is no progress bar."""
    lines = [line.rpartition("\r")[2] for line in capsys.readouterr().err.split("\n")]
    (line,) = (line for line in lines if line and not line.startswith("videollama2.1-av:"))
    return line


def raises(error: BaseException):
    def fail(*args, **options):
        raise error

    return fail


def test_cuda_without_an_index_is_the_current_gpu(monkeypatch, capsys):
    fake_cuda.install(monkeypatch, Card(), Card(), current=1)
    monkeypatch.setattr(speed, "build", lambda size, device, dtype, attn: raises(UserError(f"{size} on {device}, {dtype}"))())
    assert outcome(["--device", "cuda"]) == 2
    assert told(capsys) == "error: real on cuda:1, torch.bfloat16"


def test_a_gpus_figures_name_its_compute_capability(monkeypatch):
    fake_cuda.install(monkeypatch, Card("Tesla T4", (7, 5)))
    config = SimpleNamespace(_attn_implementation="sdpa")
    model = SimpleNamespace(device=torch.device("cuda:0"), dtype=torch.float16, config=config)
    found = speed.conditions(model, SimpleNamespace(repeats=7))
    assert found.items() >= {"machine": "Tesla T4", "compute_capability": "7.5", "dtype": "float16"}.items()


@pytest.mark.parametrize(
    ("error", "needed"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.50 GiB. GPU 0 has a total ..."), "2.50 GiB"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8000000 bytes."), "8.0 MB"),
        (MemoryError(), "some bytes"),
    ],
)
@pytest.mark.parametrize("part", ["build", "measure"])
def test_out_of_memory_is_one_line_that_says_what_helps(monkeypatch, capsys, part, error, needed):
    monkeypatch.setattr(speed, part, raises(error))
    assert outcome(QUICK) == 2
    said = told(capsys)
    assert said.startswith(f"error: out of memory: {needed} more were needed; a smaller --size,") and "--dtype" in said


def test_a_mistake_of_ours_keeps_its_traceback(monkeypatch):
    monkeypatch.setattr(speed, "build", raises(RuntimeError("mat1 and mat2 shapes cannot be multiplied")))
    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        speed.main(QUICK)


def test_an_output_that_cannot_be_made_is_named_before_anything_is_measured(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(speed, "build", raises(AssertionError("too late")))
    for path in (tmp_path / ("x" * 300), tmp_path / "no" / "a.json", tmp_path, Path(__file__) / "a.json"):
        assert outcome([*QUICK, "--output", str(path)]) == 2
        assert "it must be a new file in a folder that exists" in told(capsys)
    monkeypatch.setattr(speed, "build", raises(UserError("in time")))
    assert outcome([*QUICK, "--output", str(tmp_path / "a.json")]) == 2
    assert told(capsys) == "error: in time" and not list(tmp_path.iterdir())


def test_figures_that_a_full_disk_does_not_take_are_shown(monkeypatch, capsys, tmp_path):
    write = Path.write_text

    def full(path, text):
        write(path, text[:10])
        if text:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    assert outcome([*QUICK, "--output", str(tmp_path / "a.json")]) == 2
    out, err = capsys.readouterr()
    assert err.splitlines()[-1].startswith("error: --output ") and "No space left on device" in err
    assert "Traceback" not in err and json.loads(out.splitlines()[-1])["methods"]
    assert not list(tmp_path.iterdir())  # no half of a document


def test_figures_that_stdout_does_not_take_are_written(tmp_path):
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "eval/speed.py", *QUICK, "--output", str(tmp_path / "a.json")]
    done = subprocess.run(command, cwd=ROOT, stdout=write, stderr=subprocess.PIPE, text=True)
    os.close(write)
    assert done.returncode == 2, done.stderr
    assert done.stderr.splitlines()[-1] == "error: the figures could not be written to stdout: Broken pipe"
    assert json.loads((tmp_path / "a.json").read_text())["methods"]


@pytest.mark.parametrize("module", ["numpy", "torch", "transformers"])
def test_ctrl_c_while_libraries_are_imported_is_one_line(module):
    """The signal comes when `module` is first asked for."""
    program = f"""
import os, runpy, signal, sys
class Interrupt:
    def find_spec(name, path=None, target=None):
        if name == {module!r}:
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Interrupt)
runpy.run_path("eval/speed.py", run_name="__main__")
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (130, "interrupted\n")


def test_ctrl_c_while_measuring_is_one_line(tmp_path):
    command = [sys.executable, "eval/speed.py", *QUICK, "--repeats", "9999", "--output", str(tmp_path / "a.json")]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as running:
        try:
            seen = b""
            while b"run/s" not in seen:  # the progress bar has begun
                seen += (byte := running.stderr.read(1))
                assert byte, seen
            running.send_signal(signal.SIGINT)
            out, err = running.communicate(timeout=60)
        finally:
            running.kill()
    assert (running.returncode, out) == (130, b"")
    assert err.splitlines()[-1] == b"interrupted" and b"Traceback" not in err
    assert not list(tmp_path.iterdir())
