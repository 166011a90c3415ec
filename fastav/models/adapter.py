"""What an adapter is: everything special to one checkpoint. The engine, the session and the methods know only this.

Letters: N prompt tokens, D width of the decoder, F frames, S samples.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch

from fastav.clip.clip import Clip
from fastav.errors import UserError
from fastav.layout import TokenLayout
from fastav.models.weights import Weights


@dataclass(frozen=True)
class Inputs:
    """One prompt, ready for `generate`; the same Inputs serve every method.

    embeds [1, N, D]; layout of the N positions; generate_kwargs: what else the model's generate needs (stop ids, position ids);
    notes: what a reader of the answer should know of how the clip became tokens.
    """

    embeds: torch.Tensor
    layout: TokenLayout
    generate_kwargs: dict = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def subset(self, keep: np.ndarray) -> tuple[Inputs, np.ndarray]:
        """A shorter prompt of the positions in `keep` (bool [N]) alone, renumbered from 0, and those positions, int64 [N'].

        Raises UserError where the model's positions are more than a running number.
        """
        entered = np.flatnonzero(keep)
        if len(entered) == len(self.layout):
            return self, entered
        if "position_ids" in self.generate_kwargs:
            raise UserError("this model places its tokens in time and space, so its prompt cannot be renumbered by trim")
        embeds = self.embeds[:, torch.from_numpy(entered).to(self.embeds.device)]
        return replace(self, embeds=embeds, layout=self.layout.subset(keep)), entered


@dataclass(frozen=True)
class Fact:
    """Something that a checkpoint folder tells about itself, beside what the adapter was written for.

    ok is None where there is nothing to compare with: the fact is shown for whoever reads the report.
    """

    name: str
    expected: str
    found: str
    ok: bool | None


@dataclass(frozen=True)
class Published:
    """What is known of a family's checkpoints before one is loaded.

    hub_id          the published one, used where no other is named.
    rename          checkpoint key -> name in the adapter's module, or None for a key that is not needed (see weights.load).
    facts           (weights, config.json, generation_config.json or None) -> what a checkpoint says of itself.
    token_estimate  (config.json, duration_sec) -> tokens per kind of a clip with sound and a short question.
    keys            table of the published tensors; None: there is none.
    """

    hub_id: str
    rename: Callable[[str], str | None]
    facts: Callable[[Weights, dict, dict | None], list[Fact]]
    token_estimate: Callable[[dict, float], dict[str, int]]
    keys: Path | None = None


class Adapter(ABC):
    """The whole contract. A subclass is built with (checkpoint, *, revision, device, dtype, device_map, attn), see load_model;
    it loads the weights and sets the attributes below.
    """

    name: ClassVar[str]  # registry name
    about: ClassVar[str]  # a sentence or two: what the model knows and cannot know
    n_new_tokens: ClassVar[int]  # default limit of an answer
    published: ClassVar[Published | None] = None  # None: the weights come with FastAV

    checkpoint: str  # folder or hub id, as it was asked for
    folder: Path  # where that was found on this machine: the folder of the weights, or the hub's snapshot
    ignored: list[str] = []  # keys of the checkpoint that no part needs
    device: torch.device  # where prompts go
    model: torch.nn.Module  # the stock transformers model whose generate() answers
    read_options: dict  # for read_clip: sampler, size or resize, channels

    @abstractmethod
    def encode(self, clip: Clip) -> Any:
        """The media features of a clip, whatever `prepare` needs: of `clip.sampled(sampler)`, with the sampler of `read_options`.
        Run once per clip.
        """

    @abstractmethod
    def prepare(self, features: Any, clip: Clip, question: str) -> Inputs:
        """The prompt of one question. Raises UserError for a question the model cannot read."""

    @abstractmethod
    def decode(self, ids: list[int]) -> str:
        """The answer's text from new token ids, stop token or not."""

    @classmethod
    def calibration_clips(cls, n: int) -> Iterator[tuple[Clip, str]]:
        """`n` (clip, question) pairs outside every test set, both streams present.

        Raises UserError for a model that brings none: it is calibrated on its user's.
        """
        raise UserError(
            f"{cls.name} brings no clips to calibrate on; give a folder of yours: "
            f"python -m fastav calibrate --model {cls.name} --clips DIR --output FILE"
        )
