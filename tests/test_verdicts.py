"""Verdicts are made when an answer comes, stored with it, and never made again. The model is a stub. Oracles: verdicts and
counts by hand, records edited by hand.
"""

import json
import shutil
import subprocess
import sys
from dataclasses import dataclass, replace

import pytest
from evaluating import DRIVER, HEARD, MATCH_TEXT, ROOT, VISIBLE, document, evaluate, method, record, small_set, stub, write

from eval.benchmarks import avhbench
from eval.scorers.scorer import UNKNOWN, Metrics, Score, Scorer
from eval.scorers.yes_no import YesNo
from eval.store import FILE

CAPTIONING = "AV Captioning"


@pytest.fixture
def session(monkeypatch):
    return stub(monkeypatch)


@pytest.fixture
def data(tmp_path):
    return small_set(tmp_path / "data")


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out"


def lines(out):
    return [json.loads(line) for line in (out / FILE).read_text().splitlines()]


def rewrite(out, change):
    """Every record that has a result as `change` leaves it."""
    found = lines(out)
    for entry in found[1:]:
        if "result" in entry:
            change(entry)
    (out / FILE).write_text("".join(json.dumps(entry) + "\n" for entry in found))


def refused(capsys, *words):
    last = capsys.readouterr().err.splitlines()[-1]
    return last.startswith("error: ") and all(word in last for word in words)


# --- stored once ------------------------------------------------------------------------------------------------------


def test_every_answer_is_stored_with_its_verdict(session, data, out):
    """The stub says "Yes." and "no"; its captions are no scene of the procedural world."""
    evaluate(data, out)
    read = {"Yes.": "Yes", "no": "No"}
    for entry in lines(out)[1:]:
        answer = entry["result"]["answer"]
        if entry["task"] == CAPTIONING:
            expected = {"value": False, "said": "seen: ; heard: ", "explanation": "other objects, other sounds"}
            assert entry["scores"] == {"caption": expected}
        else:
            right = read[answer] == entry["label"]
            assert entry["scores"] == {"yes-no": {"value": right, "said": read[answer], "explanation": ""}}


def test_a_verdict_that_was_edited_is_reported_as_edited(session, data, out, capsys):
    """Vanilla says yes: right on the 4 dogs, wrong on the 4 cars. By hand, its answers about cars become right and unreadable."""
    evaluate(data, out, "--method", "vanilla")
    assert method(document(capsys), 0)["tasks"][VISIBLE]["right"] == 4

    def change(entry):
        if "car" in entry["text"]:
            entry["scores"]["yes-no"] = {"value": True, "said": UNKNOWN, "explanation": "by hand"}

    rewrite(out, change)
    assert evaluate(data, out, "--method", "vanilla") == 0
    text = capsys.readouterr().out
    vanilla = method(json.loads(text.splitlines()[-1]), 0)
    assert (vanilla["tasks"][VISIBLE]["n"], vanilla["tasks"][VISIBLE]["right"]) == (8, 8)
    assert vanilla["columns"]["Avg"]["right"] == 4 + 4 + 4 + 2  # dogs, cars, heard, matching
    assert (vanilla["tasks"][VISIBLE]["metrics"]["unknown"], vanilla["tasks"][VISIBLE]["metrics"]["precision"]) == (4, 1.0)
    assert "4 answers neither yes nor no, counted as wrong:" in text and "Is the car visible in the video? > 'Yes.'" in text


def test_an_answer_without_a_verdict_is_in_no_share(session, data, out, capsys):
    evaluate(data, out, "--method", "vanilla")
    rewrite(out, lambda entry: entry["scores"].get("yes-no", {}).update(value=None) if "car" in entry["text"] else None)
    capsys.readouterr()
    evaluate(data, out, "--method", "vanilla")
    visible = method(document(capsys), 0)["tasks"][VISIBLE]
    assert (visible["n"], visible["right"], visible["not_scored"]) == (4, 4, 4)


def test_nobody_is_asked_for_a_verdict_when_a_finished_run_is_reported(session, data, out, capsys, monkeypatch):
    evaluate(data, out)
    before = capsys.readouterr().out
    for scorer in set(map(type, avhbench.TASKS.values())):
        monkeypatch.setattr(scorer, "score", lambda *_: pytest.fail("decided again"))
    assert evaluate(data, out) == 0
    assert capsys.readouterr().out == before


# --- one scorer, one set of verdicts ----------------------------------------------------------------------------------


