"""The evaluation loop: every question by every method, clip by clip, each clip decoded and encoded once."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from tqdm import tqdm

from eval.benchmarks.annotations import Dataset, Question
from eval.store import Store
from fastav.errors import UserError

_LEFT_OUT = ("token_runs", "layers_seen")  # a number per token each: too long for thousands of records
_HASHED_WHOLE_BYTES = 100_000_000
_ROOT = Path(__file__).resolve().parents[1]


def run(session, dataset: Dataset, questions: Sequence[Question], methods: Sequence[str], store: Store) -> None:
    """Ask what is not yet in the store. `methods` are full text forms; the first one is vanilla.

    Per question the methods follow one another on the same clip, and who begins takes turns, so that none profits from
    the other's warm caches. fvcore counts once per method. Peak memory costs an extra pass on a CPU: there only the first
    question of each clip has it.
    """
    counted = {method for (_, method), r in store.records.items() if r.get("result", {}).get("flops_fvcore")}
    everywhere = session.device.type == "cuda"
    todo = {(q.key, method) for q in questions for method in methods if "result" not in store.records.get((q.key, method), {})}
    total = len(questions) * len(methods)
    with tqdm(total=total, initial=total - len(todo), unit="answer", desc=dataset.name) as bar:
        for group in by_clip(questions):
            if not any((q.key, method) in todo for q in group for method in methods):
                continue
            clip = _attempt(session.read, dataset.videos / f"{group[0].clip}.mp4")
            for q in group:
                for method in _turn(methods, q.position):
                    if (q.key, method) not in todo:
                        continue
                    outcome = clip
                    if not isinstance(clip, UserError):
                        outcome = _attempt(
                            session.answer,
                            clip,
                            q.prompt,
                            method,
                            fvcore=method not in counted,
                            peak=everywhere or q is group[0],
                        )
                    store.add(_record(q, method, outcome))
                    if not isinstance(outcome, UserError):
                        counted.add(method)
                    bar.update()
            store.sync()


def by_clip(questions: Sequence[Question]) -> Iterator[list[Question]]:
    """The questions of each clip, in the order in which clips first appear."""
    groups: dict[str, list[Question]] = {}
    for q in questions:
        groups.setdefault(q.clip, []).append(q)
    yield from groups.values()


def _turn(methods: Sequence[str], position: int) -> list[str]:
    first = position % len(methods)
    return [*methods[first:], *methods[:first]]


def _attempt(call, *args, **kwargs):
    """What the call returns, or the UserError it raises: one clip or question that fails must not stop the others."""
    try:
        return call(*args, **kwargs)
    except UserError as error:
        return error


def _record(question: Question, method: str, outcome) -> dict:
    record = {
        "key": question.key,
        "method": method,
        "clip": question.clip,
        "task": question.task,
        "text": question.text,
        "label": question.label,
    }
    if isinstance(outcome, UserError):
        return {**record, "error": str(outcome)}
    result = {name: value for name, value in outcome.to_dict().items() if name not in _LEFT_OUT}
    return {**record, "result": result}


def weights_sha256(checkpoint: str) -> str:
    """Tells one set of weights from another under the same path; "" where `checkpoint` is no local file or folder.

    Relative paths start here or at the repository root, as the built-in model's does.
    Files over 100 MB enter with their size and their first and last MB, which differ between any two trained checkpoints.
    """
    path = next((p for base in (Path(), _ROOT) if (p := base / checkpoint).exists()), None)
    if path is None:
        return ""
    files = [path] if path.is_file() else sorted(p for s in ("safetensors", "bin", "json") for p in path.glob(f"*.{s}"))
    digest = hashlib.sha256()
    for file in files:
        size = file.stat().st_size
        digest.update(f"{file.name} {size}\n".encode())
        with file.open("rb") as stream:
            if size <= _HASHED_WHOLE_BYTES:
                digest.update(stream.read())
            else:
                digest.update(stream.read(1_000_000))
                stream.seek(size - 1_000_000)
                digest.update(stream.read())
    return digest.hexdigest()
