"""Questions counted apart: wordings and the facts asked in both, clean and cluttered clips; methods pooled over their seeds.

Oracles: counts done by hand with a stub in the place of the model.
"""

import hashlib
import json
from dataclasses import asdict, replace

import pytest
from evaluating import (
    HEARD,
    MATCHING,
    VISIBLE,
    VISIBLE_TEXT,
    document,
    evaluate,
    method,
    record,
    says_no,
    small_set,
    stub,
    write,
)

from eval import benchmarks
from fastav import stats


@pytest.fixture
def session(monkeypatch):
    return stub(monkeypatch)


@pytest.fixture
def data(tmp_path):
    return small_set(tmp_path / "data")


def told(clip, i, wording=None, fact=None, label="Yes", task=VISIBLE):
    """A question of its own text, with what the set tells of it."""
    more = {name: value for name, value in (("wording", wording), ("fact", fact)) if value is not None}
    return record(clip, task, f"Is the dog {i} visible?", label, **more)


def test_wordings_unseen_in_training_are_counted_apart(session, data, tmp_path, capsys):
    """The stub always says yes: 2 of 3 seen wordings are right and 1 of 4 unseen ones. Two matching questions are in none."""
    rows = [("seen", "Yes"), ("seen", "Yes"), ("seen", "No"), ("unseen", "Yes"), *[("unseen", "No")] * 3]
    write(
        data, [told("00000", i, how, label=label) for i, (how, label) in enumerate(rows)] + [record("00001", MATCHING, "?", "No")]
    )
    evaluate(data, tmp_path / "out")
    out = capsys.readouterr().out
    wordings = method(json.loads(out.splitlines()[-1]), 0)["wordings"]
    assert wordings.keys() == {VISIBLE}
    split = wordings[VISIBLE]
    assert (split["seen"]["right"], split["seen"]["n"], split["unseen"]["right"], split["unseen"]["n"]) == (2, 3, 1, 4)
    assert split["paired"]["n"] == 0  # no fact is named
    row = next(line for line in out[out.index("seen in training") :].splitlines() if "vanilla" in line)
    assert row.split("vanilla")[1].split() == ["66.7", "3", "25.0", "4", "-", "-", "0"]


def test_a_fact_asked_in_both_wordings_is_paired(session, data, tmp_path, capsys):
    """Unseen minus seen, as stats.paired counts it by hand: facts of one clip go together, "b" is another fact in each clip."""
    facts = {  # (clip, fact): label of the seen, label of the unseen wording; the stub says yes
        ("00000", "a"): ("Yes", "No"),
        ("00000", "b"): ("Yes", "No"),
        ("00000", "c"): ("Yes", "No"),
        ("00001", "b"): ("Yes", "Yes"),
        ("00001", "d"): ("No", "Yes"),
        ("00002", "e"): ("No", "No"),
    }
    rows = [told(clip, 2 * i + j, how, fact, labels[j]) for i, ((clip, fact), labels) in enumerate(facts.items())
            for j, how in enumerate(("seen", "unseen"))]  # fmt: skip
    alone = [
        told("00002", 20, "seen", "f"),
        told("00002", 21, "unseen"),
        told("00002", 22, "seen"),
        told("00003", 23, fact="e"),
    ]
    other_task = [record("00002", MATCHING, "?", "Yes", wording="unseen", fact="f")]
    write(data, rows[::-1] + alone + other_task)
    evaluate(data, tmp_path / "out", "--method", "vanilla")
    out = capsys.readouterr().out
    wordings = method(json.loads(out.splitlines()[-1]), 0)["wordings"]
    seen, unseen = ([labels[j] == "Yes" for labels in facts.values()] for j in (0, 1))
    by_hand = stats.paired(unseen, seen, [clip for clip, _ in facts])
    assert (by_hand.n, by_hand.only_a_right, by_hand.only_b_right) == (6, 1, 3) and by_hand.design_effect > 1
    assert wordings[VISIBLE]["paired"] == pytest.approx(asdict(by_hand))
    assert wordings[MATCHING]["paired"]["n"] == 0
    row = next(line for line in out[out.index("seen in training") :].splitlines() if VISIBLE in line)
    assert row.split("vanilla")[1].split()[4:] == ["-33.33", f"{100 * by_hand.low:+.2f}", "to", f"{100 * by_hand.high:+.2f}", "6"]


