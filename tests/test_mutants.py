"""The tables of mutants against the code and the tests that they name: that these notice is for `make mutants`, minutes long."""

import re
from collections import Counter
from pathlib import Path

from mutants.run import TABLES

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "tests/README.md").read_text()
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


def rows() -> list[tuple[list[str], list[str], int]]:
    """(modules, test files, number of mutants) of each row of the table in tests/README.md."""
    found = []
    for names, tests, number in re.findall(r"^\| (`\w+/.+?`) \| .+? \| ([\w, ]+) \| (\d+) \|$", README, re.M):
        first, *others = re.findall(r"`(.+?)`", names)
        modules = [first, *(f"{first.rpartition('/')[0]}/{name}" for name in others)]
        found.append((modules, [f"tests/test_{name}.py" for name in tests.split(", ")], int(number)))
    return found


def test_every_module_in_which_something_happens_has_one_row_in_the_readme():
    """An __init__.py without an import is a docstring alone."""
    files = [*ROOT.glob("fastav/**/*.py"), *ROOT.glob("eval/**/*.py")]
    bare = {path for path in files if path.name == "__init__.py" and "import" not in path.read_text()}
    told = [module for modules, *_ in rows() for module in modules]
    assert sorted(told) == sorted(str(path.relative_to(ROOT)) for path in set(files) - bare)


def test_the_readmes_numbers_and_test_files_are_those_of_the_tables():
    for modules, tests, number in rows():
        here = [mutant for mutant in MUTANTS if mutant.file in modules]
        assert len(here) == number, modules
        assert {mutant.test.partition("::")[0] for mutant in here} <= set(tests), modules
        assert [test for test in tests if not (ROOT / test).is_file()] == [], modules
