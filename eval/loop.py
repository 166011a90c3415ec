"""The evaluation loop: every question by every method, clip by clip, each clip decoded and encoded once, each answer scored."""

from __future__ import annotations

import json
import sys
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass

from tqdm import tqdm

from eval.dataset import Dataset
from eval.scorers.scorer import Scorer
from eval.store import Store
from fastav.errors import UserError, out_of_memory
from fastav.question import Question

_LEFT_OUT = ("token_runs", "layers_seen")  # a number per token each: too long for thousands of records


@dataclass(frozen=True)
class Failure:
    """Why there is no answer: kind is "UserError", "out of memory" or the exception's type."""

    kind: str
    text: str


def run(session, dataset: Dataset, questions: Sequence[Question], methods: Mapping[str, str | None], store: Store) -> None:
    """Ask what is not yet in the store. `methods`: full text form -> digest of the plan it names; the first one is vanilla.

    Per question the methods follow one another on the same clip. Each begins in turn, so that none profits from the warm
    caches of the others. fvcore counts once per method. Peak memory costs an extra pass on a CPU: there only the first
    question of each clip has it. An exception of one question is its record, and the run goes on.
    Raises UserError when a plan or an answered clip changes under way, or when there is no room for a record.
    """
    counted = {method for (_, method), r in store.records.items() if r.get("result", {}).get("flops_fvcore")}
    known = {r["clip_id"]: r["result"]["clip_sha256"] for r in store.records.values() if "result" in r}
    everywhere = session.device.type == "cuda"
    todo = {(q.key, method) for q in questions for method in methods if "result" not in store.records.get((q.key, method), {})}
    total = len(questions) * len(methods)
    attempt = _Attempts(session)
    with tqdm(total=total, initial=total - len(todo), unit="answer", desc=dataset.name) as bar:
        for group in by_clip(questions):
            if not any((q.key, method) in todo for q in group for method in methods):
                continue
            clip_id = group[0].clip_id
            clip = attempt(session.read, dataset.file(clip_id))
            if not isinstance(clip, Failure) and known.get(clip_id, clip.sha256) != clip.sha256:
                raise UserError(f"clip {clip_id} was replaced while the run went on; put it back")
            for q in group:
                for method in _turn(list(methods), q.position):
                    if (q.key, method) not in todo:
                        continue
                    outcome = clip
                    if not isinstance(clip, Failure):
                        peak = everywhere or q is group[0]
                        options = {"fvcore": method not in counted, "peak": peak}
                        outcome = attempt(_ask, session, clip, q, dataset.scorer(q), method, options)
                    if not isinstance(outcome, Failure):
                        if outcome["result"]["plan_sha256"] != methods[method]:
                            raise UserError(f"the plan of {method} changed while the run went on; put it back")
                        counted.add(method)
                    store.add(_record(q, method, outcome))
                    bar.update()
            store.sync()


def by_clip(questions: Sequence[Question]) -> Iterator[list[Question]]:
    """The questions of each clip, in the order in which clips first appear."""
    groups: dict[str, list[Question]] = {}
    for q in questions:
        groups.setdefault(q.clip_id, []).append(q)
    yield from groups.values()


class _Attempts:
    """Calls that may fail for one clip or question without stopping the others."""

    def __init__(self, session):
        self._session = session
        self._shown: set[tuple] = set()

    def __call__(self, call, *args, **kwargs):
        """What the call returns, or the Failure that its exception has become."""
        try:
            return call(*args, **kwargs)
        except UserError as error:
            return Failure("UserError", str(error))
        except Exception as error:
            text = " ".join(str(error).split())
            kind = type(error).__name__
            if out_of_memory(error) is None:
                self._show(error)
                return Failure(kind, f"{kind}: {text}")
            failure = Failure("out of memory", f"out of memory: {text or kind}")
        # Only here, where the exception is gone: it held all tensors of the frames it came through.
        with suppress(Exception):  # a GPU that has failed refuses even this
            self._session.free()
        return failure

    def _show(self, error: Exception) -> None:
        """The traceback on stderr, once for each place where one comes from."""
        frame = traceback.extract_tb(error.__traceback__)[-1]
        place = (type(error), frame.filename, frame.lineno)
        if place not in self._shown:
            self._shown.add(place)
            tqdm.write("".join(traceback.format_exception(error)), file=sys.stderr)


def _turn(methods: Sequence[str], position: int) -> list[str]:
    first = position % len(methods)
    return [*methods[first:], *methods[:first]]


def _ask(session, clip, question: Question, scorer: Scorer, method: str, options: dict) -> dict:
    """`result` and `scores` of the record."""
    answer = session.answer(clip, question.prompt, method, **options).to_dict()
    result = {name: value for name, value in answer.items() if name not in _LEFT_OUT}
    outcome = {"result": result, "scores": {scorer.name: asdict(scorer.score(question, result["answer"]))}}
    # As it will be read back; what cannot be written (NaN) fails here, as this question's error.
    return json.loads(json.dumps(outcome, allow_nan=False))


def _record(question: Question, method: str, outcome: dict | Failure) -> dict:
    record = {
        "key": question.key,
        "method": method,
        "clip_id": question.clip_id,
        "task": question.task,
        "text": question.text,
        "label": question.label,
    }
    told = {"cluttered": question.cluttered, "wording": question.wording}
    record |= {name: value for name, value in told.items() if value is not None}
    if isinstance(outcome, Failure):
        return {**record, "error": outcome.text, "error_kind": outcome.kind}
    return {**record, **outcome}
