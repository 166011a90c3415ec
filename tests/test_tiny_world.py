"""The benchmark of FastAV-tiny's own world: its tasks, columns and prompts, with a stub in the place of the model.

Oracles: counts done by hand.
"""

import json

import pytest
from evaluating import (
    document,
    evaluate,
    method,
    record,
    small_set,
    stub,
    write,
)

from eval import benchmarks
from fastav.errors import UserError

WORDS = ["Counting", "Color", "Location", "First sound", "Sound at the end", "More or fewer", "Loudest", "Only one sounding"]
WORDS += ["Heard counting", "Location of sound"]
OPTIONS = "Which is heard first?\nA. dog\nB. bell\nC. car\nD. drum\nAnswer with the option's letter."


@pytest.fixture
def session(monkeypatch):
    return stub(monkeypatch)


@pytest.fixture
def data(tmp_path):
    return small_set(tmp_path / "data")


def world(tmp_path, records):
    data = small_set(tmp_path / "world", n_clips=1)
    write(data, records, "tiny_world.json")
    return data


def test_every_task_of_the_tiny_world_has_its_scorer_and_its_column(session, tmp_path, capsys):
    """The stub says "Yes.": right where that is the label, and no letter. A column for each task that is there, and Avg."""
    records = [record("00000", task, f"{task}?", "yes") for task in WORDS]
    records += [record("00000", task, "Is the dog it?", label) for task in ("Louder", "Longer") for label in ("Yes", "No")]
    records += [record("00000", "Four options", OPTIONS, "B")]
    evaluate(world(tmp_path, records), tmp_path / "out", "--bench", "tiny-world", "--method", "vanilla")
    vanilla = method(document(capsys), 0)
    assert {name: task["scorer"] for name, task in vanilla["tasks"].items()} == (
        dict.fromkeys(WORDS, "word") | {"Louder": "yes-no", "Longer": "yes-no", "Four options": "letter"}
    )
    right = {title: (column["right"], column["n"]) for title, column in vanilla["columns"].items()}
    assert right == dict.fromkeys(WORDS, (1, 1)) | {"Louder": (1, 2), "Longer": (1, 2), "Four options": (0, 1), "Avg": (12, 15)}


def test_a_tiny_world_of_two_tasks_has_their_columns_and_the_average(session, tmp_path, capsys):
    records = [record("00000", task, f"{task}?", "yes") for task in ("Loudest", "Color")]
    evaluate(world(tmp_path, records), tmp_path / "out", "--bench", "tiny-world")
    assert list(method(document(capsys), 0)["columns"]) == ["Color", "Loudest", "Avg"]


@pytest.mark.parametrize(
    ("task", "label"), [("Louder", "louder"), ("Longer", "yes"), ("Four options", "E"), ("Four options", "b")]
)
def test_a_label_that_no_answer_can_have_is_named(tmp_path, task, label):
    with pytest.raises(UserError, match=f"record 0 of .* must be labelled .*, got '{label}'"):
        benchmarks.get("tiny-world").load(world(tmp_path, [record("00000", task, "?", label)]), "tiny-world")


def test_options_are_asked_line_by_line_and_comparisons_with_the_instruction(session, tmp_path, capsys):
    texts = {"Louder": "Is the dog louder?", "Longer": "Is the dog longer?", "Four options": OPTIONS, "Loudest": "Which is?"}
    labels = {"Four options": "B", "Loudest": "dog"}
    records = [record("00000", task, text, labels.get(task, "Yes")) for task, text in texts.items()]
    evaluate(world(tmp_path, records), tmp_path / "out", "--bench", "tiny-world", "--method", "vanilla")
    added = {"Louder": " Answer yes or no.", "Longer": " Answer yes or no."}
    asked = [text + added.get(task, "") for task, text in texts.items()]
    assert [question for _, question, *_ in session.calls] == asked
    stored = [json.loads(line) for line in (tmp_path / "out" / "records.jsonl").read_text().splitlines()[1:]]
    assert [(entry["text"], entry["result"]["question"]) for entry in stored] == list(zip(texts.values(), asked, strict=True))
    out = capsys.readouterr().out
    assert "1 answers with no letter or more than one, counted as wrong:" in out
    assert f"  {OPTIONS} > 'Yes.' (vanilla)".replace("\n", " ") in out.splitlines()


@pytest.mark.parametrize("task", ["Louder", "Longer"])
@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ("Yes.", "Yes"),
        ("No, the dog is heard for a shorter time.", "No"),
        ("The dog is heard.", "unknown"),
        ("Both are heard.", "unknown"),
        ("The bell is visible.", "unknown"),
        ("The volumes differ.", "unknown"),
    ],
)
def test_what_is_heard_tells_nothing_of_a_comparison(tmp_path, task, answer, said):
    dataset = benchmarks.get("tiny-world").load(
        world(tmp_path, [record("00000", task, "Does the dog sound longer than the bell?", "Yes")]), "tiny-world"
    )
    (question,) = dataset.questions
    assert dataset.scorer(question).score(question, answer).said == said
