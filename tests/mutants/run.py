"""Does a test notice when one line of the code is wrong? `make mutants`; not collected by pytest.

The mutants lie beside this file, one table for each part of the project. Each is put into a copy of the tree, where its one test
must fail. A mutant that survives is a hole in the tests: write the missing test, do not remove the mutant.

    python tests/mutants/run.py                 all of them
    python tests/mutants/run.py [-j N] WORD ... those with one of the words in their name, file or table; N at a time
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
if __name__ == "__main__":
    sys.path[0] = str(HERE.parent)  # `mutants` is a package there; beside this file its tables would hide other modules

from mutants import Mutant  # noqa: E402  (needs the line above)

_FILES = sorted(HERE.glob("[!_]*.py"))
TABLES = {path.stem: import_module(f"mutants.{path.stem}").MUTANTS for path in _FILES if path.stem != "run"}
COPIED = ("fastav", "eval", "tests", "app.py", "pyproject.toml", "requirements.txt")
LINKED = ("assets",)
PRINTED = "printed.txt"  # in a copy: what pytest printed
LIMIT_SEC = 60  # for one test
# Imported once; each test runs in a fork. These imports take longer than most of the tests.
IMPORTED = ("pytest", "torch", "transformers.models.qwen2.modeling_qwen2", "transformers.generation.utils")


def main(words: list[str], n_at_a_time: int) -> int:
    chosen = [
        mutant
        for table, mutants in TABLES.items()
        for mutant in mutants
        if not words or any(word in text for word in words for text in (table, mutant.name, mutant.file))
    ]
    if not chosen:
        print(f"no mutant has {' or '.join(map(repr, words))} in its name, file or table; the tables are {', '.join(TABLES)}")
        return 1
    misfits = [mutant.name for mutant in chosen if (ROOT / mutant.file).read_text().count(mutant.old) != 1]
    if misfits:
        print(f"no line of its file, or more than one, is changed by: {', '.join(misfits)}")
        return 1
    # No bytecode files: one written for a mutant of the same length and second would be taken for the original's.
    sys.dont_write_bytecode = True
    os.environ.update(PYTHONDONTWRITEBYTECODE="1", OMP_NUM_THREADS="1")
    for name in IMPORTED:
        import_module(name)
    with tempfile.TemporaryDirectory() as folder:
        trees = [_copy(Path(folder) / str(i)) for i in range(n_at_a_time)]
        began = time.perf_counter()
        pid = _started(trees[0], sorted({mutant.test for mutant in chosen}))
        if _is_red(trees[0], os.waitpid(pid, 0)[1]):
            print(f"{_printed(trees[0])}\nA test fails without any mutant, so it proves nothing.")
            return 1
        print(f"{'unchanged code':<70} green    {time.perf_counter() - began:5.1f} s", flush=True)
        survivors = [mutant for mutant, red in _verdicts(chosen, trees) if not red]
    print(f"{len(chosen) - len(survivors)} of {len(chosen)} mutants turned their test red")
    for mutant in survivors:
        print(f"survived: {mutant.name} ({mutant.file}, {mutant.test})")
    return int(bool(survivors))


def _copy(tree: Path) -> Path:
    """The copy of the tree that is made at `tree`."""
    tree.mkdir()
    for name in COPIED:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, tree / name, ignore=shutil.ignore_patterns("__pycache__", "runs"))
        else:
            shutil.copy2(source, tree / name)
    for name in LINKED:
        (tree / name).symlink_to(ROOT / name)
    return tree


def _verdicts(mutants: list[Mutant], trees: list[Path]) -> Iterator[tuple[Mutant, bool]]:
    """Each mutant and whether its test turned red, one at a time in each tree; prints a line each."""
    waiting, free, running = mutants[::-1], list(trees), {}
    while waiting or running:
        while waiting and free:
            mutant, tree = waiting.pop(), free.pop()
            source = (tree / mutant.file).read_text()
            (tree / mutant.file).write_text(source.replace(mutant.old, mutant.new))
            running[_started(tree, [mutant.test])] = mutant, tree, source, time.perf_counter()
        pid, status = os.wait()
        mutant, tree, source, began = running.pop(pid)
        (tree / mutant.file).write_text(source)
        free.append(tree)
        red = _is_red(tree, status)
        print(f"{mutant.name:<70} {'red' if red else 'SURVIVED':<8} {time.perf_counter() - began:5.1f} s", flush=True)
        yield mutant, red


def _started(tree: Path, tests: list[str]) -> int:
    """The process that runs the tests in `tree`, up to the first that fails: a fork of this one."""
    pid = os.fork()
    if pid:
        return pid
    code = 3
    try:
        import pytest

        with (tree / PRINTED).open("w") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
        os.chdir(tree)
        sys.path[0] = str(tree)
        code = pytest.main(["-x", "-q", "-p", "no:cacheprovider", f"--timeout={LIMIT_SEC}", *tests])
        sys.stdout.flush()
    finally:
        os._exit(code)


def _is_red(tree: Path, status: int) -> bool:
    """A test failed, or ended its process. Code that cannot even be imported is no verdict: RuntimeError."""
    code = os.waitstatus_to_exitcode(status)
    if code > 1:
        raise RuntimeError(f"pytest ended with code {code}:\n{_printed(tree)}")
    return code != 0


def _printed(tree: Path) -> str:
    return (tree / PRINTED).read_text()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("words", nargs="*", metavar="WORD")
    parser.add_argument("-j", type=int, default=2, metavar="N", help="so many at a time (default 2)")
    options = parser.parse_args()
    if options.j < 1:
        parser.error(f"-j must be at least 1, got {options.j}")
    sys.exit(main(options.words, options.j))