def test_methods_that_differ_in_their_seed_are_one_row(session, data, tmp_path, capsys):
    """The stub says no by question and clip, whatever the seed; the third is made to answer as vanilla does."""
    says = session.answer

    def answer(clip, question, method="fastav", **more):
        result = says(clip, question, "vanilla" if "seed=3" in method else method, **more)
        return replace(result, method=session.canonical(method))

    session.answer = answer
    seeds = [f"random:seed={i}" for i in (1, 2, 3)]
    evaluate(data, tmp_path / "out", *(word for text in ("fastav", *seeds) for word in ("--method", text)))
    out = capsys.readouterr().out
    summary = json.loads(out.splitlines()[-1])
    (group,) = summary["seeds"]
    each = [m["columns"]["Avg"]["accuracy"] for m in summary["methods"] if m["label"] in seeds]
    assert group["labels"] == seeds and each[0] == each[1] != each[2] and "seed" not in group["method"]
    spread = group["columns"]["Avg"]
    assert (spread["mean"], spread["lowest"], spread["highest"]) == (pytest.approx(sum(each) / 3), min(each), max(each))
    assert spread["std"] == pytest.approx(abs(each[0] - each[2]) / 3**0.5)  # of x, x, y
    assert "mean of the seeds (lowest to highest)" in out


def test_a_pair_needs_both_answers(session, data, tmp_path, capsys):
    write(data, [told("00000", 1, "seen", "a"), told("00000", "zebra", "unseen", "a")])
    evaluate(data, tmp_path / "out")
    assert method(document(capsys), 0)["wordings"][VISIBLE]["paired"]["n"] == 0


def test_clean_and_cluttered_clips_are_counted_apart(session, data, tmp_path, capsys):
    """Always yes, by hand: visible 2 of 3 clean and 0 of 1 cluttered, heard 1 of 1 and 1 of 2; captions do not say."""
    rows = [(VISIBLE, False, "Yes"), (VISIBLE, False, "Yes"), (VISIBLE, False, "No"), (VISIBLE, True, "No")]
    rows += [(HEARD, False, "Yes"), (HEARD, True, "Yes"), (HEARD, True, "No")]
    records = [record("00000", task, f"Q {i}?", label, cluttered=c) for i, (task, c, label) in enumerate(rows)]
    write(data, [*records, record("00001", VISIBLE, "Is it?", "Yes"), record("00001", "AV Captioning", "Describe it.", "a dog")])
    evaluate(data, tmp_path / "out", "--method", "vanilla")
    out = capsys.readouterr().out
    vanilla = method(json.loads(out.splitlines()[-1]), 0)

    def counts(split):
        return {name: [of[how][what] for how in ("clean", "cluttered") for what in ("right", "n")] for name, of in split.items()}

    assert counts(vanilla["tasks_by_clutter"]) == {VISIBLE: [2, 3, 0, 1], HEARD: [1, 1, 1, 2]}
    assert counts(vanilla["columns_by_clutter"]) == {"AV hallucination": [3, 4, 1, 3], "Avg": [3, 4, 1, 3]}
    head, row = out[out.index("clean and cluttered") :].splitlines()[:2]
    assert head.split("  ")[0] == "clean and cluttered, in % (n)" and "AV hallucination" in head and "matching" not in head
    assert row.split() == ["vanilla", *["75.0", "(4)", "/", "33.3", "(3)"] * 2]
    assert (vanilla["columns"]["Avg"]["n"], vanilla["columns"]["Avg"]["right"]) == (8, 5)  # all questions, as without the split


