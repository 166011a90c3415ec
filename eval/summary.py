"""Records of a run -> its numbers, as one plain dict (the JSON document of the run). Pure.

Shares are in 0..1, differences are shares, too; *_percent, *_sec and *_mb carry their unit (MB = 10^6 bytes). The order is
that of the annotations and of the methods, whatever the order of the answers was. A question without an answer (an error)
is in no share: it is counted in `errors` and listed. A method that some of the questions were not put to yet is in no table:
it is listed in `not_covered`.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from itertools import combinations
from statistics import fmean, median

from eval import scoring
from eval.benchmarks.annotations import Dataset, Question
from fastav import stats

_NOT_SHOWN = ("schema", "benchmark", "methods", "folder")
_RANDOM = re.compile(r"\b(?:rule|fine)=random\b(?!\.)")  # in a method's text form


def summarise(dataset: Dataset, questions: Sequence[Question], records: dict, settings: dict) -> dict:
    """`records` and `settings` as in the store; settings["methods"] begin with vanilla."""
    n_asked = {m["method"]: sum((q.key, m["method"]) in records for q in questions) for m in settings["methods"]}
    covered = [m for m in settings["methods"] if n_asked[m["method"]] == len(questions)]
    methods = [m["method"] for m in covered]
    scores = {
        m: {q.key: scoring.score(q, r["result"]["answer"]) for q in questions if "result" in (r := records[q.key, m])}
        for m in methods
    }
    columns = {title: [q for q in questions if q.task in tasks] for title, tasks in dataset.columns.items()}
    columns |= {task: of for task in _tasks(questions, "caption") if (of := [q for q in questions if q.task == task])}
    return {
        "benchmark": dataset.name,
        **{name: value for name, value in settings.items() if name not in _NOT_SHOWN},
        "varies": _varies(records[q.key, m].get("result") for q in questions for m in methods),
        "questions": len(questions),
        "questions_in_set": len(dataset.questions),
        "clips": len({q.clip for q in questions}),
        "repeated": _repeated(questions),
        "methods": [{**m, **_method(m["method"], questions, columns, scores[m["method"]], records, dataset)} for m in covered],
        "not_covered": [{**m, "asked": n_asked[m["method"]]} for m in settings["methods"] if m not in covered],
        "differences": {
            m: {title: _difference(of, scores[m], scores[methods[0]]) for title, of in columns.items()} for m in methods[1:]
        },
        "pairs": [_pair(a, b, questions, columns, scores, records) for a, b in combinations(methods[1:], 2)],
        "baselines": _baselines(columns),
        "errors": [
            {"method": m, **{k: r[k] for k in ("key", "clip", "text", "error", "error_kind")}}
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
        "errors": len(questions) - len(results),
        "columns": {title: _accuracy(of, scores) for title, of in columns.items()},
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


def _accuracy(questions: Sequence[Question], scores: dict) -> dict:
    """n, right, accuracy and its interval, over the questions that were answered and scored."""
    scored = [q for q in questions if q.key in scores and scores[q.key].right is not None]
    low, high = stats.clustered_wilson([scores[q.key].right for q in scored], [q.clip for q in scored])
    return {**scoring.accuracy(scores[q.key] for q in scored), "low": low, "high": high}


def _task(questions: Sequence[Question], scores: dict) -> dict:
    own = [scores[q.key] for q in questions]
    numbers = _accuracy(questions, scores)
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
        of = [q for q in questions if q.task == task]
        split = {how: [q for q in of if dataset.wordings.get(q.text) == how] for how in ("seen", "unseen")}
        found[task] = {how: _accuracy(own, scores) for how, own in split.items()}
    return found


def _difference(questions: Sequence[Question], a: dict, b: dict) -> dict:
    """a - b over the questions that both answered, see stats.paired."""
    both = [q for q in questions if q.key in a and q.key in b and a[q.key].right is not None]
    return stats.paired([a[q.key].right for q in both], [b[q.key].right for q in both], [q.clip for q in both])


def _pair(a: str, b: str, questions, columns: dict, scores: dict, records: dict) -> dict:
    """Pruning method a - pruning method b per column. Where one of them removes at random, that one is b."""
    if _RANDOM.search(a) and not _RANDOM.search(b):
        a, b = b, a
    both = [
        (records[q.key, a]["result"], records[q.key, b]["result"]) for q in questions if q.key in scores[a] and q.key in scores[b]
    ]
    return {
        "a": a,
        "b": b,
        "against_random": bool(_RANDOM.search(b)),
        "same_lengths": all(of_a["lengths"] == of_b["lengths"] for of_a, of_b in both),
        "columns": {title: _difference(of, scores[a], scores[b]) for title, of in columns.items()},
    }


def _varies(results: Iterable[dict | None]) -> dict[str, dict[str, int]]:
    """What produced the answers, where it was not the same for all of them: name -> value -> answers."""
    counts: dict[str, Counter] = defaultdict(Counter)
    for result in filter(None, results):
        of = {"device": result["device"], "FastAV's commit": result["fastav"].get("commit"), **result["versions"]}
        for name, value in of.items():
            counts[name][str(value)] += 1
    return {name: dict(values) for name, values in counts.items() if len(values) > 1}


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
