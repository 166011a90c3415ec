"""Records of a run -> its Summary. Pure. Verdicts are read from the records: nothing is decided again."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import fields
from itertools import combinations
from statistics import fmean, median, stdev

from eval.dataset import Dataset
from eval.scorers.scorer import UNKNOWN, Metrics, Score
from eval.store import verdicts
from eval.summary import (
    Clutter,
    Error,
    Header,
    MethodSummary,
    NotCovered,
    Pair,
    Repeated,
    Seeds,
    Spread,
    Summary,
    TaskDifference,
    TaskSummary,
    Unread,
    Wordings,
)
from fastav import stats
from fastav.question import Question
from fastav.stats import Difference, Share

_SEED = re.compile(r"(?<=[:,])seed=\d+,?|,seed=\d+")
_RANDOM = re.compile(r"\b(?:rule|fine)=random\b(?!\.)")  # in a method's text form

Questions = Sequence[Question]
Columns = Mapping[str, Questions]  # title -> its questions
Scores = Mapping[str, Score]  # of one method: question key -> verdict, where there is an answer


def summarise(dataset: Dataset, questions: Questions, records: Mapping[tuple, dict], settings: Mapping) -> Summary:
    """`records` and `settings` as in the store; settings["methods"] begin with vanilla."""
    n_asked = {m["method"]: sum((q.key, m["method"]) in records for q in questions) for m in settings["methods"]}
    covered = [m for m in settings["methods"] if n_asked[m["method"]] == len(questions)]
    methods = [m["method"] for m in covered]
    scores = {m: _scores(m, dataset, questions, records) for m in methods}
    columns = _columns(dataset, questions)
    return Summary(
        **{field.name: settings[field.name] for field in fields(Header)},
        varies=_varies(records[q.key, m].get("result") for q in questions for m in methods),
        questions=len(questions),
        questions_in_set=len(dataset.questions),
        clips=len({q.clip_id for q in questions}),
        repeated=_repeated(questions),
        methods=tuple(_method(m, questions, columns, scores[m["method"]], records, dataset) for m in covered),
        not_covered=tuple(NotCovered(**m, asked=n_asked[m["method"]]) for m in settings["methods"] if m not in covered),
        differences={
            m: {title: _difference(of, scores[m], scores[methods[0]]) for title, of in columns.items()} for m in methods[1:]
        },
        task_differences={m: _task_differences(questions, scores[m], scores[methods[0]]) for m in methods[1:]},
        pairs=tuple(_pair(a, b, questions, columns, scores, records) for a, b in combinations(methods[1:], 2)),
        seeds=_seeds(covered, columns, scores),
        baselines=_baselines(columns, dataset) if any(scores.values()) else {},
        errors=tuple(
            Error(m, q.key, q.clip_id, q.text, r["error"], r["error_kind"])
            for q in questions
            for m in methods
            if "error" in (r := records[q.key, m])
        ),
        unread_answers=tuple(
            Unread(m, q.key, q.text, records[q.key, m]["result"]["answer"], unread)
            for q in questions
            if (unread := dataset.scorer(q).unread)
            for m in methods
            if q.key in scores[m] and scores[m][q.key].said == UNKNOWN
        ),
    )


def _scores(method: str, dataset: Dataset, questions: Questions, records: Mapping[tuple, dict]) -> Scores:
    """The stored verdicts of the scorer that each question's task has."""
    found = ((q, records[q.key, method]) for q in questions)
    return {q.key: verdicts(record)[dataset.scorer(q).name] for q, record in found if "result" in record}


def _columns(dataset: Dataset, questions: Questions) -> Columns:
    """The benchmark's columns, then one for each task that is in none of them."""
    pooled = {task for tasks in dataset.columns.values() for task in tasks}
    columns = {title: [q for q in questions if q.task in tasks] for title, tasks in dataset.columns.items()}
    return columns | {task: of for task, of in _by_task(questions).items() if task not in pooled}


