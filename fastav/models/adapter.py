"""What an adapter is: everything special to one checkpoint. The engine, the session and the methods know only this.

Letters: N prompt tokens, D width of the decoder, F frames, S samples.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np
import torch

from fastav.errors import UserError
from fastav.layout import TokenLayout
from fastav.media import Clip

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
ATTENTION = ("sdpa", "eager", "flash_attention_2")


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
        if len(entered) < len(self.layout) and "position_ids" in self.generate_kwargs:
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


class Adapter(Protocol):
    """The members that a session uses.

    Where the weights are a published checkpoint's, its module also has HUB_ID; rename, checkpoint key -> name in the adapter's
    module or None (see weights.load); facts(weights, config, generation_config), a list of Fact; and
    token_estimate(config, duration_sec), tokens per kind of a clip with sound and a short question.
    """

    name: str  # registry name
    checkpoint: str  # where the weights came from
    about: str  # a sentence or two: what the model knows and cannot know
    device: torch.device  # where prompts go
    model: torch.nn.Module  # the stock transformers model whose generate() answers
    n_new_tokens: int  # default limit of an answer
    read_options: dict  # for media.read_clip: sampler, size or resize, channels

    def encode(self, clip: Clip) -> Any:
        """The media features of a clip, whatever prepare needs. Run once per clip."""

    def prepare(self, features: Any, clip: Clip, question: str) -> Inputs:
        """The prompt of one question. Raises UserError for a question the model cannot read."""

    def calibration_clips(self, n: int) -> Iterator[tuple[Clip, str]]:
        """(clip, question) pairs outside every test set, both streams present."""

    def decode(self, ids: list[int]) -> str:
        """The answer's text from new token ids, stop token or not."""


def resolve(device=None, dtype=None, attn=None) -> tuple[torch.device, torch.dtype, str]:
    """Device, dtype and attention kernel, with defaults: CUDA where there is one, bfloat16 there, float32 on CPU, sdpa.

    Raises UserError for an unknown name or a device that is not there.
    """
    try:
        device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    except RuntimeError as error:
        raise UserError(f"unknown device {device!r}; allowed: cpu, cuda, cuda:0, ...") from error
    if device.type not in ("cpu", "cuda") or (device.type == "cpu" and device.index):
        raise UserError(f"unknown device {str(device)!r}; allowed: cpu, cuda, cuda:0, ...")
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UserError(f"device {device} was asked for, but torch sees no CUDA GPU; allowed here: cpu")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UserError(f"device {device} was asked for, but there are {torch.cuda.device_count()} GPUs, counted from cuda:0")
    dtype = dtype or ("bfloat16" if device.type == "cuda" else "float32")
    if dtype not in DTYPES:
        raise UserError(f"unknown dtype {dtype!r}; allowed: {', '.join(DTYPES)}")
    attn = attn or "sdpa"
    if attn not in ATTENTION:
        raise UserError(f"unknown attention {attn!r}; allowed: {', '.join(ATTENTION)}")
    if attn == "flash_attention_2":
        from transformers.utils import is_flash_attn_2_available

        if not is_flash_attn_2_available() or device.type != "cuda":
            raise UserError("flash_attention_2 needs a GPU and the flash-attn package: pip install -r requirements-gpu.txt")
        if dtype == "float32":
            raise UserError("flash_attention_2 computes in 16 bits; give dtype bfloat16 or float16")
    return device, DTYPES[dtype], attn
