"""Yes / no questions: right when the answer, read by yes_no_reader.py, says what the label says. Unreadable is wrong."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from eval.scorers import baselines
from eval.scorers.scorer import UNKNOWN, Metrics, Score, Scorer, percent, share
from eval.scorers.yes_no_reader import ANYTHING, read
from fastav.question import Question


@dataclass(frozen=True)
class YesNo(Scorer):
    """`said` is "Yes", "No" or UNKNOWN."""

    asked: str = ANYTHING  # what the questions of the task ask for: letters of yes_no_words.py; none: only answer words count

    name = "yes-no"
    labels = ("Yes", "No")
    unread = "neither yes nor no"

    def score(self, question: Question, answer: str) -> Score:
        said, why = read(answer, question.text, self.asked)
        return Score(said == question.label, said, why)

    def metrics(self, questions: Sequence[Question], scores: Sequence[Score]) -> Metrics:
        """Precision, recall, F1 with Yes as the positive class, and the share of all questions answered yes.

        A division by zero gives 0.0 and is named in `undefined`.
        """
        hits = sum(q.label == s.said == "Yes" for q, s in zip(questions, scores, strict=True))
        n_said, n_label = sum(s.said == "Yes" for s in scores), sum(q.label == "Yes" for q in questions)
        precision, recall = share(hits, n_said), share(hits, n_label)
        undefined = [name for name, n in (("precision", n_said), ("recall", n_label), ("f1", hits)) if n == 0]
        numbers = {
            "precision": precision,
            "recall": recall,
            "f1": share(2 * precision * recall, precision + recall),
            "yes_share": share(n_said, len(scores)),
            "unknown": sum(s.said == UNKNOWN for s in scores),
            "undefined": undefined,
        }
        titles = {"precision": "precision", "recall": "recall", "f1": "F1", "yes_share": "yes %"}
        columns = {title: percent(numbers[name]) for name, title in titles.items()} | {"unknown": str(numbers["unknown"])}
        return Metrics(numbers, columns, (f"0 / 0 in {', '.join(undefined)}, shown as 0.0",) if undefined else ())

    def baselines(self, questions: Sequence[Question]) -> dict[str, float]:
        return {
            "always_yes": share(sum(q.label == "Yes" for q in questions), len(questions)),
            "text_majority": baselines.text_majority(questions),
            "text_only_prior": baselines.text_only_prior(questions),
        }
