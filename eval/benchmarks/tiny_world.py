"""Tiny world: the questions that AVHBench has not, about the procedural clips of FastAV-tiny.

How many, which colour, where, in which order, how loud, how long. Answers of a word are compared exactly after normalising;
comparisons are asked with " Answer yes or no." added, all others as they are. Four options stand in the question, a line
each, and the answer is a letter. The file is `tiny_world.json` beside the clips, in AVHBench's schema; it need not have
every task.
"""

from __future__ import annotations

from pathlib import Path

from eval.benchmarks import avhbench_schema as schema
from eval.dataset import Dataset
from eval.scorers.letter import Letter
from eval.scorers.word import Word
from eval.scorers.yes_no import YesNo

# Only an answer word tells which sound is louder or longer: "The dog is heard." says neither, so no statement counts.
_COMPARISON = YesNo(asked="")

TASKS = {
    "Counting": Word(),
    "Color": Word(),
    "Location": Word(),
    "First sound": Word(),
    "Sound at the end": Word(),
    "More or fewer": Word(),
    "Loudest": Word(),
    "Only one sounding": Word(),
    "Louder": _COMPARISON,
    "Longer": _COMPARISON,
    "Heard counting": Word(),
    "Location of sound": Word(),
    "Four options": Letter(),
}
COLUMNS = {**{task: (task,) for task in TASKS}, "Avg": tuple(TASKS)}
INSTRUCTIONS = dict.fromkeys(("Louder", "Longer"), " Answer yes or no.")


def load(root: Path, name: str) -> Dataset:
    """The benchmark under `root`, with the columns of its tasks. Raises UserError when it is not there or not in the schema."""
    file, videos = schema.find(root, ("tiny_world.json",))
    questions, sha256 = schema.read(file, TASKS, {}, INSTRUCTIONS)
    found = {q.task for q in questions}
    columns = {title: tasks for title, tasks in COLUMNS.items() if not found.isdisjoint(tasks)}
    return Dataset(name, file, sha256, questions, TASKS, columns, schema.mp4(videos))
