"""Annotation files in AVHBench's schema -> questions. What all benchmarks of this schema share.

The file is one JSON array of flat records with four text fields: video_id, task, text, label. There is no question id, and
(video_id, task, text) is not unique (AVHBench has such pairs, two of them with contradictory labels), so a question is
known by its position in the file together with the hash of its record.

A record may tell more of its question: `cluttered` (true: the clip has a textured or moving background, noise, a hum),
`wording` ("seen" or "unseen" in training) and `fact` (a text: questions of one clip and task with the same one ask the same
thing in other words). Any other field counts for the hash alone.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path

from eval.scorers.scorer import Scorer
from fastav.errors import UserError
from fastav.question import Question

FIELDS = ("video_id", "task", "text", "label")
OPTIONAL = {  # field -> whether a value is allowed, and what is
    "cluttered": (lambda value: isinstance(value, bool), "true or false"),
    "wording": (lambda value: value in ("seen", "unseen"), "seen or unseen"),
    "fact": (lambda value: isinstance(value, str) and value != "", "a text"),
}


def find(root: Path, files: tuple[str, ...], packings: tuple[str, ...] = ("",)) -> tuple[Path, Path]:
    """(annotation file, videos folder) under `root`: the first of `files` that is there, and `videos/` or `video/`.

    `packings` are folders below `root` that may hold the whole set. Raises UserError listing what was looked for.
    """
    if not root.is_dir():
        raise UserError(f"data root {str(root)!r} is not a folder")
    bases = [root / packing for packing in packings]
    annotations = next((p for base in bases for f in files if (p := base / f).is_file()), None)
    if annotations is None:
        looked = ", ".join(str(Path(packing) / f) for packing in packings for f in files)
        raise UserError(f"no annotation file in {str(root)!r}; looked for {looked}")
    videos = next((p for base in bases for f in ("videos", "video") if (p := base / f).is_dir()), None)
    if videos is None:
        raise UserError(f"no folder of clips beside {str(annotations)!r}; looked for videos and video")
    return annotations, videos


def read(
    annotations: Path, scorers: Mapping[str, Scorer], aliases: Mapping[str, str], instructions: Mapping[str, str]
) -> tuple[tuple[Question, ...], str]:
    """(questions, sha256 of the file). `scorers` has the allowed tasks; `instructions`: task -> what is added to its questions.

    Raises UserError for a file that is no such array, naming the first record that is wrong.
    """
    data = annotations.read_bytes()
    try:
        records = json.loads(data)
    except ValueError as error:
        raise UserError(f"{str(annotations)!r} is not JSON: {error}") from None
    if not isinstance(records, list) or not records:
        raise UserError(f"{str(annotations)!r} must be a JSON array of records, one per question")
    questions = []
    for position, record in enumerate(records):
        where = f"record {position} of {str(annotations)!r}"
        if not isinstance(record, dict) or not all(isinstance(record.get(field), str) for field in FIELDS):
            raise UserError(f"{where} must have the text fields {', '.join(FIELDS)}, got {record!r:.200}")
        task = aliases.get(record["task"], record["task"])
        if task not in scorers:
            hint = " (single-modality copies of other questions: take them out)" if "_only" in task else ""
            raise UserError(f"{where} has the unknown task {task!r}{hint}; allowed: {', '.join([*scorers, *aliases])}")
        allowed = scorers[task].labels
        if allowed and record["label"] not in allowed:
            raise UserError(f"{where} must be labelled {' or '.join(allowed)}, got {record['label']!r}")
        told = {field: record[field] for field in OPTIONAL if field in record}
        for field, value in told.items():
            fits, what = OPTIONAL[field]
            if not fits(value):
                raise UserError(f"{where} has the field {field}, which must be {what}, got {value!r:.200}")
        digest = hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()[:12]
        questions.append(
            Question(
                position=position,
                key=f"{position}-{digest}",
                clip_id=record["video_id"],
                task=task,
                text=record["text"],
                prompt=record["text"] + instructions.get(task, ""),
                label=record["label"],
                **told,
            )
        )
    return tuple(questions), hashlib.sha256(data).hexdigest()


def mp4(videos: Path) -> Callable[[str], Path]:
    """clip_id -> the file of that name in the folder."""
    return lambda clip_id: videos / f"{clip_id}.mp4"
