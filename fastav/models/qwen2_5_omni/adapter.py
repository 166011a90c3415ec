"""The adapter of Qwen2.5-Omni (3B, 7B): its prompt, encoders, weights and layout.

Picture and sound enter interleaved, 2 s of video, then the same 2 s of audio, all on one time axis of 25 positions per second
(M-RoPE). The talker and the vocoder are not loaded. Source: transformers' processor and model of this family.

Letters: N prompt tokens, D width of the decoder, T time steps of 2 frames, V / A video / audio tokens.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from transformers import (
    Qwen2_5OmniThinkerConfig,
    Qwen2_5OmniThinkerForConditionalGeneration,
    Qwen2VLImageProcessorPil,
    WhisperFeatureExtractor,
)

from fastav.clip.clip import AUDIO_RATE, Clip
from fastav.errors import UserError
from fastav.layout import AUDIO, VIDEO, TokenLayout, layout_of
from fastav.models.adapter import Adapter, Inputs
from fastav.models.device import resolve
from fastav.models.qwen2 import generate_kwargs, read_tokenizer
from fastav.models.qwen2_5_omni.importance import Held, heard_importance, seen_importance
from fastav.models.qwen2_5_omni.inputs import (
    FRAMES_PER_STEP,
    SECONDS_PER_STEP,
    audio_tokens,
    left_out,
    patches,
    resize,
    sample_frames,
    spectrogram,
)
from fastav.models.qwen2_5_omni.published import PUBLISHED, SYSTEM, original, rename, thinker_config
from fastav.models.weights import Weights, describes, empty, load, locate, read_json

_AFTER = "<|im_end|>\n<|im_start|>assistant\n"  # the question
_BRACKETS = {  # (video, audio): what stands before and after the media tokens
    (True, True): ("<|vision_bos|><|audio_bos|>", "<|audio_eos|><|vision_eos|>"),
    (True, False): ("<|vision_bos|>", "<|vision_eos|>"),
    (False, True): ("<|audio_bos|>", "<|audio_eos|>"),
}


@dataclass(frozen=True)
class _Features:
    """video [V, D], its grid [1, 3] (T, height and width in patches), audio [A, D] of n_mel spectrogram frames; None: absent.
    step_sec [T]: see TokenLayout.timed; importance: of video [V], of audio [A], and of audio in the clip [A], see TokenLayout.
    """

    video: torch.Tensor | None
    grid: torch.Tensor | None
    audio: torch.Tensor | None
    n_mel: int
    step_sec: np.ndarray
    importance: dict[str, np.ndarray]


class Qwen25OmniAdapter(Adapter):
    """See models/adapter.py. The paper names no global rule for this model: positions < 750 stay, its general statement."""

    name = "qwen2.5-omni"
    published = PUBLISHED
    n_new_tokens = 256
    about = (
        "Qwen2.5-Omni answers questions about pictures, sound and speech in real footage, in text. "
        "It sees two frames a second, 768 at most, and hears the first 300 s of a clip."
    )

    def __init__(self, checkpoint=None, *, revision=None, device=None, dtype=None, device_map=None, attn=None):
        self.device, dtype, attn = resolve(device, dtype, attn, device_map)
        folder = self.folder = locate(checkpoint, PUBLISHED.hub_id, revision)
        self.checkpoint = str(checkpoint or PUBLISHED.hub_id)
        thinker = thinker_config(read_json(folder, "config.json"))
        with describes(folder, "Qwen2.5-Omni"):
            self.config = Qwen2_5OmniThinkerConfig.from_dict(thinker)
            self.model = empty(lambda: Qwen2_5OmniThinkerForConditionalGeneration(self.config))
        self.tokenizer = read_tokenizer(folder)
        self._stop = generate_kwargs(folder, thinker, self.tokenizer)
        try:
            self.pictures = Qwen2VLImageProcessorPil.from_pretrained(folder)
            self.sounds = WhisperFeatureExtractor.from_pretrained(folder)
        except Exception as error:  # whatever a setting of a wrong type runs into
            raise UserError(f"cannot read preprocessor_config.json in {folder} ({error}); fetch it again") from error
        options = {"device": self.device, "dtype": dtype, "device_map": device_map}
        self.ignored = load(self.model, Weights(folder), rename, original=original, **options)
        self.model.set_attn_implementation(attn)
        seeing, hearing = self.model.model.visual.blocks[-1].attn, self.model.model.audio_tower.layers[-1].self_attn
        self._seen, self._heard = Held(seeing, seeing.q, seeing.k), Held(hearing, hearing.q_proj, hearing.k_proj)
        resized = partial(resize, factor=self.pictures.patch_size * self.pictures.merge_size)
        self.read_options = {"sampler": sample_frames, "resize": resized, "channels": "mean"}
        # The stock model computes the logits of all N positions at prefill: 14 GB for a minute of HD video. Only the last counts.
        self.model.lm_head.register_forward_pre_hook(lambda module, args: (args[0][..., -1:, :],))

    def encode(self, clip: Clip) -> _Features:
        """Raises UserError for sound at another rate than 16 kHz."""
        clip = clip.sampled(sample_frames)
        video = grid = audio = None
        n_mel, importance = 0, {}
        if clip.has_video:
            pixels, grid = patches(clip.frames, self.pictures, self.device)
            grid = grid.to(self.device)
            found = self.model.get_video_features(pixels.to(self.model.dtype), video_grid_thw=grid)
            video = torch.cat(tuple(found.pooler_output)).to(self.device)
            importance["video"] = seen_importance(*self._seen.take(), grid[0].tolist(), self.config.vision_config)
        if clip.has_audio:
            if clip.audio_rate != AUDIO_RATE:
                raise UserError(f"{clip.name}: the sound must have {AUDIO_RATE} samples per second, got {clip.audio_rate}")
            mel, mask = spectrogram(clip.audio, self.sounds)
            n_mel = int(mask.sum())
            if audio_tokens(n_mel):
                mel = mel.to(self.device, self.model.dtype)
                found = self.model.get_audio_features(mel, feature_attention_mask=mask.to(self.device))
                audio = found.last_hidden_state.to(self.device)
                asks = self._heard.take()
                importance["audio"] = heard_importance(*asks, self.config.audio_config.n_window)
                importance["audio in clip"] = heard_importance(*asks, asks[0].shape[1])
        starts = range(0, len(clip.frames), FRAMES_PER_STEP)
        step_sec = np.array([clip.frame_times_sec[i : i + FRAMES_PER_STEP].mean() for i in starts])
        return _Features(video, grid, audio, n_mel, step_sec, importance)

    def prepare(self, features: _Features, clip: Clip, question: str) -> Inputs:
        """generate_kwargs carry position_ids [3, 1, N] (time, height, width): generate itself counts on from them."""
        both = features.video is not None and features.audio is not None
        ids = torch.tensor([self.input_ids(features, question)], device=self.device)
        positions, _ = self.model.get_rope_index(
            ids,
            video_grid_thw=features.grid,
            attention_mask=torch.ones_like(ids),
            use_audio_in_video=both,
            audio_seqlens=torch.tensor([features.n_mel], device=self.device),
            second_per_grids=torch.tensor([SECONDS_PER_STEP], device=self.device),
        )
        embeds = self.model.get_input_embeddings()(ids).to(self.device)
        for token_id, values in ((self.config.video_token_id, features.video), (self.config.audio_token_id, features.audio)):
            if values is not None:
                embeds[ids == token_id] = values.to(embeds)
        layout = layout_of({"input_ids": ids, "video_grid_thw": features.grid}, self.config)
        n_audio = 0 if features.audio is None else len(features.audio)
        layout = layout.timed(features.step_sec, (np.arange(n_audio) + 0.5) / self.config.position_id_per_seconds)
        n_asked, n_after = len(self._question_ids(question)), len(self.tokenizer.encode(_AFTER))
        question_ends = len(layout) - n_after
        layout.question[question_ends - n_asked : question_ends] = True
        layout = layout.with_facts(model=self.name, **self._importance(layout, features))
        return Inputs(embeds, layout, {**self._stop, "position_ids": positions}, left_out(clip, self.sounds.n_samples))

    def _importance(self, layout: TokenLayout, features: _Features) -> dict[str, np.ndarray]:
        both = np.zeros((2, len(layout)), np.float32)
        for row, kind, name in ((0, VIDEO, "video"), (0, AUDIO, "audio"), (1, AUDIO, "audio in clip")):
            if name in features.importance:
                both[row, layout.kind == kind] = features.importance[name]
        return {"importance": both[0], "importance_in_clip": both[1]}

    def input_ids(self, features: _Features, question: str) -> list[int]:
        """The prompt's N token ids, with a placeholder per media token.

        Raises UserError when there is neither picture nor sound. A question is plain text, whatever it spells.
        """
        streams = (features.video is not None, features.audio is not None)
        if not any(streams):
            raise UserError("the clip's sound is too short: this model needs 0.03 s of it, or a picture")
        before, after = _BRACKETS[streams]
        encode = self.tokenizer.encode
        return [
            *encode(f"<|im_start|>system\n{SYSTEM}<|im_end|>\n<|im_start|>user\n{before}"),
            *self._placeholders(features),
            *encode(after),
            *self._question_ids(question),
            *encode(_AFTER),
        ]

    def _question_ids(self, question: str) -> list[int]:
        return self.tokenizer.encode(question, split_special_tokens=True)

    def _placeholders(self, features: _Features) -> list[int]:
        """Video and audio ids, sorted by their chunk of 2 s; within a chunk all video comes first."""
        n_steps, gh, gw = (0, 0, 0) if features.grid is None else features.grid[0].tolist()
        step = np.arange(n_steps).repeat(gh * gw // self.config.vision_config.spatial_merge_size**2)
        n_audio = 0 if features.audio is None else len(features.audio)
        at = np.concatenate([step * SECONDS_PER_STEP * self.config.position_id_per_seconds, np.arange(n_audio)])
        chunk = at // (self.config.position_id_per_seconds * self.config.seconds_per_chunk)
        ids = np.repeat([self.config.video_token_id, self.config.audio_token_id], [len(step), n_audio])
        return ids[np.argsort(chunk, kind="stable")].tolist()

    def decode(self, ids: list[int]) -> str:
        return self.tokenizer.decode(ids, skip_special_tokens=True).strip()
