"""Four options, answered by a letter: right when the answer says the label's letter and no other. Unreadable is wrong.

A letter is said at the beginning of a line ("B", "(b)", "B. dog"), after "answer", "option", "choice" or "letter" ("The answer is
B"), and beside one that is said ("A or B"). What follows the letter is not looked at. The word "a" is an article ("A dog
barks") unless nothing follows it, or a mark, or a word that no article has behind it. A letter that is denied ("not A", "A is
wrong") is not said. An answer without any letter may be one option's text instead, exactly, after normalising (word.py).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from eval.scorers.scorer import UNKNOWN, Metrics, Score, Scorer
from eval.scorers.word import normalise
from fastav.question import Question

LETTERS = ("A", "B", "C", "D")

# In lower case, after _MARKUP is taken away.
_MARKUP = re.compile(r"<[^<>]*>|[*_`#\"“”]")
_ARTICLE = r"(?<!option )(?<!choice )(?<!letter )a(?= +['‘]?(?!(?:is|or|and|because|[a-d])\b)\w)"
_LETTER = rf"\(?(?!{_ARTICLE})(?P<letter>[a-d])(?![\w'’-])"
_BEGINNING = re.compile(rf"(?:^|\b(?:answer|options?|choices?|letters?)\b(?: is| would be)?)[\s:-]*{_LETTER}", re.MULTILINE)
_BESIDE = re.compile(rf"(?:[\s.,:;/)]|\b(?:or|and)\b)*{_LETTER}")
_DENIED = re.compile(rf"\bnot (?:option )?{_LETTER}|\b(?:option )?[a-d]\)? (?:is not|isn['’]t|is wrong|is incorrect)\b")
# In the text of a question, as it is.
_OPTIONS = re.compile(
    r"\bA[.):](.+?)\(?\bB[.):](.+?)\(?\bC[.):](.+?)\(?\bD[.):](.+?)(?:\n|Answer with the option's letter|$)", re.DOTALL
)


@dataclass(frozen=True)
class Letter(Scorer):
    """`said` is one of LETTERS or UNKNOWN."""

    name = "letter"
    labels = LETTERS
    unread = "with no letter or more than one"

    def score(self, question: Question, answer: str) -> Score:
        said, why = read(answer, question.text)
        return Score(said == question.label, said, why)

    def metrics(self, questions: Sequence[Question], scores: Sequence[Score]) -> Metrics:
        unknown = sum(s.said == UNKNOWN for s in scores)
        return Metrics({"unknown": unknown}, {"unknown": str(unknown)})


def read(answer: str, question: str) -> tuple[str, str]:
    """(the letter that `answer` says, why: empty where it says it by itself); `question`: the text with the options."""
    plain = _MARKUP.sub("", answer).strip()
    said, why = _letters(plain.lower()), ""
    if not said:
        said, why = _of_the_text(plain, question), "the option's text"
    if len(said) == 1:
        return said.pop(), why
    return UNKNOWN, "more than one letter" if said else "no letter"


def _letters(answer: str) -> set[str]:
    answer, found = _DENIED.sub("", answer), set()
    for match in _BEGINNING.finditer(answer):
        while match:
            found.add(match["letter"].upper())
            match = _BESIDE.match(answer, match.end())
    return found


def _of_the_text(answer: str, question: str) -> set[str]:
    """The letters of the options that the answer repeats."""
    options, said = _OPTIONS.search(question), normalise(answer)
    if not options or not said:
        return set()
    return {letter for letter, text in zip(LETTERS, options.groups(), strict=True) if normalise(text) == said}
