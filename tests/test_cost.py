"""FLOPs against the paper's table, fvcore and each other; bytes and peaks by hand. No weights anywhere."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import random_qwen2
from torch import nn
from transformers import DynamicCache, Qwen2_5OmniThinkerConfig, Qwen2Config

from fastav import flops, memory
from fastav.clock import Clock
from fastav.errors import UserError, out_of_memory
from fastav.layout import TokenLayout, first_audio
from fastav.methods import FastAV, lengths

ROOT = Path(__file__).resolve().parents[1]
QWEN2_7B = Qwen2Config(
    vocab_size=152064,
    hidden_size=3584,
    intermediate_size=18944,
    num_hidden_layers=28,
    num_attention_heads=28,
    num_key_value_heads=4,
)
N = 2206


def videollama2_lengths(p):
    """676 video + 1,496 audio + 34 text tokens; keep 676 + 10 + text from layer 14 on."""
    layout = TokenLayout.of(("text", 14), ("video", 676, 4), ("audio", 1496), ("text", 20))
    return lengths(FastAV(start=14, p=p), layout.with_facts(rule_keep=first_audio(layout, 10)), 28)


@pytest.mark.parametrize(
    ("p", "paper", "gqa", "published"),
    [(0, 65.46, 65.62, 65), (10, 58.82, 58.92, 59), (20, 55.71, 55.78, 56), (30, 54.19, 54.24, 54)],
)
def test_relative_flops_of_the_papers_table(p, paper, gqa, published):
    """Table 4 of the paper: 65 / 59 / 56 / 54 of 100."""
    sizes = videollama2_lengths(p)
    by_paper = 100 * flops.paper_flops(sizes, QWEN2_7B) / flops.paper_flops([N] * 28, QWEN2_7B)
    by_gqa = 100 * flops.gqa_flops(sizes, QWEN2_7B) / flops.gqa_flops([N] * 28, QWEN2_7B)
    assert by_paper == pytest.approx(paper, abs=0.01) and round(by_paper) == published
    assert by_gqa == pytest.approx(gqa, abs=0.01)


def test_fvcore_on_meta_equals_the_closed_form_at_7b():
    sizes = videollama2_lengths(20)
    assert flops.fvcore_flops(sizes, QWEN2_7B) == pytest.approx(flops.gqa_flops(sizes, QWEN2_7B), rel=1e-3)


@pytest.mark.parametrize("attn", ["sdpa", "eager"])
def test_fvcore_counts_fused_and_written_out_attention_alike(attn):
    """One whole forward of a stock model against the closed form; the logits here are those of all n positions."""
    model = random_qwen2(attn, n_layers=2).float()
    config, n = model.config, 40

    class Forward(nn.Module):
        def __init__(self):
            super().__init__()
            self.model = model

        def forward(self, embeds):
            return self.model(inputs_embeds=embeds, use_cache=False).logits

    total = 0.0
    for layer in model.model.layers:
        hidden, cos = torch.zeros(1, n, config.hidden_size), torch.zeros(1, n, 12)
        total += flops.count_flops(flops._WithRotary(layer), (hidden, cos, cos))
    assert total == pytest.approx(flops.gqa_flops([n] * 2, config) - config.hidden_size * config.vocab_size, rel=1e-3)


def test_a_matrix_product_that_fvcore_does_not_know_is_an_error():
    class Odd(nn.Module):
        def forward(self, a, b):
            return torch.baddbmm(a, a, b)

    x = torch.zeros(1, 4, 4)
    with pytest.raises(RuntimeError, match="fvcore cannot count aten::baddbmm"):
        flops.count_flops(Odd(), (x, x))


def test_kv_bytes_of_videollama2_by_hand():
    """2 (K, V) x 4 heads x 128 x 2 bytes = 2,048 per token and layer: 2206 x 28 -> 126.5 MB, pruned at P 20 -> 71.0 MB."""
    for sizes, want in (([N] * 28, 126.5e6), (videollama2_lengths(20), 71.0e6)):
        cache = DynamicCache(config=QWEN2_7B)
        for layer, n in enumerate(sizes):
            cache.update(*(torch.empty(1, 4, n + 3, 128, dtype=torch.bfloat16, device="meta") for _ in "kv"), layer)
        got = memory.kv_bytes(cache, sizes)
        assert got == 2 * 4 * 128 * 2 * sum(sizes)  # the 3 generated tokens do not count
        assert got == pytest.approx(want, rel=0.005)


def test_peak_memory_on_cpu_is_the_running_sum_of_allocations():
    """By hand: two 4 MB tensors live at once, one is freed, a third comes: never more than 8 MB. Exact and repeatable."""

    def run():
        a = torch.zeros(1000, 1000)
        b = a + 1
        del a
        return b + 1

    peaks = [memory.peak_memory(run, torch.device("cpu"))[0] for _ in range(2)]
    assert peaks[0] == peaks[1]
    assert peaks[0] == pytest.approx(8e6, rel=1e-3)


def stderr_of(body: str) -> str:
    """Everything that a process writes to its standard error while it measures `peak(run)`; `body` is its program."""
    program = "\n".join(
        [
            "import io, os, sys, threading, time, torch",
            "from fastav import memory",
            "peak = lambda run: memory.peak_memory(run, torch.device('cpu'))[0]",
            "run = lambda: torch.zeros(1000, 1000) + 1",
            body,
        ]
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stderr


def test_measuring_a_peak_writes_nothing_to_stderr():
    """torch's profiler does, below Python, into progress bars; also where Python's own stderr is no file."""
    assert stderr_of("peak(run); sys.stderr = io.StringIO(); peak(run); assert sys.stderr.getvalue() == ''") == ""


def test_measuring_a_peak_first_in_another_thread_writes_nothing_to_stderr():
    """As the page does. The profiler then complains of the thread, too."""
    assert stderr_of("thread = threading.Thread(target=lambda: peak(run)); thread.start(); thread.join(); peak(run)") == ""


def test_stderr_is_as_before_when_the_measured_run_fails():
    body = """
