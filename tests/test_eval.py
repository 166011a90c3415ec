"""The evaluation door from arguments to tables, with a stub in the place of the model. Oracles: counts done by hand."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
from evaluating import (
    DRIVER,
    HEARD,
    MATCH_TEXT,
    ROOT,
    VISIBLE,
    VISIBLE_TEXT,
    document,
    evaluate,
    lasting,
    method,
    record,
    says_no,
    small_set,
    stub,
    write,
)

from eval import benchmarks, run
from fastav.errors import UserError
from fastav.stats import share


@pytest.fixture
def session(monkeypatch):
    return stub(monkeypatch)


@pytest.fixture
def data(tmp_path):
    return small_set(tmp_path / "data")


def test_a_run_prints_tables_and_ends_in_one_json_document(session, data, tmp_path, capsys):
    assert evaluate(data, tmp_path / "out") == 0
    out, err = capsys.readouterr()
    doc = json.loads(out.splitlines()[-1])
    assert (doc["benchmark"], doc["questions"], doc["clips"]) == ("avhbench", 20, 4)
    vanilla = method(doc, 0)  # always yes: 4 + 4 right of 12, 2 right of 4
    assert vanilla["columns"]["AV hallucination"]["right"] == 8 and vanilla["columns"]["AV hallucination"]["n"] == 12
    assert vanilla["columns"]["Avg"]["accuracy"] == pytest.approx((8 + 2) / 16)
    assert vanilla["tasks"][VISIBLE]["metrics"]["precision"] == 0.5
    assert vanilla["tasks"][VISIBLE]["metrics"]["recall"] == 1 and vanilla["tasks"][VISIBLE]["scorer"] == "yes-no"
    assert vanilla["columns"]["AV Captioning"] | {"low": 0, "high": 0} == {"n": 4, "right": 0, "accuracy": 0, "low": 0, "high": 0}
    assert vanilla["fvcore_off_percent"] == 0 and vanilla["kv_mb"] == 2
    assert doc["baselines"]["always_yes"]["AV matching"] == 0.5
    assert "fastav:start=4,p=20" in method(doc, 1)["method"] and method(doc, 1)["label"] == "fastav"
    assert "AV hallucination" in out and "mini" not in out and "avhbench" in err
    assert json.loads((tmp_path / "out" / "summary.json").read_text()) == doc


def test_the_pruned_row_and_the_paired_difference_are_the_hand_count(session, tmp_path, capsys):
    data = small_set(tmp_path / "data", n_clips=12)
    evaluate(data, tmp_path / "out")
    doc = document(capsys)
    judged = [r for r in json.loads((data / "QA.json").read_text()) if r["task"] == VISIBLE]
    no = [says_no(r["text"] + " Answer yes or no.", r["video_id"] + ".mp4") for r in judged]
    gained = sum(n and r["label"] == "No" for n, r in zip(no, judged, strict=True))
    lost = sum(n and r["label"] == "Yes" for n, r in zip(no, judged, strict=True))
    assert gained and lost and gained + lost < len(judged)  # otherwise the stub shows nothing
    assert method(doc, 1)["tasks"][VISIBLE]["right"] == 12 + gained - lost
    difference = doc["differences"][method(doc, 1)["method"]]["AV matching"]
    matching = [says_no(MATCH_TEXT + " Answer yes or no.", f"{i:05d}.mp4") for i in range(12)]
    assert difference["only_b_right"] == sum(matching[1::2]) and difference["only_a_right"] == sum(matching[::2])
    assert difference["difference"] == pytest.approx((sum(matching[::2]) - sum(matching[1::2])) / 12)


def test_judgement_questions_get_the_instruction_and_captions_do_not(session, data, tmp_path):
    evaluate(data, tmp_path / "out")
    asked = {question for _, question, *_ in session.calls}
    assert VISIBLE_TEXT + " Answer yes or no." in asked and "Describe it." in asked and VISIBLE_TEXT not in asked


def test_each_clip_is_read_once_and_methods_are_interleaved(session, data, tmp_path):
    evaluate(data, tmp_path / "out", "--method", "fastav", "--method", "fastav:p=30")
    assert session.n_reads == 4
    trios = [session.calls[i : i + 3] for i in range(0, 60, 3)]
    assert all(len({c[:2] for c in trio}) == 1 and len({c[2] for c in trio}) == 3 for trio in trios)
    assert {trio[0][2] for trio in trios} == {c[2] for c in session.calls}  # each of them begins in turn
    assert sum(c[3] for c in session.calls) == 3  # fvcore once per method
    assert sum(c[4] for c in session.calls) == 3 * 4  # peak on a CPU: first question of each clip


def test_the_micro_average_weighs_questions_not_columns(session, tmp_path, capsys):
    """The release has 3,426 hallucination and 1,876 matching questions; always yes gives 50 / 50 / 50, F1 66.67."""
    records = []
    for task, half in ((VISIBLE, 568), (HEARD, 1145), ("AV Matching", 938)):
        records += [record("00000", task, f"Q {i}?", label) for label in ("Yes", "No") for i in range(half)]
    write(tmp_path, records)
    (tmp_path / "videos").mkdir()
    (tmp_path / "videos" / "00000.mp4").write_text("clip")
    evaluate(tmp_path, tmp_path / "out")
    vanilla = method(document(capsys), 0)
    assert [c["n"] for c in vanilla["columns"].values()] == [3426, 1876, 5302]
    assert [c["accuracy"] for c in vanilla["columns"].values()] == [0.5] * 3
    for task in (task["metrics"] for task in vanilla["tasks"].values()):
        assert (task["precision"], task["recall"], task["yes_share"]) == (0.5, 1.0, 1.0)
        assert task["f1"] == pytest.approx(2 / 3)


@pytest.mark.parametrize(("hallucination", "matching", "avg"), [(77.9, 57.8, 70.79), (78.2, 69.0, 74.94)])
def test_the_average_of_the_papers_rows(hallucination, matching, avg):
    """Over the pooled questions, as the columns are built."""
    counts = [(round(3426 * hallucination / 100), 3426), (round(1876 * matching / 100), 1876)]
    pooled = [i < right for right, n in counts for i in range(n)]
    assert 100 * share(pooled, range(5302)).accuracy == pytest.approx(avg, abs=0.02)  # whole questions: 1 / 5302 = 0.019


@pytest.mark.parametrize(
    ("file", "videos"), [("QA.json", "videos"), ("AVHBench_v0/json/qa.json", "AVHBench_v0/video"), ("json/qa.json", "video")]
)
def test_both_packings_are_found(tmp_path, file, videos):
    assert len(benchmarks.get("avhbench").load(small_set(tmp_path, file, videos), "avhbench").questions) == 20


def test_old_task_names_are_aliases_and_single_modality_copies_are_refused(tmp_path):
    (tmp_path / "videos").mkdir()
    write(tmp_path, [record("1", "AV Hallucination (Audio)", "?", "No"), record("1", "AV Hallucination (Video)", "?", "No")])
    load = benchmarks.get("avhbench").load
    assert [q.task for q in load(tmp_path, "avhbench").questions] == [HEARD, VISIBLE]
    write(tmp_path, [record("1", "AV Hallucination (Audio_only)", "?", "No")])
    with pytest.raises(UserError, match=r"record 0 .*Audio_only.*single-modality"):
        load(tmp_path, "avhbench")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is not JSON"),
        ("{}", "must be a JSON array"),
        ("[]", "must be a JSON array"),
        ('[{"task": 1}]', "record 0 .*text fields"),
        (json.dumps([record("1", VISIBLE, "?", "maybe")]), "Yes or No, got 'maybe'"),
        *(
            (
                json.dumps([record("1", VISIBLE, "?", "Yes"), record("1", VISIBLE, "?", "Yes", **wrong)]),
                f"record 1 of .*{message}",
            )
            for wrong, message in [
                ({"cluttered": "no"}, "cluttered.* true or false, got 'no'"),
                ({"cluttered": 1}, "cluttered.* true or false, got 1"),
                ({"cluttered": None}, "cluttered.* true or false, got None"),
                ({"wording": True}, "wording.* seen or unseen, got True"),
                ({"wording": "new"}, "wording.* seen or unseen, got 'new'"),
                ({"wording": ["seen"]}, "wording.* seen or unseen, got"),
                ({"fact": 3}, "fact.* a text, got 3"),
                ({"fact": ""}, "fact.* a text, got ''"),
            ]
        ),
    ],
)
def test_malformed_annotations_are_named(tmp_path, content, message):
    (tmp_path / "videos").mkdir()
    (tmp_path / "QA.json").write_text(content)
    with pytest.raises(UserError, match=message):
        benchmarks.get("avhbench").load(tmp_path, "avhbench")


def test_contradictory_duplicates_are_asked_and_counted_apart(session, tmp_path, capsys):
    write(tmp_path, [record("1", VISIBLE, VISIBLE_TEXT, label) for label in ("Yes", "No", "Yes")])
    (tmp_path / "videos").mkdir()
    (tmp_path / "videos" / "1.mp4").write_text("clip")
    evaluate(tmp_path, tmp_path / "out")
    doc = document(capsys)
    assert method(doc, 0)["tasks"][VISIBLE]["n"] == 3 and method(doc, 0)["tasks"][VISIBLE]["right"] == 2
    assert doc["repeated"] == {"texts": 1, "contradictory": 1}
    assert len((tmp_path / "out" / "records.jsonl").read_text().splitlines()) == 1 + 3 * 2


def test_a_failed_clip_and_a_refused_question_are_named_errors_not_answers(session, data, tmp_path, capsys):
    (data / "videos" / "00001.mp4").write_text("broken")
    (data / "videos" / "00002.mp4").unlink()
    (data / "videos" / "00003.mp4").write_text("silent film")
    records = [*json.loads((data / "QA.json").read_text()), record("00000", VISIBLE, "Is the zebra visible in the video?", "Yes")]
    write(data, records)
    assert evaluate(data, tmp_path / "out") == 3
    out = capsys.readouterr().out
    doc = json.loads(out.splitlines()[-1])
    assert method(doc, 0)["errors"] == method(doc, 1)["errors"] == 11
    assert method(doc, 0)["columns"]["Avg"]["n"] == 8  # errors are in no share
    assert {e["error"] for e in doc["errors"]} == {
        "00001.mp4: not a media file",
        "00002.mp4: no such file",
        "unknown word 'zebra'",
    }
    assert (
        "22 questions without an answer (22 UserError)" in out
        and "not a media file" in out
        and "5 questions are about clips without sound" in out
    )
    # repaired, the same command asks only what has no answer; the same error again is not written again
    before = len(session.calls)
    (data / "videos" / "00001.mp4").write_text("clip")
    evaluate(data, tmp_path / "out")
    assert len(session.calls) - before == 10 + 2
    assert method(document(capsys), 0)["errors"] == 6
    assert len((tmp_path / "out" / "records.jsonl").read_text().splitlines()) == 1 + 42 + 10


def test_a_truncated_last_line_is_dropped_and_asked_again(session, data, tmp_path, capsys):
    evaluate(data, tmp_path / "out")
    whole = document(capsys)
    path = tmp_path / "out" / "records.jsonl"
    content = path.read_bytes()
    n_calls = len(session.calls)
    path.write_bytes(content[: len(content) * 2 // 3 + 5])
    left = path.read_bytes().count(b"\n") - 1
    evaluate(data, tmp_path / "out")
    assert lasting(document(capsys)) == lasting(whole)
    assert len(session.calls) - n_calls == 40 - left
    path.write_bytes(content[:20])  # not even the header is whole
    evaluate(data, tmp_path / "out")
    assert lasting(document(capsys)) == lasting(whole)


def test_a_finished_run_prints_its_tables_again_without_the_model(session, data, tmp_path, capsys, monkeypatch):
    evaluate(data, tmp_path / "out")
    first = capsys.readouterr().out
    monkeypatch.setitem(sys.modules, "fastav.session", None)  # importing it now fails
    assert evaluate(data, tmp_path / "out") == 0
    assert capsys.readouterr().out == first


def test_fresh_starts_over_and_keeps_the_old_records(session, data, tmp_path, capsys):
    for n in range(3):
        evaluate(data, tmp_path / "out", "--fresh")
        assert len(session.calls) == 40 * (n + 1)
    assert sorted(p.name for p in (tmp_path / "out").glob("*.jsonl")) == ["records.1.jsonl", "records.2.jsonl", "records.jsonl"]


def test_killed_in_the_middle_and_resumed_gives_the_same_summary(data, tmp_path):
    def command(output, delay):
        driver = tmp_path / f"driver{delay}.py"
        driver.write_text(DRIVER.format(root=str(ROOT), tests=str(ROOT / "tests"), delay=delay))
        arguments = ["--bench", "avhbench", "--data-root", data, "--output", tmp_path / output]
        return [sys.executable, str(driver), *map(str, arguments)]

    whole = subprocess.run(command("whole", 0), capture_output=True, check=True).stdout
    path = tmp_path / "cut" / "records.jsonl"
    slow = subprocess.Popen(command("cut", 0.2), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 20
        while not path.exists() or path.read_bytes().count(b"\n") < 8:
            assert time.monotonic() < deadline and slow.poll() is None
            time.sleep(0.02)
        busy = subprocess.run(command("cut", 0), capture_output=True, text=True)
        assert busy.returncode == 2 and "another run is writing" in busy.stderr
    finally:
        os.kill(slow.pid, signal.SIGKILL)
        slow.wait()
    n_lines = path.read_bytes().count(b"\n")
    assert 8 <= n_lines < 41
    resumed = subprocess.run(command("cut", 0), capture_output=True, check=True).stdout
    assert lasting(json.loads(resumed.splitlines()[-1])) == lasting(json.loads(whole.splitlines()[-1]))
    assert path.read_bytes().count(b"\n") == 41


def test_resuming_with_other_settings_is_refused_by_name(session, data, tmp_path, capsys):
    evaluate(data, tmp_path / "out", "--limit", 3)
    evaluate(data, tmp_path / "out")  # more questions of the same run: no other settings

    def refused(what):
        assert what in capsys.readouterr().err

    capsys.readouterr()
    assert evaluate(data, tmp_path / "out", "--dtype", "bfloat16") == 2
    refused("other dtype: there float32, now bfloat16")
    assert evaluate(data, tmp_path / "out", "--attn", "eager") == 2
    refused("other attn: there sdpa, now eager")
    small_set(data, n_clips=5)
    assert evaluate(data, tmp_path / "out") == 2
    refused("other annotations_sha256")


def test_other_weights_under_the_same_path_are_refused(session, data, tmp_path, capsys):
    session.checkpoint = str(tmp_path / "weights")
    weights = tmp_path / "weights" / "model.safetensors"
    weights.parent.mkdir()
    weights.write_bytes(b"one")
    assert evaluate(data, tmp_path / "out") == 0
    weights.write_bytes(b"two")
    assert evaluate(data, tmp_path / "out") == 2
    assert "other weights_sha256" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--bench", "nope"], "unknown benchmark 'nope'; allowed: avhbench, tiny-world"),
        (["--model", "nope"], "unknown model 'nope'; allowed: "),
        (["--method", "nope"], "unknown method 'nope'; allowed: "),
        (["--method", "fastav:q=3"], "unknown setting 'q=3' of fastav"),
        (["--limit", "0"], "--limit must be at least 1, got 0"),
        (["--data-root", "/nowhere"], "'/nowhere' is not a folder"),
    ],
)
def test_what_can_be_checked_is_checked_before_the_model_is_loaded(data, tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.setitem(sys.modules, "fastav.session", None)
    assert evaluate(data, tmp_path / "out", *arguments) == 2
    err = capsys.readouterr().err
    assert message in err and err.count("\n") == 1 and "Traceback" not in err


def test_the_same_method_twice_is_refused(session, data, tmp_path, capsys):
    assert evaluate(data, tmp_path / "out", "--method", "fastav", "--method", "fastav:p=20") == 2
    assert "are the same method" in capsys.readouterr().err


def test_an_output_that_cannot_be_written_is_named(data, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert evaluate(data, tmp_path / "file" / "out") == 2
    assert "cannot write results to" in capsys.readouterr().err
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "records.jsonl").write_text("a diary\n")
    assert evaluate(data, tmp_path / "out") == 2
    assert "line 1 of" in capsys.readouterr().err


def test_without_a_data_root_the_mini_set_runs_and_says_so(session, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(run, "ROOT", tmp_path)
    assert run.main(["--bench", "tiny-world"]) == 2
    assert "the built-in mini set is not here" in capsys.readouterr().err
    mini = small_set(tmp_path / "assets" / "mini")
    write(
        mini,
        [record("00000", "Color", "What color is the dog?", "yes"), record("00001", "Counting", "How many?", "3")],
        "tiny_world.json",
    )
    assert run.main(["--bench", "tiny-world"]) == 0
    out, err = capsys.readouterr()
    assert "tiny-world-mini" in out and "MINI SET" in out and "tiny-world-mini" in err
    doc = json.loads(out.splitlines()[-1])
    assert doc["benchmark"] == "tiny-world-mini" and method(doc, 0)["columns"]["Avg"]["right"] == 1
    assert (tmp_path / "eval" / "runs" / "tiny-world-mini-tiny" / "records.jsonl").exists()
    assert session.calls[0][1] in ("What color is the dog?", "How many?")  # asked as they are


def test_the_script_runs_from_any_folder(tmp_path):
    done = subprocess.run([sys.executable, ROOT / "eval" / "run.py", "--help"], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0 and "--data-root DIR" in done.stdout
    assert "torch" not in done.stderr
