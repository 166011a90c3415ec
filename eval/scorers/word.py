"""Answers of one word, or of a few: right when they are the label after normalising."""

from __future__ import annotations

from dataclasses import dataclass

from eval.scorers.scorer import Score, Scorer
from fastav.question import Question

_NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")


@dataclass(frozen=True)
class Word(Scorer):
    """`said` is the normalised answer."""

    name = "word"

    def score(self, question: Question, answer: str) -> Score:
        said = normalise(answer)
        return Score(said == normalise(question.label), said)


def normalise(answer: str) -> str:
    """First line, lower case, without punctuation and articles; underscore = blank, digits = number words."""
    first = next(iter(answer.strip().lower().splitlines()), "")
    words = "".join(c if c.isalnum() else " " for c in first).split()
    return " ".join(
        _NUMBERS[int(w)] if w.isdecimal() and int(w) < len(_NUMBERS) else w for w in words if w not in ("a", "an", "the")
    )
