"""Which answers may stand under one label: what is refused when a run goes on or is reported again, and what is told. The
model is a stub.
"""

import hashlib
import json
import shutil
import subprocess
import sys

import pytest
from evaluating import DRIVER, ROOT, document, evaluate, method, record, small_set, stub, write

from eval.benchmarks import avhbench
from fastav import __version__
from fastav.stats import newcombe_paired


@pytest.fixture
def session(monkeypatch):
    return stub(monkeypatch)


@pytest.fixture
def data(tmp_path):
    return small_set(tmp_path / "data")


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out"


@pytest.fixture
def plan(tmp_path):
    path = tmp_path / "plan.json"
    write_plan(path, keep=0.5)
    return path


def write_plan(path, keep):
    shutil.copy(ROOT / "assets" / "tiny" / "plan.json", path)
    plan = json.loads(path.read_text())
    path.write_text(json.dumps({**plan, "keep": keep}))


def sha256(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def records(out):
    return [json.loads(line) for line in (out / "records.jsonl").read_text().splitlines()]


def refused(capsys, *words):
    """One line on stderr, with these words in it, after whatever progress came first."""
    last = capsys.readouterr().err.splitlines()[-1]
    return last.startswith("error: ") and all(word in last for word in words)


# --- what changes answers ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("limit", [(), ("--limit", 7)], ids=["finished", "unfinished"])
def test_another_plan_in_the_same_file_is_refused(session, data, out, plan, capsys, limit):
    arguments = ("--method", f"fastav:plan={plan}")
    assert evaluate(data, out, *arguments, *limit) == 0
    there = sha256(plan)
    write_plan(plan, keep=0.1)
    n_calls = len(session.calls)
    assert evaluate(data, out, *arguments) == 2
    assert refused(capsys, "another plan", f"there {there}", f"now {sha256(plan)}") and len(session.calls) == n_calls
    assert evaluate(data, out, "--method", f"fastav:plan={plan},p=20") == 2  # the same method in other words
    assert refused(capsys, "another plan")


def test_the_plan_stands_in_header_summary_and_report(session, data, out, plan, capsys):
    evaluate(data, out, "--method", f"fastav:plan={plan}")
    text = capsys.readouterr().out
    assert sha256(plan)[:12] in text
    assert method(json.loads(text.splitlines()[-1]), 1)["plan_sha256"] == sha256(plan)
    assert [m["plan_sha256"] for m in records(out)[0]["header"]["methods"]] == [None, sha256(plan)]


def test_a_plan_that_changes_under_way_ends_the_run_and_labels_nothing(session, data, out, plan, capsys):
    session.trouble = {"car": lambda: write_plan(plan, keep=0.1)}
    assert evaluate(data, out, "--method", f"fastav:plan={plan}") == 3
    assert refused(capsys, "the plan of fastav:", "changed while the run went on")
    assert {r["result"]["plan_sha256"] for r in records(out)[1:]} == {
        None,
        records(out)[0]["header"]["methods"][1]["plan_sha256"],
    }


def test_a_file_that_is_no_plan_is_refused_before_anything_is_asked(session, data, out, tmp_path, capsys):
    (tmp_path / "plan.json").write_text("{}")
    assert evaluate(data, out, "--method", f"fastav:plan={tmp_path / 'plan.json'}") == 2
    assert refused(capsys, "as a plan") and not session.calls


@pytest.mark.parametrize("limit", [(), ("--limit", 7)], ids=["finished", "unfinished"])
def test_a_replaced_clip_is_refused_by_name(session, data, out, capsys, limit):
    clip = data / "videos" / "00001.mp4"
    evaluate(data, out, *limit)
    there = sha256(clip)
    clip.write_text("another clip")
    n_calls = len(session.calls)
    assert evaluate(data, out) == 2
    assert refused(capsys, "clip 00001", there, sha256(clip)) and len(session.calls) == n_calls
    clip.write_text("clip")
    assert evaluate(data, out) == 0


def test_a_clip_that_is_replaced_under_way_gets_no_more_answers(session, data, out, capsys):
    """One of its questions was answered by an earlier run; it is replaced after the check at the beginning."""
    asked = [("00000", "One?"), ("00001", "One?"), ("00000", "Then?"), ("00001", "Two?")]
    write(data, [record(clip, "AV Matching", text, "Yes") for clip, text in asked])
    evaluate(data, out, "--limit", 2)
    session.trouble = {"Then": lambda: (data / "videos" / "00001.mp4").write_text("another clip")}
    assert evaluate(data, out) == 3
    assert refused(capsys, "clip 00001 was replaced")
    assert len(records(out)) == 1 + 2 * 3


def test_clips_that_are_gone_do_not_keep_a_finished_run_from_being_reported(session, data, out):
    evaluate(data, out)
    shutil.rmtree(data / "videos")
    (data / "videos").mkdir()
    assert evaluate(data, out) == 0


def test_questions_put_in_other_words_are_refused(session, data, out, monkeypatch, capsys):
    evaluate(data, out)
    monkeypatch.setattr(avhbench, "INSTRUCTIONS", dict.fromkeys(avhbench.TASKS, " Just say yes or no."))
    assert avhbench.load(data, "avhbench").questions[0].prompt.endswith("Just say yes or no.")
    assert evaluate(data, out) == 2
    assert refused(capsys, "in other words", "Answer yes or no.")


def test_weights_of_a_hub_id_are_told_by_their_files(session, data, out, tmp_path, capsys):
    """The session was loaded from an id, whose snapshot the cache keeps."""
    session.checkpoint, session.at = "somebody/model", tmp_path / "snapshots" / ("ab" * 20)
    session.at.mkdir(parents=True)
    (session.at / "model.safetensors").write_bytes(b"one")
    evaluate(data, out, "--checkpoint", "somebody/model")
    text = capsys.readouterr().out
    assert "ab" * 20 in text and json.loads(text.splitlines()[-1])["weights_sha256"]
    (session.at / "model.safetensors").write_bytes(b"two")
    assert evaluate(data, out, "--checkpoint", "somebody/model") == 2
    assert refused(capsys, "weights_sha256")


def test_a_new_snapshot_under_the_same_id_is_refused(session, data, out, tmp_path, capsys):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.safetensors").write_text(name)
    session.checkpoint, session.at = "somebody/model", tmp_path / "one"
    evaluate(data, out, "--checkpoint", "somebody/model", "--limit", 7)
    session.at = tmp_path / "two"
    assert evaluate(data, out, "--checkpoint", "somebody/model") == 2
    assert refused(capsys, "weights_sha256")


def test_the_same_weights_elsewhere_go_on_and_others_do_not(session, data, out, tmp_path, capsys):
    for name, content in (("here", "one"), ("there", "one"), ("other", "two")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.safetensors").write_text(content)
    session.checkpoint = str(tmp_path / "here")
    evaluate(data, out, "--checkpoint", session.checkpoint)
    session.checkpoint = str(tmp_path / "there")
    assert evaluate(data, out, "--checkpoint", session.checkpoint) == 0
    session.checkpoint = str(tmp_path / "other")
    assert evaluate(data, out, "--checkpoint", session.checkpoint) == 2
    assert refused(capsys, "weights_sha256")


def test_what_a_default_has_become_is_compared_not_the_word(session, data, out, capsys):
    """No --dtype both times: bfloat16 on the GPU where the run began, float32 where it goes on."""
    session.dtype = "bfloat16"
    evaluate(data, out, "--limit", 7)
    session.dtype = "float32"
    assert evaluate(data, out) == 2
    assert refused(capsys, "other dtype: there bfloat16, now float32")
    assert evaluate(data, out, "--limit", 7) == 0  # finished: reported as it was asked
    assert evaluate(data, out, "--limit", 7, "--dtype", "bfloat16") == 0


def test_another_fastav_adds_no_answers_but_reports_finished_ones(tmp_path, data, out):
    """A copy of the code, of which one file is then changed. Without git, as in a wheel."""
    tree = tmp_path / "tree"
    for name in ("fastav", "eval"):
        shutil.copytree(ROOT / name, tree / name, ignore=shutil.ignore_patterns("__pycache__", "runs", "results"))
    (tree / "driver.py").write_text(DRIVER.format(root=str(tree), tests=str(ROOT / "tests"), delay=0))

    def command(*more):
        words = ["--bench", "avhbench", "--data-root", data, "--output", out, *more]
        done = subprocess.run([sys.executable, tree / "driver.py", *words], capture_output=True, text=True)
        return done.returncode, done.stderr.splitlines()[-1] if done.stderr else ""

    assert command("--limit", "7")[0] == 0
    with (tree / "fastav" / "engine.py").open("a") as file:
        file.write("# changed\n")
    assert command("--limit", "7")[0] == 0
    code, line = command()
    assert code == 2
    assert f"another FastAV: there {__version__} (source" in line and f", now {__version__} (source" in line
    assert len(records(out)) == 1 + 2 * 7


# --- what does not change answers -----------------------------------------------------------------------------------


def test_libraries_and_machines_that_vary_are_told_with_their_answers(session, data, out, capsys):
    session.device_name, session.versions = "old card", {"torch": "2.9", "av": "16.1"}
    evaluate(data, out, "--limit", 5)
    assert "NOT THE SAME THROUGHOUT" not in capsys.readouterr().out
    session.device_name, session.versions = "new card", {"torch": "2.13", "av": "16.1"}
    assert evaluate(data, out) == 0
    text = capsys.readouterr().out
    assert "NOT THE SAME THROUGHOUT: device: old card (10 answers), new card (30 answers)" in text
    assert "NOT THE SAME THROUGHOUT: torch: 2.9 (10 answers), 2.13 (30 answers)" in text and ": av:" not in text
    assert json.loads(text.splitlines()[-1])["varies"]["torch"] == {"2.9": 10, "2.13": 30}


# --- more methods, fewer questions ----------------------------------------------------------------------------------


def test_a_method_is_added_to_a_finished_run(session, data, out, capsys):
    evaluate(data, out, "--method", "fastav")
    before = document(capsys)
    n_calls = len(session.calls)
    assert evaluate(data, out, "--method", "fastav:p=30") == 0
    assert len(session.calls) - n_calls == 20 and {c[2] for c in session.calls[n_calls:]} == {session.canonical("fastav:p=30")}
    after = document(capsys)
    assert [m["label"] for m in after["methods"]] == ["vanilla", "fastav", "fastav:p=30"]
    assert after["methods"][:2] == before["methods"]
    assert evaluate(data, out, "--method", "fastav:p=20") == 0  # "fastav" in other words: nothing to ask
    assert len(session.calls) - n_calls == 20 and len(document(capsys)["methods"]) == 3


def test_a_method_that_was_not_asked_everything_is_named_and_in_no_table(session, data, out, capsys):
    evaluate(data, out)
    evaluate(data, out, "--method", "fastav:p=30", "--limit", 6)
    assert [m["label"] for m in document(capsys)["methods"]] == ["vanilla", "fastav", "fastav:p=30"]
    evaluate(data, out)
    text = capsys.readouterr().out
    assert [m["label"] for m in json.loads(text.splitlines()[-1])["methods"]] == ["vanilla", "fastav"]
    assert "not in the tables: fastav:p=30, which was asked 6 of these questions" in text


def test_limit_never_replaces_the_summary_of_more_questions(session, data, out, capsys):
    evaluate(data, out)
    whole = {name: (out / name).read_bytes() for name in ("summary.json", "summary.txt")}
    capsys.readouterr()
    assert evaluate(data, out, "--limit", 2) == 0
    assert {name: (out / name).read_bytes() for name in whole} == whole
    assert json.loads((out / "summary-first-2.json").read_text()) == document(capsys)
    assert "the first 2 of 20 questions" in (out / "summary-first-2.txt").read_text()
    assert evaluate(data, out, "--limit", 20) == 0 and not (out / "summary-first-20.json").exists()


# --- the files of another time ----------------------------------------------------------------------------------------


def test_records_of_the_earlier_schema_are_named_as_such(session, data, out, capsys):
    out.mkdir()
    header = {"benchmark": "avhbench", "annotations_sha256": "0", "model": "tiny", "methods": ["vanilla"], "forms": ["vanilla"]}
    (out / "records.jsonl").write_text(json.dumps({"header": header}) + "\n")
    assert evaluate(data, out) == 2
    assert refused(capsys, "is of an earlier FastAV", "--fresh")
    assert evaluate(data, out, "--fresh") == 0


def test_fresh_leaves_no_summary_of_the_run_before(session, data, out):
    """Until the new run is finished a summary in the folder would be of other records."""
    evaluate(data, out)
    evaluate(data, out, "--limit", 2)
    old = (out / "summary.json").read_bytes()
    session.trouble = {"car": lambda: (_ for _ in ()).throw(KeyboardInterrupt)}
    assert evaluate(data, out, "--fresh") == 130
    names = sorted(path.name for path in out.iterdir())
    assert "summary.json" not in names and "summary-first-2.json" not in names
    assert (out / "summary.1.json").read_bytes() == old and "summary-first-2.1.txt" in names


# --- differences and intervals ----------------------------------------------------------------------------------------


def test_fastav_minus_random_is_printed_with_its_paired_interval(session, tmp_path, out, capsys):
    """One question for each clip: Newcombe's interval of the counts in the records. Given random first, it is still what is
    subtracted; at other token counts nothing is printed.
    """
    data = small_set(tmp_path / "data", n_clips=30)
    asked = [q for q in json.loads((data / "QA.json").read_text()) if q["task"] == "AV Matching"]
    write(data, asked)
    evaluate(data, out, "--method", "fastav:rule=random", "--method", "fastav", "--method", "fastav:p=30")
    text = capsys.readouterr().out
    assert "fastav - fastav:rule=random" in text and "fastav:p=30 - " not in text
    right = {"random": [], "rule": []}
    for r in records(out)[1:]:
        name = "random" if "=random" in r["method"] else "rule" if "p=20" in r["method"] else None
        if name:
            right[name].append((r["key"], r["result"]["answer"].strip(".").capitalize() == r["label"]))
    a, b = (dict(right[name]) for name in ("rule", "random"))
    counts = [sum((a[k], b[k]) == pair for k in a) for pair in ((1, 1), (1, 0), (0, 1), (0, 0))]
    assert counts[1] and counts[2]  # otherwise the stub shows nothing
    low, high = newcombe_paired(*counts)
    row = next(line for line in text.splitlines() if "fastav - fastav:rule=random" in line and "AV matching" in line)
    difference = 100 * (counts[1] - counts[2]) / 30
    assert row.split()[5:] == [
        f"{difference:+.2f}",
        f"{100 * low:+.2f}",
        "to",
        f"{100 * high:+.2f}",
        "30",
        *map(str, counts[1:3]),
    ]


def test_intervals_of_a_task_count_clips_not_questions(session, tmp_path, out, capsys):
    """Four questions of each clip, all four right or all four wrong: as many independent ones as there are clips, so Wilson's
    interval for 6 of 10.
    """
    questions = [
        record(f"{i:05d}", "AV Matching", f"Do they match, {n}?", "Yes" if i < 6 else "No") for i in range(10) for n in range(4)
    ]
    data = small_set(tmp_path / "data", n_clips=10)
    write(data, questions)
    evaluate(data, out)
    numbers = method(document(capsys), 0)
    z, n, share = 1.959963984540054, 10, 0.6
    middle = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z * (share * (1 - share) / n + z * z / (4 * n * n)) ** 0.5 / (1 + z * z / n)
    for of in (numbers["tasks"]["AV Matching"], numbers["columns"]["AV matching"]):
        assert (of["n"], of["right"]) == (40, 24)
        assert (of["low"], of["high"]) == pytest.approx((middle - half, middle + half))
