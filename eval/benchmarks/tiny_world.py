"""Tiny world: the questions that AVHBench has not, about the procedural clips of FastAV-tiny.

How many objects, which colour, left or right. Asked as they are; every answer is one word, compared exactly after
normalising. The file is `tiny_world.json` beside the clips, in AVHBench's schema.
"""

from __future__ import annotations

from pathlib import Path

from eval.benchmarks import avhbench_schema as schema
from eval.dataset import Dataset
from eval.scorers.word import Word

TASKS = {"Counting": Word(), "Color": Word(), "Location": Word()}
COLUMNS = {"Counting": ("Counting",), "Color": ("Color",), "Location": ("Location",), "Avg": tuple(TASKS)}


def load(root: Path, name: str) -> Dataset:
    """The benchmark under `root`. Raises UserError when it is not there or not in the schema."""
    file, videos = schema.find(root, ("tiny_world.json",))
    questions, sha256 = schema.read(file, TASKS, {}, {})
    return Dataset(name, file, sha256, questions, TASKS, COLUMNS, schema.wordings(file), schema.mp4(videos))
