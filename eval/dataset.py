"""A benchmark on disk, whatever its annotations look like."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from eval.scorers.scorer import Scorer
from fastav.question import Question


@dataclass(frozen=True)
class Dataset:
    """Its questions, where their clips are, and who scores the answers."""

    name: str  # as in every output, e.g. "avhbench-mini"
    annotations: Path
    annotations_sha256: str
    questions: tuple[Question, ...]  # in annotation order
    scorers: Mapping[str, Scorer]  # task -> scorer
    columns: Mapping[str, tuple[str, ...]]  # title -> tasks pooled in it, question by question
    file: Callable[[str], Path]  # clip_id -> where the clip would be; it need not be there

    def scorer(self, question: Question) -> Scorer:
        return self.scorers[question.task]
