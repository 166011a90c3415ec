"""What questions give away without their clips: shares in 0..1 of right answers by rules that read the text alone. Pure."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence

from eval.scorers.scorer import share
from fastav.question import Question


def text_majority(questions: Sequence[Question]) -> float:
    """Accuracy of the majority label among all questions with the same task and text: flatters where texts are rare."""
    return share(sum(max(counts.values()) for counts in _labels(questions).values()), len(questions))


def text_only_prior(questions: Sequence[Question]) -> float:
    """Accuracy of the majority label among the *other* questions with the same task and text; a tie counts half."""
    labels = _labels(questions)
    total = 0.0
    for q in questions:
        others = labels[q.task, q.text].copy()
        others[q.label] -= 1
        best = max(others.values())
        winners = [label for label, count in others.items() if count == best]
        total += (q.label in winners) / max(len(winners), 2 if best == 0 else 1)
    return share(total, len(questions))


def _labels(questions: Sequence[Question]) -> dict[tuple[str, str], Counter]:
    """(task, text) -> how often each label."""
    labels: dict[tuple[str, str], Counter] = defaultdict(Counter)
    for q in questions:
        labels[q.task, q.text][q.label] += 1
    return labels