def test_other_settings_of_a_scorer_add_no_verdicts_but_report_those_there(session, data, out, capsys, monkeypatch):
    evaluate(data, out, "--limit", 7)
    monkeypatch.setitem(avhbench.TASKS, HEARD, YesNo(asked="V"))
    assert evaluate(data, out, "--limit", 7) == 0
    capsys.readouterr()
    assert evaluate(data, out) == 2
    assert refused(capsys, "other scorers_sha256", "--fresh") and len(lines(out)) == 1 + 2 * 7
    monkeypatch.setitem(avhbench.TASKS, HEARD, YesNo(asked="A"))
    assert evaluate(data, out) == 0


def test_other_source_of_the_scorers_adds_no_verdicts(tmp_path, data, out):
    """A copy of the code, of which one file is then changed."""
    tree = tmp_path / "tree"
    for name in ("fastav", "eval"):
        shutil.copytree(ROOT / name, tree / name, ignore=shutil.ignore_patterns("__pycache__", "runs", "results"))
    (tree / "driver.py").write_text(DRIVER.format(root=str(tree), tests=str(ROOT / "tests"), delay=0))

    def command(*more):
        words = ["--bench", "avhbench", "--data-root", data, "--output", out, *more]
        done = subprocess.run([sys.executable, tree / "driver.py", *words], capture_output=True, text=True)
        return done.returncode, done.stderr.splitlines()[-1] if done.stderr else ""

    assert command("--limit", "7")[0] == 0
    with (tree / "eval" / "scorers" / "yes_no_words.py").open("a") as file:
        file.write("# changed\n")
    assert command("--limit", "7")[0] == 0
    code, line = command()
    assert code == 2 and "other scorers_sha256" in line and len(lines(out)) == 1 + 2 * 7


def test_verdicts_of_another_scorer_are_refused_by_name(session, data, out, capsys, monkeypatch):
    evaluate(data, out)
    monkeypatch.setitem(avhbench.TASKS, CAPTIONING, Length())
    assert evaluate(data, out) == 2
    assert refused(capsys, f"the answers to {CAPTIONING} were scored by caption there, now length")


@pytest.mark.parametrize(
    "scores",
    [
        None,
        "Yes",
        {"yes-no": None},
        {"yes-no": {"said": "Yes", "explanation": ""}},
        {"yes-no": {"value": "yes", "said": "Yes", "explanation": ""}},
        {"yes-no": {"value": True, "said": "Yes", "explanation": "", "grade": 3}},
    ],
)
def test_a_record_whose_verdict_is_none_is_named_by_its_line(session, data, out, capsys, scores):
    evaluate(data, out)
    found = lines(out)
    found[2]["scores"] = scores
    (out / FILE).write_text("".join(json.dumps(entry) + "\n" for entry in found))
    assert evaluate(data, out) == 2
    assert refused(capsys, "line 3 of", "is not a record")


@pytest.mark.parametrize(
    ("schema", "words"), [(2, "an earlier FastAV, which did not write down the verdicts"), (4, "is of another FastAV;")]
)
def test_records_of_another_schema_are_named_as_such(session, data, out, capsys, schema, words):
    evaluate(data, out)
    found = lines(out)
    found[0]["header"]["schema"] = schema
    for entry in found[1:]:
        del entry["scores"]
    (out / FILE).write_text("".join(json.dumps(entry) + "\n" for entry in found))
    assert evaluate(data, out) == 2
    assert refused(capsys, words, "--fresh")


# --- a scorer is one object -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Length(Scorer):
    """Right when the answer has more than two characters; "no" is the one that it cannot read."""

    more_than: int = 2

    name = "length"
    unread = "long enough"

    def score(self, question, answer):
        long = len(answer) > self.more_than
        return Score(long, str(len(answer)) if long else UNKNOWN, f"{len(answer)} characters")

    def metrics(self, questions, scores):
        longest = max(int(s.said) for s in scores if s.said != UNKNOWN)
        return Metrics({"longest": longest}, {"longest": f"{longest} characters"}, (f"{len(questions)} answers measured",))

    def baselines(self, questions):
        return {"one long word": 1.0}