def _by_task(questions: Questions) -> dict[str, list[Question]]:
    found: dict[str, list[Question]] = defaultdict(list)
    for q in questions:
        found[q.task].append(q)
    return dict(found)


def _method(entry: Mapping, questions: Questions, columns: Columns, scores: Scores, records, dataset: Dataset) -> MethodSummary:
    """`entry`: label, method and plan_sha256, from the settings."""
    results = [records[q.key, entry["method"]]["result"] for q in questions if q.key in scores]

    def over(field: str, how: Callable = fmean, scale: float = 1.0) -> float | None:
        values = [r[field] * scale for r in results if r[field] is not None]
        return how(values) if values else None

    checked = next((r for r in results if r["flops_fvcore"]), None)
    return MethodSummary(
        **entry,
        errors=len(questions) - len(results),
        columns={title: _share(of, scores) for title, of in columns.items()},
        tasks={task: _task(of, scores, dataset) for task, of in _by_task(questions).items()},
        wordings=_wordings(questions, scores),
        columns_by_clutter=_clutter(columns, scores),
        tasks_by_clutter=_clutter(_by_task(questions), scores),
        flops_relative_percent=over("flops_relative_percent"),
        flops_paper_relative_percent=over("flops_paper_relative_percent"),
        fvcore_off_percent=100 * (checked["flops"] / checked["flops_fvcore"] - 1) if checked else None,
        prefill_median_sec=over("prefill_sec", median),
        per_token_median_sec=over("per_token_sec", median),
        kv_mb=over("kv_bytes", scale=1e-6),
        peak_median_mb=over("peak_bytes", median, 1e-6),
        answers_without_sound=sum(not r["has_audio"] for r in results),
        answers_without_video=sum(not r["has_video"] for r in results),
        devices=tuple(sorted({f"{r['device']}, {r['dtype']}, {r['attn']}" for r in results})),
    )


def _share(questions: Questions, scores: Scores) -> Share:
    """Over the questions that were answered and scored."""
    scored = [q for q in questions if q.key in scores and scores[q.key].value is not None]
    return stats.share([scores[q.key].value for q in scored], [q.clip_id for q in scored])


def _task(questions: Questions, scores: Scores, dataset: Dataset) -> TaskSummary:
    """Of the questions of one task."""
    scorer = dataset.scorer(questions[0])
    answered = [q for q in questions if q.key in scores]
    own = [scores[q.key] for q in answered]
    metrics = scorer.metrics(answered, own) if own else Metrics()
    return TaskSummary(
        **vars(_share(questions, scores)),
        scorer=scorer.name,
        not_scored=sum(s.value is None for s in own),
        metrics=metrics.numbers,
        metric_columns=metrics.columns,
        notes=metrics.notes,
    )


def _seeds(entries: Sequence[Mapping], columns: Columns, scores: Mapping[str, Scores]) -> tuple[Seeds, ...]:
    """`entries` as those of `_method`. A method with one seed is in none."""
    groups: dict[str, list[Mapping]] = defaultdict(list)
    for entry in entries:
        groups[_SEED.sub("", entry["method"])].append(entry)
    found = []
    for method, own in groups.items():
        if len(own) > 1:
            shares = {title: [_share(of, scores[e["method"]]).accuracy for e in own] for title, of in columns.items()}
            spreads = {title: Spread(fmean(x), min(x), max(x), stdev(x)) for title, x in shares.items()}
            found.append(Seeds(method, tuple(e["label"] for e in own), spreads))
    return tuple(found)


def _wordings(questions: Questions, scores: Scores) -> dict[str, Wordings]:
    found = {}
    for task, of in _by_task(questions).items():
        seen, unseen = ([q for q in of if q.wording == how] for how in ("seen", "unseen"))
        if seen or unseen:
            found[task] = Wordings(_share(seen, scores), _share(unseen, scores), _unseen_minus_seen(seen, unseen, scores))
    return found


