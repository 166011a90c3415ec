"""Answer text -> right or wrong; right and wrong -> the metrics of a task. Pure: no model, no file.

Shares are in 0..1; a division by zero gives 0.0 and is named in `undefined`.
"""

from __future__ import annotations

import re
import string
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from eval.benchmarks.annotations import Question
from eval.stats import wilson
from fastav.tiny.drawing import COLORS, KINDS

UNKNOWN = "unknown"  # an answer that says neither yes nor no: wrong, counted and listed


@dataclass(frozen=True)
class Score:
    """What was made of one answer."""

    right: bool | None  # None: this kind of answer is not scored (a caption of real footage needs a judge)
    said: str  # "Yes", "No" or "unknown"; the normalised word; what a caption was read as
    with_colors: bool | None = None  # captions: right, and every object in its colour


def score(question: Question, answer: str) -> Score:
    """The score of one answer, by the kind of its task."""
    if question.kind == "yes-no":
        said = yes_no(answer)
        return Score(said == question.label, said)
    if question.kind == "word":
        said = normalise(answer)
        return Score(said == normalise(question.label), said)
    return caption(question.label, answer)


# --- yes or no ------------------------------------------------------------------------------------------------------

_MARKUP = re.compile(r"<[^<>]*>|[*_`#~]")
_ECHO = re.compile(r"\byes\s*(?:or|/)\s*no\b")  # "Answer yes or no: ..." repeated by the model
# A yes, or a no that stands as an answer: at the beginning or before a pause. "There is no dog" is a form, see below.
_WHOLE_WORD = r"(?<!\w)(?<!\w['-]){}(?!\w)(?!['-]\w)"
_WORD = re.compile(f"{_WHOLE_WORD.format('yes')}|{_WHOLE_WORD.format('no')}" + r"(?=\W*$|\s*[.,;:!)\]\"\n]|\s+-)")
_FIRST = re.compile(r"\W*" + _WHOLE_WORD.format("(?:yes|no)"))
_DOUBT = re.compile(
    r"\bnot (?:sure|clear|certain|possible|enough)\b"
    r"|\b(?:unclear|uncertain|unsure|unable|maybe|perhaps|possibly|might|may be|sorry)\b"
    r"|\b(?:cannot|can't|could not|couldn't|do not|don't) (?:tell|determine|say|answer|know)\b"
)
_CLAUSE = re.compile(r"[.,;:!?]|\b(?:but|and|however|although|though|while)\b")
_NEGATION = re.compile(
    r"\b(?:is|are|was|were|does|do|did|can|could|has|have) ?(?:not|n't)\b|\b(?:cannot|can't)\b"
    r"|\bnot (?:visible|audible|heard|seen|present|making|match)|\b(?:nothing|none|neither|never|mismatch(?:ed)?)\b"
    r"|\bno\b(?! (?:doubt|other|matter)\b)"
)
_ADVERB = r"(?:(?:clearly|indeed|definitely|also|both|actually|really|audibly|visibly) )?"
_AFFIRMATION = re.compile(
    rf"\b(?:is|are|was|were|can be) {_ADVERB}(?:visible|audible|heard|seen|present|making|matching)\b"
    rf"|\b(?:there (?:is|are)|there's) {_ADVERB}(?:an?|the|some|two|three)\b"
    rf"|\b(?:i|you|we) (?:can )?{_ADVERB}(?:see|hear) (?:an?|the|some)\b"
    r"|\bmatch(?:es)?\b|\bmakes? (?:a |the )?sounds?\b"
)
_WHOLE = {
    "Yes": {"yeah", "yep", "yup", "correct", "true", "affirmative", "sure", "of course"},
    "No": {"nope", "nah", "incorrect", "false", "negative", "not at all"},
}


def yes_no(answer: str) -> str:
    """ "Yes", "No" or "unknown".

    In this order: a first word yes or no, or else the first one that stands as an answer, whatever the case, with quotes,
    markup and an echoed "yes or no" set aside; a form that is clear by itself ("is not visible", "there is a dog").
    Forms that contradict each other, and doubts, are unknown. Never a substring: "know" holds no "no".
    """
    text = _MARKUP.sub(" ", answer.lower().replace("’", "'").replace("—", " - "))
    text = _ECHO.sub(" ", text).strip()
    word = _FIRST.match(text) or _WORD.search(text)
    if word:
        return "Yes" if "yes" in word.group() else "No"
    text = " ".join(text.split())
    bare = text.strip(string.punctuation + " ")
    for verdict, words in _WHOLE.items():
        if bare in words:
            return verdict
    if _DOUBT.search(text):
        return UNKNOWN
    clauses = _CLAUSE.split(text)
    negated = [bool(_NEGATION.search(clause)) for clause in clauses]
    affirmed = [bool(_AFFIRMATION.search(clause)) and not no for clause, no in zip(clauses, negated, strict=True)]
    if any(negated) == any(affirmed):
        return UNKNOWN
    return "No" if any(negated) else "Yes"