def test_a_scorer_of_ones_own_is_in_records_tables_and_document(session, data, out, capsys, monkeypatch):
    """The stub says "Yes.", or "no" to some questions when it prunes."""
    monkeypatch.setitem(avhbench.TASKS, CAPTIONING, Length())
    assert evaluate(data, out) == 0
    text = capsys.readouterr().out
    numbers = json.loads(text.splitlines()[-1])
    captions = [entry for entry in lines(out)[1:] if entry["task"] == CAPTIONING]
    short = [entry for entry in captions if entry["result"]["answer"] == "no"]
    assert 0 < len(short) < 4
    assert all(entry["scores"]["length"]["explanation"] == f"{len(entry['result']['answer'])} characters" for entry in captions)
    for i, right in ((0, 4), (1, 4 - len(short))):
        task = method(numbers, i)["tasks"][CAPTIONING]
        assert (task["n"], task["right"], task["scorer"], task["metrics"]) == (4, right, "length", {"longest": 4})
        assert method(numbers, i)["columns"][CAPTIONING]["right"] == right
    row = next(line for line in text.splitlines() if line.split()[:3] == ["AV", "Captioning", "vanilla"])
    assert row.split()[3:5] == ["4", "100.0"] and row.endswith("4 characters")
    assert f"{CAPTIONING}, vanilla: 4 answers measured" in text
    assert f"{len(short)} answers long enough, counted as wrong:" in text and "Describe it. > 'no' (fastav)" in text
    row = next(line for line in text.splitlines() if line.startswith("one long word"))
    assert row.split()[3:] == ["-", "-", "-", "100.0"]
    assert numbers["baselines"]["one long word"] == {CAPTIONING: 1.0}


def test_a_scorer_that_reads_every_answer_has_none_that_it_could_not_read(session, tmp_path, out, capsys):
    """The word itself may be "unknown"."""
    session.says = "Unknown."
    data = small_set(tmp_path / "data", n_clips=1)
    write(data, [record("00000", "Color", "What color is the dog?", "unknown")], "tiny_world.json")
    assert evaluate(data, out, "--bench", "tiny-world") == 0
    numbers = document(capsys)
    assert method(numbers, 0)["tasks"]["Color"]["right"] == 1 and numbers["unread_answers"] == []


def test_tasks_of_two_scorers_in_one_column_share_no_baseline(session, data, out, capsys, monkeypatch):
    monkeypatch.setitem(avhbench.TASKS, HEARD, Length())
    evaluate(data, out)
    numbers = document(capsys)
    assert numbers["baselines"]["always_yes"].keys() == {"AV matching"}
    assert method(numbers, 0)["columns"]["Avg"]["right"] == 4 + 4 + 2  # each by the scorer of its task


def test_a_task_in_no_column_has_one_of_its_own(session, data, out, capsys, monkeypatch):
    monkeypatch.setattr(avhbench, "COLUMNS", {"sight": (VISIBLE,)})
    evaluate(data, out)
    columns = method(document(capsys), 0)["columns"]
    assert {title: of["n"] for title, of in columns.items()} == {"sight": 8, HEARD: 4, "AV Matching": 4, CAPTIONING: 4}


def test_a_scorer_that_fails_is_that_questions_error(session, data, out, monkeypatch):
    def broken(self, question, answer):
        raise ZeroDivisionError("no words")

    monkeypatch.setattr(Length, "score", broken)
    monkeypatch.setitem(avhbench.TASKS, CAPTIONING, Length())
    assert evaluate(data, out) == 3
    failed = [entry for entry in lines(out)[1:] if "error" in entry]
    assert len(failed) == 8 and {entry["error"] for entry in failed} == {"ZeroDivisionError: no words"}


# --- where clips are --------------------------------------------------------------------------------------------------


def test_the_clips_of_a_benchmark_are_where_it_says(session, data, out, capsys, monkeypatch):
    """One folder per clip and another ending, as Daily-Omni has it: read there, and looked for there when a run is reported."""
    load = avhbench.load
    monkeypatch.setattr(
        avhbench,
        "load",
        lambda root, name: replace(load(root, name), file=lambda clip_id: root / "Videos" / clip_id / f"{clip_id}_video.mkv"),
    )
    for clip in (data / "videos").iterdir():
        target = data / "Videos" / clip.stem / f"{clip.stem}_video.mkv"
        target.parent.mkdir(parents=True)
        clip.rename(target)
    assert evaluate(data, out) == 0
    assert {name for name, *_ in session.calls} == {f"{i:05d}_video.mkv" for i in range(4)}
    (data / "Videos" / "00001" / "00001_video.mkv").write_text("another clip")
    assert evaluate(data, out) == 2
    assert refused(capsys, "clip 00001 is another file")


def test_avhbench_names_a_clip_file_after_its_id(data):
    write(data, [record("00003", "AV Matching", MATCH_TEXT, "Yes")])
    dataset = avhbench.load(data, "avhbench")
    assert dataset.questions[0].clip_id == "00003"
    assert dataset.file("00003") == data / "videos" / "00003.mp4" and dataset.file("not-there").name == "not-there.mp4"
