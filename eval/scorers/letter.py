"""Four options answered by a letter: right when the one letter that the answer gives is the label.

The options stand in the question, a line each: "A. bell", "(A) bell" or "A) bell". An answer gives a letter when it begins
with one ("B", "(B)", "B. bell", "**B**"), names one after "answer" or "option" ("The answer is B"), or is the text of one
option. The article of "A dog barks." is no letter.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from eval.scorers.scorer import UNKNOWN, Score, Scorer
from eval.scorers.word import normalise
from fastav.question import Question

LETTERS = ("A", "B", "C", "D")
_OPTION = re.compile(r"^\s*\(?([A-D])[.):]\s*(.+?)\s*$", re.MULTILINE)
_BEGINS = re.compile(r"^\W*([A-D])(?:[.):,]|\W*$)")
_NAMED = re.compile(
    r"\b(?:[Aa]nswer|[Oo]ption|[Cc]hoice)(?:\s+is)?\W+(?:[Oo]ption\W+)?([B-D](?![A-Za-z])|A(?![A-Za-z]|\s+[a-z]))"
)


@dataclass(frozen=True)
class Letter(Scorer):
    """`said` is the letter, or UNKNOWN."""

    name = "letter"
    labels = LETTERS
    unread = "giving no letter, or more than one"

    def score(self, question: Question, answer: str) -> Score:
        said, why = read(answer, question.text)
        return Score(said == question.label, said, why)


def read(answer: str, question: str) -> tuple[str, str]:
    """(letter or UNKNOWN, why where the answer is not a bare letter)."""
    text = answer.replace("*", "").replace("_", "").strip()
    letters = {m[1] for m in (_BEGINS.search(text), *_NAMED.finditer(text)) if m}
    if not letters and text.rstrip(".").lower() in ("b", "c", "d"):
        letters = {text[0].upper()}
    if not letters:
        options = {letter: normalise(option) for letter, option in _OPTION.findall(question)}
        letters = {letter for letter, option in options.items() if option == normalise(text)}
    if len(letters) != 1:
        return UNKNOWN, "more than one letter" if letters else "no letter"
    (letter,) = letters
    return letter, "" if text == letter else f"from {text.splitlines()[0][:60]!r}"
