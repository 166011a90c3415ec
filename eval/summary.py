"""Records of a run -> its numbers, as one plain dict (the JSON document of the run). Pure.

Shares are in 0..1, differences are shares, too; *_percent, *_sec and *_mb carry their unit (MB = 10^6 bytes). The order is
that of the annotations and of the methods, whatever the order of the answers was. A question without an answer (an error)
is in no share: it is counted in `errors` and listed.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from statistics import fmean, median

from eval import scoring, stats
from eval.benchmarks.annotations import Dataset, Question


def summarise(dataset: Dataset, questions: Sequence[Question], records: dict, settings: dict) -> dict:
    """`records` and `settings` as in the store; settings["forms"] are the methods in full, vanilla first."""
    methods = settings["forms"]
    scores = {
        m: {q.key: scoring.score(q, r["result"]["answer"]) for q in questions if "result" in (r := records[q.key, m])}
        for m in methods
    }
    columns = {title: [q for q in questions if q.task in tasks] for title, tasks in dataset.columns.items()}
    columns |= {task: of for task in _tasks(questions, "caption") if (of := [q for q in questions if q.task == task])}
    return {
        "benchmark": dataset.name,
        **{name: value for name, value in settings.items() if name not in ("benchmark", "methods", "forms")},
        "questions": len(questions),
        "clips": len({q.clip for q in questions}),
        "repeated": _repeated(questions),
        "methods": [
            {"label": label, **_method(m, questions, columns, scores[m], records, dataset)}
            for label, m in zip(settings["methods"], methods, strict=True)
        ],
        "differences": {
            m: {title: _difference(of, scores[m], scores[methods[0]]) for title, of in columns.items()} for m in methods[1:]
        },
        "baselines": _baselines(columns),
        "errors": [
            {"method": m, **{k: r[k] for k in ("key", "clip", "text", "error")}}
            for q in questions
            for m in methods
            if "error" in (r := records[q.key, m])
        ],
        "unknown_answers": [
            {"method": m, "key": q.key, "text": q.text, "answer": records[q.key, m]["result"]["answer"]}
            for q in questions
            for m in methods
            if q.key in scores[m] and q.kind == "yes-no" and scores[m][q.key].said == scoring.UNKNOWN
        ],
    }


def _tasks(questions: Sequence[Question], *kinds: str) -> list[str]:
    return list(dict.fromkeys(q.task for q in questions if not kinds or q.kind in kinds))


def _method(method: str, questions, columns, scores: dict, records: dict, dataset: Dataset) -> dict:
    results = [records[q.key, method]["result"] for q in questions if q.key in scores]

    def over(field: str, how: Callable = fmean, scale: float = 1.0):
        values = [r[field] * scale for r in results if r[field] is not None]
        return how(values) if values else None

    checked = next((r for r in results if r["flops_fvcore"]), None)
    return {
        "method": method,
        "errors": len(questions) - len(results),
        "columns": {title: scoring.accuracy(scores[q.key] for q in of if q.key in scores) for title, of in columns.items()},
        "tasks": {
            task: _task([q for q in questions if q.task == task and q.key in scores], scores) for task in _tasks(questions)
        },
        "wordings": _wordings(questions, scores, dataset),
        "flops_relative_percent": over("flops_relative_percent"),
        "flops_paper_relative_percent": over("flops_paper_relative_percent"),
        "fvcore_off_percent": 100 * (checked["flops"] / checked["flops_fvcore"] - 1) if checked else None,
        "prefill_median_sec": over("prefill_sec", median),
        "per_token_median_sec": over("per_token_sec", median),
        "kv_mb": over("kv_bytes", scale=1e-6),
        "peak_median_mb": over("peak_bytes", median, 1e-6),
        "answers_without_sound": sum(not r["has_audio"] for r in results),
        "answers_without_video": sum(not r["has_video"] for r in results),
        "devices": sorted({f"{r['device']}, {r['dtype']}, {r['attn']}" for r in results}),
    }


def _task(questions: Sequence[Question], scores: dict) -> dict:
    own = [scores[q.key] for q in questions]
    numbers = scoring.accuracy(own)
    kind = questions[0].kind if questions else ""
    if kind == "yes-no":
        numbers |= scoring.judgement([q.label for q in questions], [s.said for s in own])
    if kind == "caption":
        numbers["right_with_colors"] = sum(bool(s.with_colors) for s in own)
        numbers["not_scored"] = sum(s.right is None for s in own)
    return numbers


def _wordings(questions: Sequence[Question], scores: dict, dataset: Dataset) -> dict:
    """Task -> accuracy on wordings seen and unseen in training, where the set says which is which."""
    found: dict[str, dict] = {}
    for task in _tasks(questions) if dataset.wordings else ():
        of = [q for q in questions if q.task == task and q.key in scores]
        split = {how: [scores[q.key] for q in of if dataset.wordings.get(q.text) == how] for how in ("seen", "unseen")}
        found[task] = {how: scoring.accuracy(own) for how, own in split.items()}
    return found


def _difference(questions: Sequence[Question], a: dict, b: dict) -> dict:
    """a - b over the questions that both answered, see stats.paired."""
    both = [q for q in questions if q.key in a and q.key in b and a[q.key].right is not None]
    return stats.paired([a[q.key].right for q in both], [b[q.key].right for q in both], [q.clip for q in both])


def _baselines(columns: dict[str, list[Question]]) -> dict:
    """Per column of yes / no questions: always yes, the majority label per text, and the same without the question itself."""
    judged = {title: of for title, of in columns.items() if of and all(q.kind == "yes-no" for q in of)}
    return {
        "always_yes": {t: sum(q.label == "Yes" for q in of) / len(of) for t, of in judged.items()},
        "text_majority": {t: scoring.text_majority(of) for t, of in judged.items()},
        "text_only_prior": {t: scoring.text_only_prior(of) for t, of in judged.items()},
    }


def _repeated(questions: Sequence[Question]) -> dict:
    """Questions asked again of the same clip in the same words, and how many of those texts carry contradictory labels."""
    labels: dict[tuple, Counter] = defaultdict(Counter)
    for q in questions:
        labels[q.clip, q.task, q.text][q.label] += 1
    again = [counts for counts in labels.values() if counts.total() > 1]
    return {"texts": len(again), "contradictory": sum(len(counts) > 1 for counts in again)}
