"""Mutants: one line of the code made wrong, and the test that must notice. A table for each part of the project, see run.py."""

from typing import NamedTuple


class Mutant(NamedTuple):
    name: str  # what is then wrong, in a few words; no two mutants share it
    file: str  # from the root of the repository
    old: str  # occurs once in the file, within one line
    new: str
    test: str  # "tests/test_x.py::test_name": turns red. Without a bracket, every case of it runs until one does
