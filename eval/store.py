"""The records of a run: one JSON object per line, appended as the answers come, safe to kill at any moment.

Line 1 is the header: {"header": settings}, see experiment.settings. It comes again when methods are added: the last one
counts. Every other line is one question answered by one method:

    key, method     question key ("<position>-<hash of the annotation record>") and full text form of the method
    clip_id, task, text, label  as annotated; cluttered, wording likewise, where the annotation has them
    result          fastav.result.Result without `token_runs` and `layers_seen`, which are a number per token
    scores          scorer's name -> verdict on the answer: value, said, explanation (eval/scorers/scorer.py); or
    error, error_kind   why there is no answer, and "UserError" (a clip that cannot be read, a question the model cannot
                    take), "out of memory", or the exception's type

A key may come again (an error is tried again when the run is resumed): the last line counts.
"""

from __future__ import annotations

import json
import os
from contextlib import suppress
from pathlib import Path

from eval.scorers.scorer import Score
from fastav.errors import UserError

try:
    import fcntl
except ImportError:  # Windows: nothing keeps two runs out of one folder
    fcntl = None

FILE = "records.jsonl"
SCHEMA = 3
_LACKS = {1: "which plan, weights and FastAV gave an answer", 2: "the verdicts on its answers"}  # earlier schemas


class Store:
    """Records in `folder`, read at the start and appended to. Use as a context manager."""

    def __init__(self, folder: Path, fresh: bool = False):
        """Raises UserError when the folder cannot be written, is in use, or holds something else.

        `fresh` moves the records of an earlier run aside to records.1.jsonl, records.2.jsonl, ... and its summaries likewise.
        """
        self.path = folder / FILE
        self.settings: dict | None = None  # of the run found there
        self.records: dict[tuple[str, str], dict] = {}
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._file = self._open()
            if fresh and self.path.stat().st_size:
                self._move_aside()
                self._file.close()
                self._file = self._open()
            self._read()
        except OSError as error:
            raise UserError(f"cannot write results to {str(folder)!r}: {error.strerror}") from None

    def _open(self):
        # Unbuffered: a line is on its way to the disk as a whole or not at all, and nothing is left to write at the end.
        file = self.path.open("a+b", buffering=0)
        if fcntl:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise UserError(f"another run is writing to {str(self.path)!r}; wait for it or give another --output") from None
        return file

    def _move_aside(self) -> None:
        folder = self.path.parent
        number = next(n for n in range(1, 1_000_000) if not (folder / f"records.{n}.jsonl").exists())
        for file in (*folder.glob("summary*"), self.path):  # the records last: until then a kill changes nothing
            if "." not in file.stem:
                file.rename(folder / f"{file.stem}.{number}{file.suffix}")

    def _read(self) -> None:
        self._file.seek(0)
        data = self._file.read()
        whole = data[: data.rfind(b"\n") + 1]
        if len(whole) < len(data):
            self._file.truncate(len(whole))  # a line cut by a kill: that question is asked again
        for number, line in enumerate(whole.splitlines(), 1):
            try:
                entry = json.loads(line)
                if number == 1 or "header" in entry:
                    self.settings = self._header(dict(entry["header"]))
                else:
                    if "result" in entry:
                        verdicts(entry)
                    elif "error" not in entry:
                        raise KeyError
                    self.records[entry["key"], entry["method"]] = entry
            except (ValueError, KeyError, TypeError):
                raise UserError(f"line {number} of {str(self.path)!r} is not a record; use --fresh to start over") from None

    def _header(self, settings: dict) -> dict:
        """The same settings. Raises UserError where they are of another schema."""
        schema = settings.get("schema", 1)
        if schema != SCHEMA:
            whose = f"an earlier FastAV, which did not write down {_LACKS[schema]}" if schema in _LACKS else "another FastAV"
            raise UserError(
                f"{str(self.path)!r} is of {whose}; give another --output, or --fresh to move it aside and start over"
            )
        return settings

    def begin(self, settings: dict) -> None:
        """Write the header of a new run, or of one that goes on with more methods."""
        if settings != self.settings:
            self._append({"header": settings})
            self.settings = settings

    def add(self, record: dict) -> None:
        """Raises UserError when there is no room for it; what was there before stays whole."""
        key = record["key"], record["method"]
        if self.records.get(key) != record:  # the same error again is not news
            self._append(record)
            self.records[key] = record

    def sync(self) -> None:
        """What was added survives a power cut, too (a kill it survives anyway)."""
        try:
            os.fsync(self._file.fileno())
        except OSError as error:
            raise self._full(error) from None

    def _append(self, entry: dict) -> None:
        line = json.dumps(entry, allow_nan=False).encode() + b"\n"
        end = self._file.seek(0, os.SEEK_END)
        try:
            while line:
                line = line[self._file.write(line) :]
        except OSError as error:
            with suppress(OSError):
                self._file.truncate(end)  # half a line would spoil the one that follows it
            raise self._full(error) from None

    def _full(self, error: OSError) -> UserError:
        answered = sum("result" in record for record in self.records.values())
        return UserError(f"cannot write {str(self.path)!r}: {error.strerror}; the {answered} answers in it are kept")

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_) -> None:
        self._file.close()


def verdicts(record: dict) -> dict[str, Score]:
    """The stored verdicts of a record with a result, by scorer. Raises KeyError, TypeError or ValueError where they are none."""
    return {scorer: Score(**verdict) for scorer, verdict in dict(record["scores"]).items()}
