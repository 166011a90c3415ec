"""Captions of the procedural world (fastav.tiny.render): right when they name exactly its objects and its sounds, none twice.

A reference with any word that those captions do not have is of real footage: its answers are not scored.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from eval.scorers.scorer import Metrics, Score, Scorer, percent
from fastav.question import Question
from fastav.tiny.drawing import COLORS, KINDS

_SEEN_WORDS, _HEARD_WORDS = {"visible", "seen"}, {"heard", "audible"}
_WORLD = {*KINDS, *COLORS, *_SEEN_WORDS, *_HEARD_WORDS, *"a an and the is are nothing no object objects sound sounds".split()}


@dataclass(frozen=True)
class Caption(Scorer):
    """`said` is what the caption was read as; colours make no answer wrong and are counted apart."""

    name = "caption"

    def score(self, question: Question, answer: str) -> Score:
        if not set(_words(question.label)) <= _WORLD:
            return Score(None, "", "not a caption of the procedural world")
        (seen, heard), (seen_said, heard_said) = _scene(question.label), _scene(answer)
        wrong = []
        if not _words(answer):
            wrong.append("no words")
        if [kind for kind, _ in seen] != [kind for kind, _ in seen_said]:
            wrong.append("other objects")
        if heard != heard_said:
            wrong.append("other sounds")
        colors = [] if seen == seen_said or wrong else ["other colours"]
        return Score(not wrong, _text(seen_said, heard_said), ", ".join(wrong + colors))

    def metrics(self, questions: Sequence[Question], scores: Sequence[Score]) -> Metrics:
        n = sum(s.value is not None for s in scores)
        with_colors = sum(s.value is True and not s.explanation for s in scores)
        if n == len(scores):
            note = f"right = exactly the objects and sounds; with every colour, too: {percent(with_colors / n)} %"
        else:
            note = f"{len(scores) - n} captions not scored (real footage needs a judge)"
        return Metrics({"right_with_colors": with_colors}, notes=(note,))


def _words(text: str) -> list[str]:
    return re.findall(r"[a-z]+", text.lower())


def _text(seen: list[tuple[str, str]], heard: list[str]) -> str:
    return f"seen: {', '.join(f'{color} {kind}'.strip() for kind, color in seen)}; heard: {', '.join(heard)}"


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
