"""Stage-by-stage comparison of an adapter with golden data: `python -m tests.parity videollama2 DIR` (or video_salmonn2). With
`methods` instead, the pruning methods that have a recording in DIR.

Prints, per case and stage, the maximum absolute difference and its tolerance, then the greedy ids. Exit code 1 on any
excess or when DIR holds none of the sets, 0 otherwise. A set that is incomplete, cut or refused by the adapter is an
excess as well. Which sets a folder may hold: see the module of each.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path

import torch
from safetensors import SafetensorError
from soundfile import LibsndfileError

sys.path[:0] = [str(Path(__file__).resolve().parents[i]) for i in (0, 1)]  # the tests' folder and the repository root

from fastav.errors import UserError  # noqa: E402  (found by the line above)

RECORDED = {"videollama2": "parity_videollama2", "video_salmonn2": "parity_video_salmonn2", "methods": "parity_methods"}
INCOMPLETE = (UserError, KeyError, OSError, ValueError, SafetensorError, LibsndfileError)  # what a broken folder raises


class Report:
    """Collects comparisons and prints each as one line."""

    def __init__(self, quiet: bool = False):
        self.quiet = quiet
        self.lines: list[tuple[bool, str]] = []
        self.n_sets = 0

    def close(self, case: str, stage: str, got, want, tolerance: float) -> None:
        """Tensors of the same shape that differ by at most `tolerance` anywhere; NaN counts as an excess."""
        got, want = torch.as_tensor(got), torch.as_tensor(want)
        if got.shape != want.shape:
            self._add(False, f"{case:<24} {stage:<32} shape {tuple(got.shape)}, expected {tuple(want.shape)}")
            return
        difference = (got.double() - want.double()).abs().max().item() if got.numel() else 0.0
        self._add(difference <= tolerance, f"{case:<24} {stage:<32} {difference:9.2e}  (tolerance {tolerance:.0e})")

    def same(self, case: str, stage: str, got, want) -> None:
        """Ids, counts, texts: equal or not."""
        equal = got == want
        self._add(equal, f"{case:<24} {stage:<32} {got if equal else f'{got}, expected {want}'}")

    def found(self, name: str) -> None:
        """A set of golden data is there and will be compared."""
        self.n_sets += 1
        self._say(f"set {name}")

    @contextmanager
    def reading(self, name: str) -> Iterator[None]:
        """What the files of a set lack, or why they cannot be read, becomes an excess; the other sets are still compared."""
        try:
            yield
        except INCOMPLETE as error:
            reason = f"{error} is missing" if isinstance(error, KeyError) else f"{type(error).__name__}: {error}"
            self._add(False, f"{name:<24} not compared to the end: {reason}")

    def missing(self, name: str, why: str = "not in this folder") -> None:
        self._say(f"set {name}: {why}, not compared")

    @property
    def failures(self) -> list[str]:
        return [line for passed, line in self.lines if not passed]

    def _add(self, passed: bool, line: str) -> None:
        self.lines.append((passed, line))
        self._say(("ok    " if passed else "EXCESS ") + line)

    def _say(self, line: str) -> None:
        if not self.quiet:
            print(line, flush=True)


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.parity", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("recorded", choices=RECORDED, metavar="|".join(RECORDED))
    parser.add_argument("folder", type=Path, metavar="DIR")
    options = parser.parse_args(arguments)
    if not options.folder.is_dir():
        parser.error(f"{options.folder} is not a folder")
    report = Report()
    with report.reading(str(options.folder)):
        import_module(RECORDED[options.recorded]).compare(options.folder, report)
    if not report.n_sets and not report.failures:
        print(f"{options.folder} holds none of the sets of {options.recorded}")
        return 1
    print(f"{len(report.lines)} comparisons in {report.n_sets} sets, {len(report.failures)} in excess")
    for line in report.failures:
        print(f"EXCESS {line}")
    return 1 if report.failures else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
