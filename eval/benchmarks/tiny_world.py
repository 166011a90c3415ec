"""Tiny world: the questions that AVHBench has not, about the procedural clips of FastAV-tiny.

How many objects, which colour, left or right. Asked as they are; every answer is one word, compared exactly after
normalising. The file is `tiny_world.json` beside the clips, in AVHBench's schema.
"""

from __future__ import annotations

from pathlib import Path

from eval.benchmarks import annotations

TASKS = {"Counting": "word", "Color": "word", "Location": "word"}
COLUMNS = {"Counting": ("Counting",), "Color": ("Color",), "Location": ("Location",), "Avg": tuple(TASKS)}


def load(root: Path, name: str) -> annotations.Dataset:
    """The benchmark under `root`. Raises UserError when it is not there or not in the schema."""
    file, videos = annotations.find(root, ("tiny_world.json",))
    questions, sha256 = annotations.read(file, TASKS, {}, {})
    return annotations.Dataset(name, file, sha256, videos, questions, COLUMNS, annotations.wordings(file))
