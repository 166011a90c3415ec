"""Answer text -> right or wrong; right and wrong -> the metrics of a task. Pure: no model, no file.

Shares are in 0..1; a division by zero gives 0.0 and is named in `undefined`.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from eval.benchmarks.annotations import Question
from eval.yes_no import UNKNOWN, yes_no
from fastav.stats import wilson
from fastav.tiny.drawing import COLORS, KINDS


@dataclass(frozen=True)
class Score:
    """What was made of one answer."""

    right: bool | None  # None: this kind of answer is not scored (a caption of real footage needs a judge)
    said: str  # "Yes", "No" or "unknown"; the normalised word; what a caption was read as
    with_colors: bool | None = None  # captions: right, and every object in its colour


def score(question: Question, answer: str) -> Score:
    """The score of one answer, by the kind of its task."""
    if question.kind == "yes-no":
        said = yes_no(answer, question)
        return Score(said == question.label, said)
    if question.kind == "word":
        said = normalise(answer)
        return Score(said == normalise(question.label), said)
    return caption(question.label, answer)


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
