"""Tiny world: the questions that AVHBench has not, about the procedural clips of FastAV-tiny.

How many, which colour, where, which sound when and how loud, and four options answered by a letter. Asked as they are, but for
yes / no questions, which get " Answer yes or no." as AVHBench's do. The file is `tiny_world.json` beside the clips, in
AVHBench's schema.
"""

from __future__ import annotations

from pathlib import Path

from eval.benchmarks import avhbench_schema as schema
from eval.dataset import Dataset
from eval.scorers.letter import Letter
from eval.scorers.word import Word
from eval.scorers.yes_no import YesNo

YES_NO = dict.fromkeys(("Louder", "Longer"), YesNo(asked="A"))
WORDS = (
    "Counting",
    "Color",
    "Location",
    "First sound",
    "Sound at the end",
    "More or fewer",
    "Loudest",
    "Only one sounding",
    "Heard counting",
    "Location of sound",
)
TASKS = {**dict.fromkeys(WORDS, Word()), **YES_NO, "Four options": Letter()}
COLUMNS = {**{task: (task,) for task in TASKS}, "Avg": tuple(TASKS)}
INSTRUCTIONS = dict.fromkeys(YES_NO, " Answer yes or no.")


def load(root: Path, name: str) -> Dataset:
    """The benchmark under `root`. Raises UserError when it is not there or not in the schema."""
    file, videos = schema.find(root, ("tiny_world.json",))
    questions, sha256 = schema.read(file, TASKS, {}, INSTRUCTIONS)
    return Dataset(name, file, sha256, questions, TASKS, COLUMNS, schema.mp4(videos))
