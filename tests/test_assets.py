"""What ships in assets/: the built-in model on the mini set, and its bar. Oracle: the figures of the whole held-out split, which
`eval/results/tiny-*.json` hold as eval/run.py wrote them.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from scipy.stats import binom

from fastav.provenance import weights_sha256

ROOT = Path(__file__).resolve().parents[1]
MINI = ROOT / "assets" / "mini"
BENCHMARKS = ("avhbench", "tiny-world")
FASTAV = "fastav:start=4,p=20,rule=model,fine=low,protect=text,seed=0"
VISIBLE, MATCHING = "Audio-driven Video Hallucination", "AV Matching"


def published(benchmark: str) -> dict:
    return json.loads((ROOT / "eval" / "results" / f"tiny-{benchmark}.json").read_text())


def methods(benchmark: str) -> dict[str, dict]:
    return {m["method"]: m for m in published(benchmark)["methods"]}


@pytest.fixture(scope="module")
def asked(tmp_path_factory):
    """benchmark -> summary of its mini set, vanilla and FastAV asked now: both at once, on one thread each."""
    running = {}
    for benchmark in BENCHMARKS:
        output = tmp_path_factory.mktemp(benchmark)
        command = [sys.executable, "eval/run.py", "--bench", benchmark, "--output", str(output)]
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        running[benchmark] = (process, output / "summary.json")
    assert [process.wait() for process, _ in running.values()] == [0, 0]
    return {benchmark: json.loads(summary.read_text()) for benchmark, (_, summary) in running.items()}


@pytest.mark.parametrize("benchmark", BENCHMARKS)
def test_accuracy_on_the_mini_set_lies_in_the_99_percent_interval_of_the_split(benchmark, asked):
    """Binomial, at the split's accuracy."""
    mini = asked[benchmark]
    assert mini["benchmark"] == f"{benchmark}-mini" and [m["method"] for m in mini["methods"]] == ["vanilla", FASTAV]
    for small in mini["methods"]:
        for task, counts in small["tasks"].items():
            whole = methods(benchmark)[small["method"]]["tasks"][task]
            low, high = binom.interval(0.99, counts["n"], whole["accuracy"])
            assert low <= counts["right"] <= high, (task, small["method"])


@pytest.mark.parametrize("benchmark", BENCHMARKS)
def test_published_figures_are_of_the_shipped_weights_and_plans(benchmark):
    assert published(benchmark)["weights_sha256"] == weights_sha256(ROOT / "assets" / "tiny")


def test_the_bar():
    """Of the model itself, and that pruning means something: dropping all audio and video costs at least 10 points."""
    hallucination, world = methods("avhbench"), methods("tiny-world")
    vanilla, fastav = hallucination["vanilla"], hallucination[FASTAV]
    assert vanilla["columns"]["AV hallucination"]["accuracy"] >= 0.96
    assert vanilla["tasks"][MATCHING]["accuracy"] >= 0.92
    assert all(world["vanilla"]["tasks"][task]["accuracy"] >= 0.90 for task in ("Color", "Location"))
    assert fastav["flops_relative_percent"] <= 70
    assert published("avhbench")["differences"][FASTAV]["AV hallucination"]["low"] > -0.01
    (dropped,) = (m for name, m in hallucination.items() if "rule=none" in name)
    assert vanilla["tasks"][VISIBLE]["accuracy"] - dropped["tasks"][VISIBLE]["accuracy"] >= 0.10


def test_files_fit_their_limits():
    assert (ROOT / "assets" / "tiny" / "model.safetensors").stat().st_size <= 20e6
    files = [path for path in MINI.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 15e6
    asked = {record["video_id"] for name in ("QA", "tiny_world") for record in json.loads((MINI / f"{name}.json").read_text())}
    assert asked == {path.stem for path in (MINI / "videos").iterdir()}
