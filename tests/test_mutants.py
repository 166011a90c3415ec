"""The table of mutants against the code it changes: that tests notice them is for `make mutants`, which takes minutes."""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests/mutants"))

from mutants import MUTANTS  # noqa: E402  (its folder is no package)


def test_every_mutant_still_fits_one_line_of_its_file():
    for (file, test), mutants in MUTANTS.items():
        source = (ROOT / file).read_text()
        assert (ROOT / test).is_file()
        for name, old, new in mutants:
            assert source.count(old) == 1 and "\n" not in old + new, f"{name}: {old!r} occurs {source.count(old)} times in {file}"


def test_no_two_mutants_share_a_name():
    names = [name for mutants in MUTANTS.values() for name, *_ in mutants]
    assert len(set(names)) == len(names) >= 12