def test_what_pruning_costs_is_told_for_clean_and_cluttered_clips_of_each_task(session, data, tmp_path, capsys):
    """Vanilla always says yes, the method no where the stub says so: per task and kind of clip, stats.paired on that."""
    rows = [
        (task, cluttered, f"Q {i}?")
        for i, (task, cluttered) in enumerate([(VISIBLE, False), (VISIBLE, True), (HEARD, False)] * 4)
    ]
    write(data, [record("00000", task, text, "Yes", cluttered=cluttered) for task, cluttered, text in rows])
    evaluate(data, tmp_path / "out", "--method", "fastav")
    out = capsys.readouterr().out
    [(_, tasks)] = json.loads(out.splitlines()[-1])["task_differences"].items()

    def by_hand(task, kinds):
        of = [text for each, cluttered, text in rows if each == task and cluttered in kinds]
        pruned = [0.0 if says_no(f"{text} Answer yes or no.", "00000.mp4") else 1.0 for text in of]
        return json.loads(json.dumps(asdict(stats.paired(pruned, [1.0] * len(of), ["00000"] * len(of)))))

    assert tasks[VISIBLE] == {
        "all": by_hand(VISIBLE, (0, 1)),
        "clean": by_hand(VISIBLE, (0,)),
        "cluttered": by_hand(VISIBLE, (1,)),
    }
    assert tasks[HEARD]["all"] == tasks[HEARD]["clean"] == by_hand(HEARD, (0,)) and tasks[HEARD]["cluttered"]["n"] == 0
    assert len({tasks[VISIBLE][kind]["difference"] for kind in ("all", "clean", "cluttered")}) > 1
    title, *lines = out[out.index("points against vanilla (95 %)") :].splitlines()[:3]
    assert title.split()[-4:] == ["task", "all", "clean", "cluttered"] and lines[1].split()[-1] == "-"


@pytest.mark.parametrize("cluttered", [None, False, True])
def test_without_both_kinds_of_clips_there_is_no_table_of_them(session, data, tmp_path, capsys, cluttered):
    more = {} if cluttered is None else {"cluttered": cluttered}
    write(data, [record("00000", VISIBLE, VISIBLE_TEXT, "Yes", **more)])
    evaluate(data, tmp_path / "out")
    out = capsys.readouterr().out
    assert "clean and cluttered" not in out and "seen in training" not in out
    assert ("points against vanilla (95 %)" in out) is (cluttered is not None)
    vanilla = method(json.loads(out.splitlines()[-1]), 0)
    assert vanilla["tasks_by_clutter"].keys() == (set() if cluttered is None else {VISIBLE}) and vanilla["wordings"] == {}


def test_what_a_set_tells_of_a_question_is_in_its_records(session, data, tmp_path):
    plain, full = record("00000", VISIBLE, "A?", "Yes"), told("00000", 1, "unseen", "a")
    write(data, [plain, full | {"cluttered": False}])
    evaluate(data, tmp_path / "out", "--method", "vanilla")
    first, second = (json.loads(line) for line in (tmp_path / "out" / "records.jsonl").read_text().splitlines()[1:])
    assert not {"cluttered", "wording", "fact"} & first.keys()
    assert (second["cluttered"], second["wording"]) == (False, "unseen")


def test_a_questions_key_is_the_hash_of_its_whole_record(data):
    rows = [told("00000", 1), told("00000", 1, "seen"), told("00000", 1, "unseen"), told("00000", 1, "seen", "a")]
    write(data, rows)
    questions = benchmarks.get("avhbench").load(data, "avhbench").questions
    for i, (question, row) in enumerate(zip(questions, rows, strict=True)):
        assert question.key == f"{i}-{hashlib.sha256(json.dumps(row, sort_keys=True).encode()).hexdigest()[:12]}"
    assert [(q.wording, q.fact, q.cluttered) for q in questions[2:]] == [("unseen", None, None), ("seen", "a", None)]
