"""Adapter of FastAV-tiny, the built-in model: 8 frames, 4 s of sound, the layout of VideoLLaMA2. Weights in assets/tiny."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from fastav.assets import ASSETS
from fastav.clip.clip import AUDIO_RATE, Clip
from fastav.clip.sampling import uniform
from fastav.errors import UserError
from fastav.layout import TokenLayout
from fastav.models.adapter import Adapter, Inputs
from fastav.models.device import resolve
from fastav.plan import Plan

_SAMPLER = uniform(8)
_SIZE = (112, 112)


@dataclass(frozen=True)
class _Features:
    """video [128, D] or None, audio [200, D] or None; n_sounding: audio tokens before the zero padding begins; step_sec [8] and
    audio_sec [200]: see TokenLayout.timed.
    """

    video: torch.Tensor | None
    audio: torch.Tensor | None
    n_sounding: int
    step_sec: np.ndarray
    audio_sec: np.ndarray


class Tiny(Adapter):
    """See models/adapter.py. The global rule is the calibrated plan beside the weights (plan.json)."""

    name = "tiny"
    n_new_tokens = 40
    about = (
        "FastAV-tiny knows a small drawn world: twelve objects in six colours and the twelve sounds they make. "
        "It cannot understand real-life footage; its answers about it mean nothing."
    )

    def __init__(self, checkpoint=None, *, revision=None, device=None, dtype=None, device_map=None, attn=None):
        from fastav.tiny.model import load

        if revision is not None or device_map is not None:
            raise UserError("the built-in model has no revisions and fits on any device; leave out revision and device map")
        self.device, dtype, attn = resolve(device, dtype, attn)
        folder = self.folder = Path(checkpoint).expanduser() if checkpoint else ASSETS / "tiny"
        if not (folder / "model.safetensors").is_file():
            raise UserError(
                f"{folder} has no model.safetensors; give --checkpoint a folder made by `python -m fastav.tiny.train`"
            )
        self.checkpoint = str(checkpoint or "assets/tiny")
        self.tiny = load(folder).to(self.device, dtype)
        self.model = self.tiny.decoder
        self.model.set_attn_implementation(attn)
        plan, n_layers = folder / "plan.json", self.model.config.num_hidden_layers
        self.plan = Plan.read(plan, model=self.name, n_layers=n_layers) if plan.is_file() else None
        self.read_options = {"sampler": _SAMPLER, "size": _SIZE}

    def encode(self, clip: Clip) -> _Features:
        """Raises UserError for sound at another rate than 16 kHz."""
        from fastav.tiny.sampling import heard_sec, pick_sound

        clip, video, audio, n_sounding = clip.sampled(_SAMPLER), None, None, 0
        if clip.has_video:
            video = self.tiny.encode_video(torch.from_numpy(np.stack([_resized(frame) for frame in clip.frames])))
        if clip.has_audio:
            if clip.audio_rate != AUDIO_RATE:
                raise UserError(f"{clip.name}: the sound must have {AUDIO_RATE} samples per second, got {clip.audio_rate}")
            sound, n_samples = pick_sound(clip.audio)
            audio = self.tiny.encode_audio(torch.from_numpy(sound))
            n_sounding = self.tiny.n_sounding(n_samples)
        return _Features(video, audio, n_sounding, clip.frame_times_sec, heard_sec(len(clip.audio)))

    def prepare(self, features: _Features, clip: Clip, question: str) -> Inputs:
        prefix, suffix = self.tiny.embed_prompt(question)
        parts, segments = [prefix], [("text", len(prefix))]
        if features.video is not None:
            parts.append(features.video)
            segments.append(("video", len(features.video), 8))
        if features.audio is not None:
            parts.append(features.audio)
            segments.append(("audio", len(features.audio), features.n_sounding))
        layout = TokenLayout.of(*segments, ("question", len(suffix) - 1), ("text", 1))
        layout = layout.with_facts(model=self.name, grids=((4, 4),) * 8 * (features.video is not None))
        layout = layout.timed(features.step_sec, features.audio_sec)
        layout = self.plan.apply(layout) if self.plan else layout
        return Inputs(
            torch.cat([*parts, suffix])[None],
            layout,
            {"eos_token_id": self.tiny.tokenizer.eos_id, "pad_token_id": self.tiny.tokenizer.eos_id},
        )

    def decode(self, ids: list[int]) -> str:
        return self.tiny.tokenizer.decode(ids)

    @classmethod
    def calibration_clips(cls, n: int) -> Iterator[tuple[Clip, str]]:
        """Clips of the training split with both streams, one question each."""
        from fastav.tiny.scenes import calibration_clips

        return calibration_clips(n)


def _resized(frame: np.ndarray) -> np.ndarray:
    """uint8 [h, w, 3] -> [112, 112, 3], stretched. A file's frames have that size already."""
    if frame.shape[:2] == _SIZE:
        return frame
    return np.asarray(Image.fromarray(frame).resize(_SIZE, Image.Resampling.BICUBIC))
