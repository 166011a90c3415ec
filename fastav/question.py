"""A question about a clip, apart from the benchmark that it comes from. Pure."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Question:
    """One question of an annotation file."""

    position: int  # in the annotation file, from 0
    key: str  # tells it from every other question of the file, e.g. "<position>-<hash of the record>"
    clip_id: str  # the benchmark's own name for the clip
    task: str  # the benchmark's own name for the task
    text: str  # as annotated
    prompt: str  # what the model is asked
    label: str  # the answer, as annotated
    cluttered: bool | None = (
        None  # the clip has a textured background, noise and the like; None here and below: the set does not say
    )
    wording: str | None = None  # "seen" or "unseen" in training
    fact: str | None = None  # what is asked of the clip, whatever the wording
