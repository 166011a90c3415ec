"""The records of a run: one JSON object per line, appended as the answers come, safe to kill at any moment.

Line 1 is the header: {"header": settings}. Every other line is one question answered by one method:

    key, method     question key ("<position>-<hash of the annotation record>") and full text form of the method
    clip, task, text, label     as annotated
    result          fastav.result.Result without `token_runs` and `layers_seen`, which are a number per token; or
    error           why there is no answer: a clip that cannot be read, a question the model cannot take

A key may come again (an error is tried again when the run is resumed): the last line counts.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

from fastav.errors import UserError

try:
    import fcntl
except ImportError:  # Windows: nothing keeps two runs out of one folder
    fcntl = None

FILE = "records.jsonl"


class Store:
    """Records in `folder`, read at the start and appended to. Use as a context manager."""

    def __init__(self, folder: Path, fresh: bool = False):
        """Raises UserError when the folder cannot be written, is in use, or holds something else.

        `fresh` moves the records of an earlier run aside to records.1.jsonl, records.2.jsonl, ...
        """
        self.path = folder / FILE
        self.settings: dict | None = None  # of the run found there
        self.records: dict[tuple[str, str], dict] = {}
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._file = self._open()
            if fresh and self.path.stat().st_size:
                number = next(n for n in range(1, 1_000_000) if not (folder / f"records.{n}.jsonl").exists())
                self.path.rename(folder / f"records.{number}.jsonl")
                self._file.close()
                self._file = self._open()
        except OSError as error:
            raise UserError(f"cannot write results to {str(folder)!r}: {error.strerror}") from None
        self._read()

    def _open(self):
        file = self.path.open("a+b")
        if fcntl:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise UserError(f"another run is writing to {str(self.path)!r}; wait for it or give another --output") from None
        return file

    def _read(self) -> None:
        self._file.seek(0)
        data = self._file.read()
        whole = data[: data.rfind(b"\n") + 1]
        if len(whole) < len(data):
            self._file.truncate(len(whole))  # a line cut by a kill: that question is asked again
        for number, line in enumerate(whole.splitlines(), 1):
            try:
                entry = json.loads(line)
                if number == 1:
                    self.settings = entry["header"]
                else:
                    self.records[entry["key"], entry["method"]] = entry
            except (ValueError, KeyError, TypeError):
                raise UserError(f"line {number} of {str(self.path)!r} is not a record; use --fresh to start over") from None

    def check(self, settings: dict) -> None:
        """Raises UserError when the run found here had other settings, naming the first that differs."""
        for name, value in settings.items() if self.settings else ():
            found = self.settings.get(name)
            if found != value:
                raise UserError(
                    f"{str(self.path)!r} holds a run with other {name}: there {_short(found)}, now {_short(value)}; "
                    "give another --output, or --fresh to start over"
                )

    def begin(self, settings: dict) -> None:
        """Write the header of a new run, or check that the run found here had the same settings."""
        self.check(settings)
        if self.settings is None:
            self._append({"header": settings})
            self.settings = settings

    def add(self, record: dict) -> None:
        key = record["key"], record["method"]
        if self.records.get(key) != record:  # the same error again is not news
            self._append(record)
            self.records[key] = record

    def sync(self) -> None:
        """What was added survives a power cut, too (a kill it survives anyway)."""
        os.fsync(self._file.fileno())

    def _append(self, entry: dict) -> None:
        self._file.write(json.dumps(entry, allow_nan=False).encode() + b"\n")
        self._file.flush()

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_) -> None:
        self._file.close()


def _short(value) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