def _unseen_minus_seen(seen: Questions, unseen: Questions, scores: Scores) -> Difference:
    """Over the facts of a clip that were asked in both wordings."""
    in_seen_words = {(q.clip_id, q.fact): q for q in seen if q.fact is not None}
    pairs = [(q, other) for q in unseen if (other := in_seen_words.get((q.clip_id, q.fact)))]
    return _difference([q for q, _ in pairs], scores, {q.key: scores[other.key] for q, other in pairs if other.key in scores})


def _clutter(groups: Columns, scores: Scores) -> dict[str, Clutter]:
    """Name -> its clean and its cluttered questions apart."""
    found = {}
    for name, of in groups.items():
        clean, cluttered = _clean_and_cluttered(of)
        if clean or cluttered:
            found[name] = Clutter(_share(clean, scores), _share(cluttered, scores))
    return found


def _clean_and_cluttered(questions: Questions) -> tuple[Questions, Questions]:
    """A question whose set does not say is in neither."""
    clean, cluttered = ([q for q in questions if q.cluttered is how] for how in (False, True))
    return clean, cluttered


def _task_differences(questions: Questions, scores: Scores, vanilla: Scores) -> dict[str, TaskDifference]:
    found = {}
    for task, of in _by_task(questions).items():
        found[task] = TaskDifference(*(_difference(part, scores, vanilla) for part in (of, *_clean_and_cluttered(of))))
    return found


def _difference(questions: Questions, a: Scores, b: Scores) -> Difference:
    """a - b over the questions that both answered."""
    both = [(q, a[q.key].value, b[q.key].value) for q in questions if q.key in a and q.key in b]
    scored = [(q, of_a, of_b) for q, of_a, of_b in both if of_a is not None and of_b is not None]
    return stats.paired([of_a for _, of_a, _ in scored], [of_b for *_, of_b in scored], [q.clip_id for q, *_ in scored])


def _pair(a: str, b: str, questions: Questions, columns: Columns, scores: Mapping[str, Scores], records) -> Pair:
    """Where one of them removes at random, that one is b."""
    if _RANDOM.search(a) and not _RANDOM.search(b):
        a, b = b, a
    both = [
        (records[q.key, a]["result"], records[q.key, b]["result"]) for q in questions if q.key in scores[a] and q.key in scores[b]
    ]
    return Pair(
        a,
        b,
        against_random=bool(_RANDOM.search(b)),
        same_lengths=all(of_a["lengths"] == of_b["lengths"] for of_a, of_b in both),
        columns={title: _difference(of, scores[a], scores[b]) for title, of in columns.items()},
    )


def _varies(results: Iterable[dict | None]) -> dict[str, dict[str, int]]:
    counts: dict[str, Counter] = defaultdict(Counter)
    for result in filter(None, results):
        of = {"device": result["device"], "FastAV's commit": result["fastav"].get("commit"), **result["versions"]}
        for name, value in of.items():
            counts[name][str(value)] += 1
    return {name: dict(values) for name, values in counts.items() if len(values) > 1}


def _baselines(columns: Columns, dataset: Dataset) -> dict[str, dict[str, float]]:
    """Of each column whose tasks have one and the same scorer: what that scorer tells of its questions."""
    found: dict[str, dict[str, float]] = defaultdict(dict)
    for title, questions in columns.items():
        scorers = {scorer.name: scorer for scorer in map(dataset.scorer, questions)}
        if len(scorers) == 1:
            (scorer,) = scorers.values()
            for name, share in scorer.baselines(questions).items():
                found[name][title] = share
    return dict(found)


def _repeated(questions: Questions) -> Repeated:
    labels: dict[tuple, Counter] = defaultdict(Counter)
    for q in questions:
        labels[q.clip_id, q.task, q.text][q.label] += 1
    again = [counts for counts in labels.values() if counts.total() > 1]
    return Repeated(texts=len(again), contradictory=sum(len(counts) > 1 for counts in again))
