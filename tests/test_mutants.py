"""The tables of mutants against the code and the tests that they name: that these notice is for `make mutants`, minutes long."""

import re
from collections import Counter
from pathlib import Path

from mutants.run import TABLES

ROOT = Path(__file__).resolve().parents[1]
MUTANTS = [mutant for table in TABLES.values() for mutant in table]


def test_every_mutant_still_fits_one_line_of_its_file():
    for name, file, old, new, _ in MUTANTS:
        n_found = (ROOT / file).read_text().count(old)
        assert n_found == 1 and "\n" not in old + new and old != new, f"{name}: {old!r} occurs {n_found} times in {file}"


def test_every_mutant_names_a_test_that_exists():
    for name, *_, test in MUTANTS:
        file, _, function = re.fullmatch(r"(tests/test_\w+\.py)(::)(test_\w+)(\[.+\])?", test).groups()[:3]
        assert f"\ndef {function}(" in (ROOT / file).read_text(), f"{name}: {test} does not exist"


def test_no_two_mutants_share_a_name():
    assert [name for name, n in Counter(mutant.name for mutant in MUTANTS).items() if n > 1] == []
    assert len(MUTANTS) >= 12
