"""The adapter of video-SALMONN 2: its prompt, encoders, weights, layout and global rule.

For every frame the decoder reads 13 rows of 13 visual tokens, a newline token after each row, then that frame's share of the
audio tokens.

Letters: F frames, V tokens of a frame, A audio tokens, P pieces of sound (30 s each), D width of the LLM.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence
from transformers import WhisperFeatureExtractor

from fastav.clip.clip import Clip
from fastav.errors import UserError
from fastav.models.adapter import Adapter, Inputs
from fastav.models.device import resolve
from fastav.models.qwen2 import generate_kwargs, read_tokenizer, tokenized
from fastav.models.siglip import pixel_values, resize
from fastav.models.video_salmonn2.inputs import Settings, log_mels, prompt_ids, time_texts
from fastav.models.video_salmonn2.module import TOWER, VideoSALMONN2, original, rename
from fastav.models.video_salmonn2.order import align, interleave, interleaved_layout
from fastav.models.video_salmonn2.published import PUBLISHED
from fastav.models.video_salmonn2.qformer import segment_positions
from fastav.models.weights import Weights, describes, empty, load, locate, read_json

N_AT_ONCE = 8  # frames, or pieces of sound, that go through an encoder together


@dataclass(frozen=True)
class Features:
    """visual [F, V, D] and audio [A, D], with F or A = 0 for what the clip lacks; n_sounding: audio tokens before the zero
    padding begins; real_time_sec: of the video; step_sec and audio_sec: see TokenLayout.timed.
    """

    visual: torch.Tensor
    audio: torch.Tensor
    n_sounding: int
    real_time_sec: float
    step_sec: np.ndarray
    audio_sec: np.ndarray


class VideoSALMONN2Adapter(Adapter):
    """See models/adapter.py. The global rule is the paper's: the first four frames, each with the audio that follows it.

    module is the VideoSALMONN2 with all parts, model its language model, tokenizer the checkpoint's own; ignored are the
    checkpoint's keys that no part needs; settings may be replaced (dataclasses.replace) but for those of the windows.
    """

    name = "video-salmonn-2"
    published = PUBLISHED
    n_new_tokens = 1024
    about = (
        "video-SALMONN 2 (7B) describes real-life clips with sound and answers open questions about them. Of a video it sees one "
        "frame per second, at most 110 in all, and hears the whole sound; of sound alone it hears the first 110 s."
    )

    def __init__(
        self,
        checkpoint: str | None = None,
        *,
        revision: str | None = None,
        dtype: str | None = None,
        device: str | None = None,
        device_map: str | dict | None = None,
        attn: str | None = None,
    ):
        self.device, dtype, attn = resolve(device, dtype, attn, device_map)
        folder = self.folder = locate(checkpoint, PUBLISHED.hub_id, revision)
        self.checkpoint = str(checkpoint or PUBLISHED.hub_id)
        config, weights = read_json(folder, "config.json"), Weights(folder)
        if config.get("model_type") != "video_salmonn_2":
            raise UserError(
                f"{folder} holds a model of type {config.get('model_type')!r}; {self.name} reads 'video_salmonn_2' alone, and "
                "video-SALMONN 2+ is another model"
            )
        if not any(key.startswith(TOWER) for key in weights.shapes):
            raise UserError(
                f"{folder} was saved without its vision tower; add vision_model.* of google/siglip-so400m-patch14-384 under the "
                f"names {TOWER}*, without the last encoder layer and the head"
            )
        self.tokenizer = read_tokenizer(folder)
        self.generate_kwargs = generate_kwargs(folder, config, self.tokenizer)
        has_sizes = (folder / "submodel_configs.json").is_file()
        sizes = read_json(folder, "submodel_configs.json") if has_sizes else {}
        with describes(folder, "video-SALMONN 2" + " (with submodel_configs.json)" * has_sizes):
            self.settings = Settings.of(config)
            self.module = empty(lambda: VideoSALMONN2(config, sizes, self.settings))
        for part in (self.module.llm, self.module.vision.tower, self.module.speech.encoder):
            part.set_attn_implementation(attn)
        renamed = partial(rename, n_vision_layers=self.module.vision.tower.config.num_hidden_layers)
        options = {"device": self.device, "dtype": dtype, "device_map": device_map}
        self.ignored = load(self.module, weights, renamed, original=original, **options)
        self.model = self.module.llm
        sizes = self.module.vision.tower.config
        self._side = sizes.image_size // sizes.patch_size // 2  # rows of visual tokens; each ends in a newline token
        self._extractor = WhisperFeatureExtractor(feature_size=self.module.speech.encoder.num_mel_bins)

    @property
    def read_options(self) -> dict:
        return {"sampler": self.settings.sampler, "resize": self._resize, "channels": "first"}

    def encode(self, clip: Clip) -> Features:
        """Raises UserError for a video of one frame, or for sound at another rate than 16 kHz."""
        clip, width = clip.sampled(self.settings.sampler), self.model.config.hidden_size
        visual, audio, n_sounding = self._zeros(0, 0, width), self._zeros(0, width), 0
        real_time_sec = clip.n_source_frames / clip.fps if clip.has_video else self.settings.max_time_sec
        if clip.has_video:
            visual = self._see(clip)
        if clip.has_audio:
            audio, n_sounding = self._hear(clip, real_time_sec)
        elif self.settings.add_time_token:
            visual = torch.cat([visual, self._times(len(visual), real_time_sec)], 1)
        n_samples = round(clip.audio_rate * real_time_sec)
        audio_sec = self.settings.heard_sec(min(len(clip.audio), n_samples))
        return Features(visual, audio, n_sounding, real_time_sec, clip.frame_times_sec, audio_sec)

    def prepare(self, features: Features, clip: Clip, question: str) -> Inputs:
        """Raises UserError for a prompt that is longer than the model reads."""
        before, after = prompt_ids(self.tokenize, question)
        groups, tail = align(len(features.audio), len(features.visual), features.real_time_sec)
        layout = interleaved_layout(len(before), features.visual.shape[1], groups, tail, features.n_sounding, len(after))
        side = self._side
        layout = layout.with_facts(model=self.name, grids=((side, side + 1),) * len(features.visual))
        layout = layout.timed(features.step_sec, features.audio_sec[torch.cat([groups.flatten(), tail])])
        first = len(layout) - len(after) + len(self.tokenize("\n"))
        asked = tokenized(self.tokenizer, "\n" + question.strip(), question.strip())[1]
        layout.question[first + asked.start : first + asked.stop] = True
        if len(layout) > self.settings.max_tokens:
            # The original cuts the end off, which is the question: no answer could be right.
            raise UserError(
                f"{clip.name}: {clip.duration_sec:.0f} s make a prompt of {len(layout)} tokens, and the model reads at most "
                f"{self.settings.max_tokens}; give a shorter clip"
            )
        media = interleave(features.visual, features.audio, groups, tail)
        left_out = len(clip.audio) / clip.audio_rate - features.real_time_sec > 0.1  # below, streams merely end unevenly
        notes = (f"sound after {round(features.real_time_sec, 1):g} s is left out",) if left_out else ()
        return Inputs(torch.cat([self._embed(before), media, self._embed(after)])[None], layout, self.generate_kwargs, notes)

    def decode(self, ids: list[int]) -> str:
        return self.tokenizer.decode([i for i in ids if i not in self.generate_kwargs["eos_token_id"]]).strip()

    def tokenize(self, text: str) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]

    def _see(self, clip: Clip) -> torch.Tensor:
        """[F, V, D]"""
        frames = clip.frames
        if len(frames) < 2:
            # One frame would compute, but the model never met such a prompt: the original refuses it as well.
            raise UserError(
                f"{clip.name}: a video of {clip.n_source_frames / clip.fps:.2f} s gives {len(frames)} frame at "
                f"{self.settings.fps:g} per second, and {self.name} needs at least 2; give a longer clip"
            )
        pixels = pixel_values(np.stack([self._resize(frame) for frame in frames])).split(N_AT_ONCE)
        return self._gather([self.module.vision(part.to(self.device, self.model.dtype)) for part in pixels])

    def _hear(self, clip: Clip, seconds: float) -> tuple[torch.Tensor, int]:
        """([A, D], how many of them hear more than padding) of the first `seconds`."""
        rate = self._extractor.sampling_rate
        if clip.audio_rate != rate:
            raise UserError(f"{clip.name}: the sound must have {rate} samples per second, got {clip.audio_rate}")
        sound = clip.audio[: round(rate * seconds)]
        mels = log_mels(sound, self._extractor).split(N_AT_ONCE)
        tokens = self._gather([self.module.speech(part.to(self.device, self.model.dtype)) for part in mels])  # [P, W, D]
        tokens = tokens + segment_positions(len(tokens), tokens.shape[-1])[:, None].to(tokens)
        return tokens.flatten(0, 1), self.settings.n_audio(len(sound), rate)[1]

    def _times(self, n_frames: int, real_time_sec: float) -> torch.Tensor:
        """[F, longest, D]: the embedded time of each frame; zeros, not a padding token, fill the shorter ones."""
        return pad_sequence([self._embed(self.tokenize(text)) for text in time_texts(n_frames, real_time_sec)], batch_first=True)

    def _embed(self, ids: list[int]) -> torch.Tensor:
        """[n, D]"""
        return self.model.get_input_embeddings()(torch.tensor(ids, device=self.device)).to(self.device)

    def _gather(self, parts: list[torch.Tensor]) -> torch.Tensor:
        return torch.cat(parts).to(self.device)  # with a device map the encoders may run elsewhere

    def _zeros(self, *shape: int) -> torch.Tensor:
        return torch.zeros(shape, device=self.device, dtype=self.model.dtype)

    def _resize(self, frame: np.ndarray, n_frames: int = 1) -> np.ndarray:
        return resize(frame, self.module.vision.tower.config.image_size)
