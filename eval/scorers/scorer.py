"""What a scorer is. Pure: no model, no file."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from fastav.question import Question

UNKNOWN = "unknown"  # `said` of an answer that a scorer could not read, if its `unread` is set


@dataclass(frozen=True)
class Score:
    """The verdict on one answer, as it is stored in the record.

    A verdict is right or wrong: shares, intervals and paired differences count right answers. A grade (0 to 5, say) is no share:
    its scorer says from which grade on an answer is right, leaves the grade in `said` and averages it in its metrics.
    """

    value: bool | None  # right; None: not scored, in no share
    said: str  # what the scorer made of the answer, e.g. "Yes" or the normalised word
    explanation: str = ""  # why, in a few words; empty where `said` and the label tell

    def __post_init__(self):
        """Raises TypeError for another type, which could not be read back as it was written."""
        fits = (self.value is None or isinstance(self.value, bool)) and isinstance(self.said, str)
        if not fits or not isinstance(self.explanation, str):
            raise TypeError(f"a verdict is True, False or None with two texts, got {self}")


@dataclass(frozen=True)
class Metrics:
    """What a scorer tells of a task beside the share of right answers."""

    numbers: Mapping[str, object] = field(default_factory=dict)  # for the JSON document
    columns: Mapping[str, str] = field(default_factory=dict)  # title -> text in the table of tasks
    notes: tuple[str, ...] = ()  # below that table


class Scorer(ABC):
    """One way to score answers. Derive a frozen dataclass: its repr is compared when a run goes on (see experiment.py)."""

    name: str  # the key of its verdicts in a record
    labels: tuple[str, ...] = ()  # what a label may be; empty: anything
    unread: str = ""  # what answers with `said` UNKNOWN are listed as, e.g. "neither yes nor no"; empty: it reads every answer

    @abstractmethod
    def score(self, question: Question, answer: str) -> Score:
        """The verdict on one answer. The same answer always gets the same one."""

    def metrics(self, questions: Sequence[Question], scores: Sequence[Score]) -> Metrics:
        """Of one task: its questions that were answered, at least one, and their verdicts in the same order."""
        return Metrics()

    def baselines(self, questions: Sequence[Question]) -> dict[str, float]:
        """Name -> share of right answers that needs no clip. Of a column whose tasks all have a scorer of this name."""
        return {}


def share(part: float, whole: float) -> float:
    """In 0..1; 0 of 0 is 0.0."""
    return part / whole if whole else 0.0


def percent(value: float) -> str:
    return f"{100 * value:.1f}"
