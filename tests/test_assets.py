"""What ships in assets/: the built-in model on the mini set, and its bar. Oracle: the figures of the whole held-out split, which
`eval/results/tiny-*.json` hold as eval/run.py wrote them.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from scipy.stats import binom

from eval.loop import weights_sha256

ROOT = Path(__file__).resolve().parents[1]
MINI = ROOT / "assets" / "mini"
BENCHMARKS = ("avhbench", "tiny-world")
FASTAV = "fastav:start=4,p=20,rule=model,fine=low,protect=text,seed=0"
VISIBLE, MATCHING = "Audio-driven Video Hallucination", "AV Matching"


def published(benchmark: str) -> dict:
    return json.loads((ROOT / "eval" / "results" / f"tiny-{benchmark}.json").read_text())


def methods(benchmark: str) -> dict[str, dict]:
    return {m["method"]: m for m in published(benchmark)["methods"]}


@pytest.mark.parametrize("benchmark", BENCHMARKS)
def test_accuracy_on_the_mini_set_lies_in_the_99_percent_interval_of_the_split(benchmark, tmp_path):
    """Vanilla and FastAV asked now; binomial at the split's accuracy."""
    command = [sys.executable, "eval/run.py", "--bench", benchmark, "--output", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    mini = json.loads((tmp_path / "summary.json").read_text())
    assert mini["benchmark"] == f"{benchmark}-mini" and [m["method"] for m in mini["methods"]] == ["vanilla", FASTAV]
    for small in mini["methods"]:
        for task, counts in small["tasks"].items():
            whole = methods(benchmark)[small["method"]]["tasks"][task]
            low, high = binom.interval(0.99, counts["n"], whole["accuracy"])
            assert low <= counts["right"] <= high, (task, small["method"])


@pytest.mark.parametrize("benchmark", BENCHMARKS)
def test_published_figures_are_of_the_shipped_weights_and_plans(benchmark):
    assert published(benchmark)["weights_sha256"] == weights_sha256("assets/tiny")


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
