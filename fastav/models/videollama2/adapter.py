"""The adapter of VideoLLaMA2.1-7B-AV: its prompt, encoders, weights, layout and global rule.

Letters: N prompt tokens, D width of the decoder, F frames, S samples, T log-mel frames.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch

from fastav.clip.clip import Clip
from fastav.layout import TokenLayout, first_audio
from fastav.models.adapter import Adapter, Inputs
from fastav.models.device import resolve
from fastav.models.qwen2 import generate_kwargs, read_tokenizer, tokenized
from fastav.models.siglip import pixel_values, resize
from fastav.models.videollama2.inputs import Middles, heard_sec, left_out, log_mel, n_sounding, prompt, sound
from fastav.models.videollama2.module import VideoLLaMA2, beats_config, frames_per_clip, original, rename, table_layers
from fastav.models.videollama2.published import PUBLISHED
from fastav.models.weights import Weights, describes, empty, load, locate, read_json

RULE_N_AUDIO = 10  # audio tokens that the paper's global rule keeps
CHANNELS = "first-without-video"  # a video's sound is mixed, of a sound file the first channel is heard


@dataclass(frozen=True)
class Features:
    """video [time steps, tokens of a step, D] or None, audio [n, D] or None, n_sounding: audio tokens before the zero
    padding begins; notes: of what was left out; step_sec and audio_sec: see TokenLayout.timed.
    """

    video: torch.Tensor | None
    audio: torch.Tensor | None
    n_sounding: int = 0
    notes: tuple[str, ...] = ()
    step_sec: Sequence[float] = ()
    audio_sec: Sequence[float] = ()


class VideoLLaMA2Adapter(Adapter):
    """See models/adapter.py. The global rule is the paper's: all video tokens and the first 10 audio tokens.

    module is the VideoLLaMA2 with all parts, model its language model, tokenizer the checkpoint's own; ignored are the
    checkpoint's keys that no part needs.
    """

    name = "videollama2.1-av"
    published = PUBLISHED
    n_new_tokens = 512
    about = (
        "VideoLLaMA2.1-7B-AV answers open questions about real-life clips with sound. Of any clip it sees 8 frames and hears "
        "eight stretches of 2 s, so it knows nothing of what falls between them."
    )

    def __init__(self, checkpoint=None, *, revision=None, dtype=None, device=None, device_map=None, attn=None):
        self.device, dtype, attn = resolve(device, dtype, attn, device_map)
        folder = self.folder = locate(checkpoint, PUBLISHED.hub_id, revision)
        self.checkpoint = str(checkpoint or PUBLISHED.hub_id)
        config, weights = read_json(folder, "config.json"), Weights(folder)
        with describes(folder, "VideoLLaMA2.1-AV"):
            self.n_frames, self.audio_sizes = frames_per_clip(config), beats_config(config)
            self.module = empty(lambda: VideoLLaMA2(config))
        self.module.llm.set_attn_implementation(attn)
        self.module.vision.set_attn_implementation(attn)
        n_vision, table = self.module.vision.config.num_hidden_layers, min(table_layers(weights), default=0)
        renamed = partial(rename, n_vision_layers=n_vision, table_layer=table)
        options = {"device": self.device, "dtype": dtype, "device_map": device_map}
        self.ignored = load(self.module, weights, renamed, original=original, **options)
        self.model = self.module.llm
        self.tokenizer = read_tokenizer(folder)
        self.generate_kwargs = generate_kwargs(folder, config, self.tokenizer, pad="<|im_end|>")
        self.sampler = Middles(self.n_frames)
        self.read_options = {"sampler": self.sampler, "resize": self._resize, "channels": CHANNELS}

    def encode(self, clip: Clip) -> Features:
        clip, video, audio = clip.sampled(self.sampler), None, None
        n_heard = 0
        if clip.has_video:
            pixels = pixel_values(np.stack([self._resize(frame) for frame in clip.frames]))
            video = self.module.encode_video(pixels.to(self.device, self.model.dtype)).to(self.device)
        if clip.has_audio:
            samples, n_samples = sound(clip)
            audio = self.module.encode_audio(log_mel(samples).to(self.device)).to(self.device)
            n_heard = n_sounding(n_samples, self.audio_sizes)
        step_sec = clip.frame_times_sec[: len(clip.frames) // 2 * 2].reshape(-1, 2).mean(1)
        audio_sec = heard_sec(len(clip.audio), clip.has_video, self.audio_sizes)
        return Features(video, audio, n_heard, left_out(clip), step_sec, audio_sec)

    def prepare(self, features: Features, clip: Clip, question: str) -> Inputs:
        parts, segments, grids = [], [], ()
        if features.video is not None:
            n_steps, n_tokens, _ = features.video.shape
            parts.append(features.video.flatten(0, 1))
            segments.append(("video", n_steps * n_tokens, n_steps))
            grids = ((math.isqrt(n_tokens),) * 2,) * n_steps
        if features.audio is not None:
            parts.append(features.audio)
            segments.append(("audio", len(features.audio), features.n_sounding))
        placeholder = "<audio>" if features.video is None else "<video>"
        before, after = prompt(question, placeholder).split(placeholder)
        prefix = self._embed(self.tokenizer(before, add_special_tokens=False)["input_ids"])
        ids, asked = tokenized(self.tokenizer, after, question)
        ending = ("text", asked.start), ("question", asked.stop - asked.start), ("text", len(ids) - asked.stop)
        layout = TokenLayout.of(("text", len(prefix)), *segments, *ending)
        layout = layout.with_facts(rule_keep=first_audio(layout, RULE_N_AUDIO), model=self.name, grids=grids)
        layout = layout.timed(features.step_sec, features.audio_sec)
        return Inputs(torch.cat([prefix, *parts, self._embed(ids)])[None], layout, self.generate_kwargs, features.notes)

    def decode(self, ids: list[int]) -> str:
        return self.tokenizer.decode(ids, skip_special_tokens=True).strip()

    def _embed(self, ids: list[int]) -> torch.Tensor:
        """[n, D]"""
        return self.model.get_input_embeddings()(torch.tensor(ids, device=self.device)).to(self.device)

    def _resize(self, frame: np.ndarray, n_frames: int = 1) -> np.ndarray:
        return resize(frame, self.module.vision.config.image_size)
