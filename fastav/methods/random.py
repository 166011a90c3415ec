"""Random: audio and video tokens drawn at random stay. The baseline that every rule has to beat at equal FLOPs."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np

from fastav.layout import TokenLayout
from fastav.methods.cut import OneCut
from fastav.methods.scores import Known
from fastav.methods.setting import setting


@dataclass(frozen=True)
class Random(OneCut):
    """One cut, no fine pruning: the audio and video tokens with the highest random numbers stay. Positions stay original.

    The numbers follow from seed, clip and question, so they are the same on every device. Source: none.
    """

    name = "random"

    seed: int = setting(0, "of the random numbers, together with clip and question", low=0)

    def score(self, layout: TokenLayout) -> Known:
        return Known(generator(self.seed, layout.request_id, self.name).random(len(layout), np.float32))


def generator(seed: int, request_id: str, stage: str) -> np.random.Generator:
    """One stream per (seed, clip, question, stage), the same on every device."""
    digest = hashlib.sha256(f"{seed}\0{request_id}\0{stage}".encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:16], "little"))
