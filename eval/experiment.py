"""Which answers belong together: what names an experiment, and the checks before a run goes on or is reported again.

An answer depends on the question, the clip, the weights, the method with its plan, dtype, attention and FastAV itself. Its
verdict depends on the scorers. Where one of them differs, what is found on disk is of another experiment and is refused.

FastAV and the scorers are no part of the command. A finished run is reported with the answers and verdicts that it stored,
whatever has become of the two since. Libraries and machine may change on the way: every record names its own, and the report
tells when they vary.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

from tqdm import tqdm

from eval import scorers
from eval.dataset import Dataset
from eval.scorers.scorer import Scorer
from eval.store import SCHEMA, Store
from fastav import methods, provenance
from fastav.errors import UserError
from fastav.plan import Plan
from fastav.question import Question

_SAME = ("benchmark", "annotations_sha256", "scorers_sha256", "model", "weights_sha256", "dtype", "attn")
_WAY_OUT = "give another --output, or --fresh to start over"


def plans(typed: Sequence[str], model: str) -> dict[str, str | None]:
    """Method as typed -> digest of the plan it names, or None.

    Raises UserError for an unknown method, a file that is no plan or a plan of another model.
    """
    for text in typed:
        methods.parse(text)
        if file := provenance.plan_file(text):
            Plan.read(file, model=model)
    return {text: provenance.plan_sha256(text) for text in typed}


def code(dataset: Dataset) -> dict:
    """What new answers and verdicts come from: compared before a run goes on, not where it is only reported."""
    return {"fastav": provenance.fastav(), "scorers_sha256": scorers_sha256(dataset.scorers)}


def scorers_sha256(of: Mapping[str, Scorer]) -> str:
    """Digest of the source of eval/scorers/ and of which scorer, with which settings, each task has."""
    digest = hashlib.sha256(repr(sorted((task, repr(scorer)) for task, scorer in of.items())).encode())
    for file in sorted(Path(scorers.__file__).parent.glob("*.py")):
        digest.update(file.read_bytes())
    return digest.hexdigest()


def settings(session, asked: dict, forms: dict[str, str], digests: dict[str, str | None], found: dict | None) -> dict:
    """The header of a run: what names its answers, and the libraries and the machine that it began with.

    asked: what the command says, and `code`; forms: method as typed -> full text form; digests: see `plans`; found: the header on
    disk, to which new methods are added, or None.
    Raises UserError when the run found there is another experiment.
    """
    now = {"schema": SCHEMA, **asked, "folder": str(session.folder.absolute()), **session.provenance}
    new = [{"label": text, "method": form, "plan_sha256": digests[text]} for text, form in forms.items()]
    if found is None:
        return {**now, "methods": new}
    check(found, now)
    there = {entry["method"]: entry for entry in found["methods"]}
    for entry in new:
        _check_plan(there.get(entry["method"], entry), entry["plan_sha256"])
    return {**found, "methods": [*found["methods"], *(entry for entry in new if entry["method"] not in there)]}


def check(found: dict, now: dict) -> None:
    """Raises UserError naming the first setting in `now` that the run found on disk has otherwise."""
    for name in _SAME:
        if name in now and found[name] != now[name]:
            raise UserError(f"the records there are of other {name}: there {found[name]}, now {now[name]}; {_WAY_OUT}")
    if "fastav" in now and _source(found["fastav"]) != _source(now["fastav"]):
        there, here = named(found["fastav"]), named(now["fastav"])
        raise UserError(f"the records there are of another FastAV: there {there}, now {here}; {_WAY_OUT}")


def check_found(
    store: Store, asked: dict, digests: dict[str, str | None], dataset: Dataset, questions: Sequence[Question]
) -> None:
    """All that can be told of the run on disk without loading a model, whether it will go on or only be reported.

    Raises UserError where an answer is of another experiment.
    """
    found = store.settings
    check(found, asked)
    for entry in found["methods"]:
        _check_plan(entry, digests.get(entry["label"], entry["plan_sha256"]))
    folder = Path(found["folder"])
    if same_checkpoint(found, asked) and folder.is_dir():
        check(found, {"weights_sha256": provenance.weights_sha256(folder)})
    _check_answers(store, dataset, questions)


def same_checkpoint(found: dict, asked: dict) -> bool:
    """Whether the command names the checkpoint as it was named there."""
    return all(found[name] == asked[name] for name in ("checkpoint", "revision"))


def finished(store: Store, asked: dict, typed: Sequence[str], questions: Sequence[Question]) -> bool:
    """True when every answer that the command asks for is there."""
    if store.settings is None or not same_checkpoint(store.settings, asked):
        return False
    forms = {entry["label"]: entry["method"] for entry in store.settings["methods"]}
    return all("result" in store.records.get((q.key, forms.get(text)), {}) for q in questions for text in typed)


def named(fastav: dict) -> str:
    """FastAV in words: version, commit of a checkout, beginning of the digest of its source."""
    commit = f"commit {fastav['commit']}, " if fastav["commit"] else ""
    return f"{fastav['version']} ({commit}source {fastav['source_sha256'][:12]})"


def _source(fastav: dict) -> tuple:
    return fastav["version"], fastav["source_sha256"]  # a commit that leaves the source as it was changes no answer


def _check_plan(entry: dict, now: str | None) -> None:
    if entry["plan_sha256"] != now:
        raise UserError(
            f"the records of {entry['label']} are of another plan in the same file: sha256 there {entry['plan_sha256']}, "
            f"now {now}; put the plan back or give it another name, or {_WAY_OUT}"
        )


def _check_answers(store: Store, dataset: Dataset, questions: Sequence[Question]) -> None:
    by_key = {q.key: q for q in questions}
    answered = [(q, r) for (key, _), r in store.records.items() if "result" in r and (q := by_key.get(key))]
    clips = {q.clip_id: dataset.file(q.clip_id) for q, _ in answered}
    files = tqdm(clips.items(), unit="clip", desc="checking clips", leave=False, delay=2)
    now = {clip_id: provenance.file_sha256(file) for clip_id, file in files if file.is_file()}
    for question, record in answered:
        result, scorer = record["result"], dataset.scorer(question).name
        if scorer not in record["scores"]:
            found = ", ".join(record["scores"])
            raise UserError(f"the answers to {question.task} were scored by {found or 'nobody'} there, now {scorer}; {_WAY_OUT}")
        if result["question"] != question.prompt:
            raise UserError(f"question {question.key} was asked there in other words: {result['question']!r}; {_WAY_OUT}")
        if now.get(question.clip_id, result["clip_sha256"]) != result["clip_sha256"]:
            raise UserError(
                f"clip {question.clip_id} is another file than the one that was asked about: sha256 there "
                f"{result['clip_sha256']}, now {now[question.clip_id]}; put it back, or {_WAY_OUT}"
            )