def fails():
    print("inside", file=sys.stderr)
    raise ValueError
try:
    peak(fails)
except ValueError:
    print("after", file=sys.stderr)
"""
    assert stderr_of(body) == "inside\nafter\n"


def test_what_other_threads_write_while_a_peak_is_measured_arrives():
    body = """
done, written = threading.Event(), []
def write():
    while not done.is_set():
        os.write(2, b"line %d\\n" % len(written))
        written.append(1)
        time.sleep(1e-4)
    os.write(2, b"end %d" % len(written))
thread = threading.Thread(target=write)
thread.start()
measured = 0
while measured < 5 or len(written) < 25:
    peak(run)
    measured += 1
done.set()
thread.join()
"""
    *lines, last = stderr_of(body).splitlines()  # some come late
    assert sorted(lines) == sorted(f"line {i}" for i in range(len(lines))) and last == f"end {len(lines)}" and len(lines) > 20


@pytest.fixture
def asked(monkeypatch):
    """What torch.cuda is asked for, and of which device, on a machine whose current GPU is cuda:0."""
    found = []

    class Event:
        def __init__(self, enable_timing):
            assert enable_timing

        def record(self, stream="current stream"):
            found.append(("record", stream))

        def elapsed_time(self, later):
            return 1500.0

    def answer(name, value=None):
        return lambda device=None: found.append((name, device)) or (value(device) if value else None)

    zeros = torch.zeros
    monkeypatch.setattr(torch, "zeros", lambda *size, device=None, **options: zeros(*size, **options))
    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device=None: f"stream of {device}")
    for name in ("synchronize", "reset_peak_memory_stats"):
        monkeypatch.setattr(torch.cuda, name, answer(name))
    monkeypatch.setattr(torch.cuda, "memory_allocated", answer("memory_allocated", lambda device: 100))
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", answer("max_memory_allocated", lambda device: 160))
    return found


def test_the_clock_is_of_the_prompts_gpu(asked):
    """In a thread of its own the current GPU is cuda:0, wherever the model is: an event there passes at once.

    Logits may be on a third card: something of them has to arrive before the clock ticks.
    """
    second = torch.device("cuda:1")

    class Logits:
        isnan = any = lambda self: self
        __ror__ = lambda self, other: other  # noqa: E731

        def to(self, device):
            asked.append("arrived")
            return torch.zeros((), dtype=torch.bool)

    clock = Clock(second)
    clock.start()
    clock(None, Logits())
    assert clock.seconds() == [1.5]
    record = ("record", "stream of cuda:1")
    assert asked == [("synchronize", second), record, "arrived", record, ("synchronize", second)]


def test_peak_memory_is_of_the_given_gpu(asked):
    second = torch.device("cuda:1")
    assert memory.peak_memory(lambda: asked.append("run"), second) == (60, 160)
    assert [name if name == "run" else name[0] for name in asked] == [
        *("synchronize", "reset_peak_memory_stats", "memory_allocated", "run", "synchronize", "max_memory_allocated")
    ]
    assert {name[1] for name in asked if name != "run"} == {second}


def test_out_of_memory_says_how_much_was_asked_for():
    """The CPU allocator's words are its own, here; those of a GPU are torch's, written down."""
    with pytest.raises(RuntimeError) as caught:
        torch.empty(10**15)
    assert out_of_memory(caught.value) == "4,000,000,000.0 MB"
    on_gpu = torch.OutOfMemoryError(
        "CUDA out of memory. Tried to allocate 2.50 GiB. GPU 0 has a total capacity of 15.77 GiB of which 1.02 GiB is free."
    )
    assert out_of_memory(on_gpu) == "2.50 GiB"
    for unknown in (
        MemoryError(),
        RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    ):
        assert out_of_memory(unknown) == "some bytes"
    assert out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied")) is None


def test_clock_ticks_once_per_forward_and_names_nan_logits():
    model = random_qwen2()
    clock = Clock(torch.device("cpu"))
    clock.start()
    model.generate(torch.tensor([[1, 2, 3]]), max_new_tokens=5, do_sample=False, logits_processor=[clock])
    assert len(clock.seconds()) == 5
    model.lm_head.weight.data[:] = torch.nan
    clock = Clock(torch.device("cpu"))
    clock.start()
    model.generate(torch.tensor([[1, 2, 3]]), max_new_tokens=2, do_sample=False, logits_processor=[clock])
    with pytest.raises(UserError, match="NaN logits"):
        clock.seconds()


def test_fvcore_counts_a_decoder_that_automodel_does_not_list():
    """Oracle: the closed form, on Qwen2.5-Omni's text decoder, which is only a part of a larger model."""
    config = Qwen2_5OmniThinkerConfig().get_text_config(decoder=True)
    assert flops.fvcore_flops([300] * 28, config) == pytest.approx(flops.gqa_flops([300] * 28, config), rel=1e-3)