# --- one word -------------------------------------------------------------------------------------------------------

_NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")


def normalise(answer: str) -> str:
    """First line, lower case, without punctuation and articles; underscore = blank, digits = number words."""
    first = next(iter(answer.strip().lower().splitlines()), "")
    words = "".join(c if c.isalnum() else " " for c in first).split()
    return " ".join(
        _NUMBERS[int(w)] if w.isdecimal() and int(w) < len(_NUMBERS) else w for w in words if w not in ("a", "an", "the")
    )


# --- captions of the procedural world -------------------------------------------------------------------------------

_SEEN_WORDS, _HEARD_WORDS = {"visible", "seen"}, {"heard", "audible"}
_WORLD = {*KINDS, *COLORS, *_SEEN_WORDS, *_HEARD_WORDS, *"a an and the is are nothing no object objects sound sounds".split()}


def caption(reference: str, answer: str) -> Score:
    """Right when the answer names exactly the objects and the sounds of the reference, none twice.

    Only for captions written by fastav.tiny.scenes: a reference with any other word is not scored.
    """
    if not set(_words(reference)) <= _WORLD:
        return Score(None, "")
    (seen, heard), (seen_said, heard_said) = _scene(reference), _scene(answer)
    right = bool(_words(answer)) and heard == heard_said and [k for k, _ in seen] == [k for k, _ in seen_said]
    said = f"seen: {', '.join(f'{c} {k}'.strip() for k, c in seen_said)}; heard: {', '.join(heard_said)}"
    return Score(right, said, right and seen == seen_said)


def _words(text: str) -> list[str]:
    return re.findall(r"[a-z]+", text.lower())


def _scene(text: str) -> tuple[list[tuple[str, str]], list[str]]:
    """(objects seen as (kind, colour), sounds heard), both sorted. What no verb claims is seen if it has a colour."""
    seen, heard, pending, color = [], [], [], ""
    for word in _words(text):
        if word in COLORS:
            color = word
        elif word in KINDS:
            pending.append((word, color))
            color = ""
        elif word in _SEEN_WORDS:
            seen, pending = seen + pending, []
        elif word in _HEARD_WORDS:
            heard, pending = heard + [kind for kind, _ in pending], []
    seen += [(kind, color) for kind, color in pending if color]
    heard += [kind for kind, color in pending if not color]
    return sorted(seen), sorted(heard)


# --- metrics --------------------------------------------------------------------------------------------------------


def accuracy(scores: Iterable[Score]) -> dict:
    """n, how many are right, their share and its Wilson interval."""
    scored = [s.right for s in scores if s.right is not None]
    low, high = wilson(sum(scored), len(scored))
    return {"n": len(scored), "right": sum(scored), "accuracy": _share(sum(scored), len(scored)), "low": low, "high": high}


def judgement(labels: Sequence[str], said: Sequence[str]) -> dict:
    """Precision, recall, F1 with Yes as the positive class, and the share of all questions answered yes."""
    hits = sum(label == s == "Yes" for label, s in zip(labels, said, strict=True))
    n_said, n_label = said.count("Yes"), labels.count("Yes")
    precision, recall = _share(hits, n_said), _share(hits, n_label)
    undefined = [name for name, n in (("precision", n_said), ("recall", n_label), ("f1", hits)) if n == 0]
    return {
        "precision": precision,
        "recall": recall,
        "f1": _share(2 * precision * recall, precision + recall),
        "yes_share": _share(n_said, len(said)),
        "unknown": said.count(UNKNOWN),
        "undefined": undefined,
    }


def text_majority(questions: Sequence[Question]) -> float:
    """Accuracy of the majority label among all questions with the same task and text: flatters where texts are rare."""
    labels: dict[tuple[str, str], Counter] = defaultdict(Counter)
    for q in questions:
        labels[q.task, q.text][q.label] += 1
    return _share(sum(max(counts.values()) for counts in labels.values()), len(questions))


def text_only_prior(questions: Sequence[Question]) -> float:
    """Accuracy of the majority label among the *other* questions with the same task and text; a tie counts half."""
    labels: dict[tuple[str, str], Counter] = defaultdict(Counter)
    for q in questions:
        labels[q.task, q.text][q.label] += 1
    total = 0.0
    for q in questions:
        others = labels[q.task, q.text].copy()
        others[q.label] -= 1
        best = max(others.values())
        winners = [label for label, count in others.items() if count == best]
        total += (q.label in winners) / max(len(winners), 2 if best == 0 else 1)
    return _share(total, len(questions))


def _share(part: float, whole: float) -> float:
    return part / whole if whole else 0.0
