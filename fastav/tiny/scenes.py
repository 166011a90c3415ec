"""Scenes of the training world and of the held-out one: everything about a scene follows from its seed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from fastav.clip.clip import Clip, clip_from_arrays
from fastav.tiny.drawing import KINDS
from fastav.tiny.questions import facts
from fastav.tiny.sampling import N_FRAMES
from fastav.tiny.wordings import seen
from fastav.tiny.world import (
    SHARE_CLUTTERED,
    Noise,
    Thing,
    draw,
    held_out_color,
    held_out_pair,
    play,
    random_noises,
    random_seconds,
    random_things,
)


@dataclass(frozen=True)
class Scene:
    """What one clip shows and plays."""

    things: list[Thing]
    noises: list[Noise]
    seconds: float
    cluttered: bool
    seed: tuple[int, ...]

    def frames(self, n_frames: int) -> np.ndarray:
        """uint8 [n_frames, 112, 112, 3], evenly over the clip."""
        return draw(np.random.default_rng([*self.seed, 1]), self.things, n_frames, self.cluttered)[0]

    def audio(self) -> np.ndarray:
        """float32 [seconds * 16000]."""
        return play(np.random.default_rng([*self.seed, 2]), self.noises, self.seconds, self.cluttered)


def scene(seed: int, index: int, split: str) -> Scene:
    """Scene `index` of a split, both streams present: every other one matches. In "test" each has at least one
    held-out combination of color and object, or of object and sound; in "train" none has any."""
    key = (seed, index, 0 if split == "train" else 1)
    rng = np.random.default_rng(key)
    test, match = split == "test", index % 2 == 0
    while True:
        kinds = rng.choice(len(KINDS), rng.choice((1, 2, 3), p=(0.2, 0.35, 0.45)), replace=False)
        things = random_things(rng, kinds, held_out=test and rng.random() < 0.7)
        n_sounds = int(rng.choice((1, 2, 3), p=(0.4, 0.35, 0.25)))
        if match:
            heard = rng.permutation(kinds)[:n_sounds]
        else:
            outside = rng.choice([k for k in range(len(KINDS)) if k not in kinds])
            inside = [rng.choice(kinds) if rng.random() < 0.5 else rng.integers(len(KINDS)) for _ in range(n_sounds - 1)]
            heard = np.array(list(dict.fromkeys([int(outside), *map(int, inside)])))
            rng.shuffle(heard)
        pairs = any(held_out_pair(int(s), int(h)) for s in kinds for h in heard)
        unseen = pairs or any(held_out_color(t.kind, t.color) for t in things)
        if unseen == test and not (pairs and not test):
            break
    seconds = random_seconds(rng)
    return Scene(things, random_noises(rng, heard, seconds), seconds, bool(rng.random() < SHARE_CLUTTERED), key)


def calibration_clips(n: int) -> Iterator[tuple[Clip, str]]:
    """`n` clips of the training split, from arrays, each with one question: visible or heard, yes or no in turn."""
    for i in range(n):
        each = scene(0, i, "train")
        clip = clip_from_arrays(each.frames(N_FRAMES), N_FRAMES / each.seconds, each.audio(), name=f"calibration {i}")
        family, answer = (("visible", "yes"), ("visible", "no"), ("heard", "yes"), ("heard", "no"))[i % 4]
        fitting = [fact for fact in facts(each.things, each.noises)[family] if fact.answer == answer]
        wordings = seen(family)
        yield clip, fitting[i % len(fitting)].text(wordings[i % len(wordings)])
