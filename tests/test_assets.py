"""What ships in assets/: the built-in model on the mini set and the examples, and its bars. Oracle: the figures of the held-out
split, which `eval/results/tiny-*.json` hold as eval/run.py wrote them; the truth of each example, known from how it was drawn.
"""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from scipy.stats import binom

from fastav.provenance import weights_sha256
from fastav.session import load

ROOT = Path(__file__).resolve().parents[1]
MINI, EXAMPLES = ROOT / "assets" / "mini", ROOT / "assets" / "examples"
BENCHMARKS = ("avhbench", "tiny-world")
FASTAV = "fastav:start=4,p=20,rule=model,fine=low,protect=text,seed=0"
VISIBLE, HEARD = "Audio-driven Video Hallucination", "Video-driven Audio Hallucination"
TRUTH = json.loads((EXAMPLES / "questions.json").read_text())

# Least accuracy in percent on clean and on cluttered clips of the held-out split.
BARS = {
    "AV Matching": (96, 90),
    "Color": (95, 90),
    "Location": (95, 90),
    "First sound": (90, 85),
    "Sound at the end": (90, 85),
    "More or fewer": (85, 75),
    "Four options": (96, 92),
    "Counting": (85, 75),
    "AV Captioning": (70, 50),
}


def published(name: str) -> dict:
    return json.loads((ROOT / "eval" / "results" / f"tiny-{name}.json").read_text())


def methods(name: str) -> dict[str, dict]:
    return {m["method"]: m for m in published(name)["methods"]}


def vanilla(name: str) -> dict:
    return methods(name)["vanilla"]


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


@pytest.mark.parametrize("name", [*BENCHMARKS, "visible-heard", "silent", "black"])
def test_published_figures_are_of_the_shipped_weights(name):
    assert published(name)["weights_sha256"] == weights_sha256(ROOT / "assets" / "tiny")


@pytest.mark.parametrize("kind", ["clean", "cluttered"])
def test_visible_and_heard_meet_their_bar(kind):
    """3,600 questions, 98 % right on clean clips and 96 % on cluttered ones."""
    of = vanilla("visible-heard")["columns_by_clutter"]["AV hallucination"]
    assert of["clean"]["n"] + of["cluttered"]["n"] >= 3400 and of[kind]["accuracy"] >= {"clean": 0.98, "cluttered": 0.96}[kind]


@pytest.mark.parametrize("task", BARS)
def test_a_family_meets_its_bar(task):
    """At least 600 questions, clean and cluttered."""
    tasks = {**vanilla("avhbench")["tasks_by_clutter"], **vanilla("tiny-world")["tasks_by_clutter"]}
    of = tasks[task]
    assert of["clean"]["n"] + of["cluttered"]["n"] >= 600
    assert 100 * of["clean"]["accuracy"] >= BARS[task][0]
    assert 100 * of["cluttered"]["accuracy"] >= BARS[task][1]


@pytest.mark.parametrize(("task", "rule"), [(VISIBLE, "no-video"), (HEARD, "no-audio")])
def test_both_streams_are_read_late(task, rule):
    """On clean clips, removing all of a stream at the middle layer costs at least 10 points on the questions about it."""
    found = methods("visible-heard")
    [removed] = [m for name, m in found.items() if f"rule={rule}," in name]
    kept, lost = (m["tasks_by_clutter"][task]["clean"]["accuracy"] for m in (found["vanilla"], removed))
    assert kept - lost >= 0.10


@pytest.mark.parametrize(("name", "task"), [("silent", HEARD), ("black", VISIBLE)])
def test_without_the_stream_the_answer_is_a_guess(name, task):
    """The same questions with silence, or black frames: within the binomial 99 % interval of one half."""
    of = vanilla(name)["tasks"][task]
    low, high = binom.interval(0.99, of["n"], 0.5)
    assert of["n"] >= 600 and low <= of["right"] <= high


def test_text_alone_tells_nothing():
    for name in ("avhbench", "visible-heard"):
        for baseline, columns in published(name)["baselines"].items():
            assert all(share <= 0.55 for share in columns.values()), (name, baseline)


def test_fastav_saves_compute_and_time():
    """FLOPs at most 70 % of vanilla's, and the first token after at most 80 % of its time, on one thread."""
    found = methods("avhbench")
    assert found[FASTAV]["flops_relative_percent"] <= 70
    assert found[FASTAV]["prefill_median_sec"] <= 0.8 * found["vanilla"]["prefill_median_sec"]


@pytest.fixture(scope="module")
def session():
    return load("tiny")


@pytest.mark.parametrize("name", sorted(TRUTH))
def test_the_model_is_right_about_the_examples(session, name):
    clip = session.read(EXAMPLES / name)
    assert len(TRUTH[name]) >= 3
    for question, truth in TRUTH[name]:
        assert session.answer(clip, question, "vanilla").answer.lower().rstrip(".") == truth.lower().rstrip("."), question


def test_the_model_knows_the_words_of_its_card(session):
    """Every question in the first column of the card's table."""
    card = (ROOT / "assets" / "tiny" / "README.md").read_text()
    asked = [text for row in re.findall(r"^\| (.+?) \|", card, re.M) for text in re.findall(r"[A-Z][^?.|]+[?.]", row)]
    assert len(asked) >= 14
    for question in asked:
        session.adapter.tiny.tokenizer.encode(question)


def test_there_are_examples_of_every_kind():
    files = {path.name for path in EXAMPLES.iterdir()} - {"questions.json"}
    assert files == set(TRUTH) and len(files) >= 6
    assert {Path(name).suffix for name in files} >= {".mp4", ".webm", ".wav"}
    assert sum("cluttered" in name for name in files) == 2


def test_files_fit_their_limits():
    assert (ROOT / "assets" / "tiny" / "model.safetensors").stat().st_size <= 12e6
    files = [path for path in MINI.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 15e6
    records = [record for name in ("QA", "tiny_world") for record in json.loads((MINI / f"{name}.json").read_text())]
    clips = {record["video_id"]: record["cluttered"] for record in records}
    assert set(clips) == {path.stem for path in (MINI / "videos").iterdir()}
    assert 80 <= len(clips) <= 120 and 0.3 <= sum(clips.values()) / len(clips) <= 0.5
