"""Benchmarks by the name a person types. One file = one benchmark; to add one, write the file and add its line here.

A benchmark's module has:
    TASKS    task name -> the scorer of its answers (eval/scorers/scorer.py); another scorer needs no other edit
    COLUMNS  column title -> names of the tasks pooled in it, question by question; a task in none gets a column of its own
    load(root, name) -> Dataset (eval/dataset.py), which raises UserError where the benchmark is not under `root`
"""

from __future__ import annotations

from importlib import import_module
from types import ModuleType

from fastav.errors import UserError

_HOME = {
    "avhbench": "eval.benchmarks.avhbench",
    "tiny-world": "eval.benchmarks.tiny_world",
}


def names() -> list[str]:
    return sorted(_HOME)


def get(name: str) -> ModuleType:
    """The benchmark's module. Raises UserError for an unknown name."""
    if name not in _HOME:
        raise UserError(f"unknown benchmark {name!r}; allowed: {', '.join(names())}")
    return import_module(_HOME[name])
