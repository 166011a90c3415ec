"""VideoLLaMA2.1-7B-AV (arXiv:2406.07476): SigLIP and STC connector for the picture, BEATs for the sound, Qwen2 for the answer.

Letters: N prompt tokens, D width of the decoder, F frames, S samples, T log-mel frames.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import nn
from transformers import Qwen2Config, Qwen2ForCausalLM, SiglipVisionConfig, SiglipVisionModel

from fastav.errors import UserError
from fastav.layout import TokenLayout, first_audio
from fastav.media import Clip
from fastav.models.adapter import Fact, Inputs, no_clips, resolve
from fastav.models.beats import Beats, BeatsConfig
from fastav.models.qwen2 import generate_kwargs, generation_fact, read_tokenizer
from fastav.models.siglip import SIZES, pixel_values, resize
from fastav.models.stc import STCConnector
from fastav.models.videollama2_inputs import (
    N_MEL_FRAMES,
    frame_indices,
    left_out,
    log_mel,
    n_sounding,
    prompt,
    sound,
)
from fastav.models.weights import Weights, describes, empty, load, locate, read_json

HUB_ID = "DAMO-NLP-SG/VideoLLaMA2.1-7B-AV"
N_FRAMES = 8  # where config.json does not say
RULE_N_AUDIO = 10  # audio tokens that the paper's global rule keeps
CHANNELS = "first-without-video"  # a video's sound is mixed, of a sound file the first channel is heard

_LLM_SETTINGS = (
    "vocab_size hidden_size intermediate_size num_hidden_layers num_attention_heads num_key_value_heads rms_norm_eps "
    "max_position_embeddings rope_theta eos_token_id"
).split()
_LLM_OPTIONS = (
    "bos_token_id hidden_act tie_word_embeddings use_sliding_window sliding_window max_window_layers rope_scaling"
).split()

_PARTS = {  # of the checkpoint's keys, and of VideoLLaMA2's
    "model.vision_tower.vision_tower.vision_model.": "vision.",
    "model.mm_projector.": "connector.",
    "model.mm_projector_a.": "audio_projector.",
    "model.audio_tower.": "audio.",
}
_UNUSED = ("vision.post_layernorm.", "vision.head.", "audio.predictor.")
_TABLE = re.compile(r"model\.audio_tower\.encoder\.layers\.(\d+)\.self_attn\.relative_attention_bias\.weight")

EXPECTED = {  # in config.json
    "model_type": "videollama2_qwen2",
    "architectures": ["Videollama2Qwen2ForCausalLM"],
    "num_frames": N_FRAMES,
    "torch_dtype": "bfloat16",
    "mm_projector_type": "stc_connector_v35",
    "mm_projector_a_type": "mlp2x_gelu",
    "mm_vision_select_layer": -2,
    "mm_vision_select_feature": "patch",
    "image_aspect_ratio": "pad",
    "rope_theta": 1e6,
    "rope_scaling": None,
    "rms_norm_eps": 1e-6,
    "hidden_act": "silu",
    "tie_word_embeddings": False,
    "use_sliding_window": False,
}
EXPECTED_SIZES = {
    "hidden_size": 3584,
    "intermediate_size": 18944,
    "num_hidden_layers": 28,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
    "vocab_size": 152064,
    "max_position_embeddings": 32768,
    "bos_token_id": 151643,
    "eos_token_id": 151645,
    "mm_vision_tower": "google/siglip-so400m-patch14-384",
    "mm_hidden_size": 1152,
    "mm_hidden_size_a": 768,
    "hidden_size_a": 3584,
}
_BOOKKEEPING = (
    "tokenizer_model_max_length tokenizer_padding_side use_mm_proj tune_mm_mlp_adapter_a freeze_mm_mlp_adapter mm_projector_lr"
).split()


class VideoLLaMA2(nn.Module):
    """All parts of one checkpoint; `config` is its config.json. The language model is a stock Qwen2ForCausalLM."""

    def __init__(self, config: dict):
        super().__init__()
        self.llm = Qwen2ForCausalLM(llm_config(config))
        width = self.llm.config.hidden_size
        self.vision = SiglipVisionModel(vision_config(config))
        self.vision.post_layernorm = nn.Identity()  # the connector was trained on what a layer inside the tower gives
        self.connector = STCConnector(self.vision.config.hidden_size, width)
        sizes = beats_config(config)
        self.audio = Beats(sizes)
        self.audio_projector = nn.Sequential(nn.Linear(sizes.encoder_embed_dim, width), nn.GELU(), nn.Linear(width, width))

    def encode_video(self, pixels: torch.Tensor) -> torch.Tensor:
        """Pixels [F, 3, h, w] in -1..1 -> [F//2, tokens of a time step, D]."""
        return self.connector(self.vision(pixels).last_hidden_state)

    def encode_audio(self, mel: torch.Tensor) -> torch.Tensor:
        """Log-mel frames [T, 128] -> [8 (T // 16), D]."""
        return self.audio_projector(self.audio(mel))


@dataclass(frozen=True)
class Features:
    """video [time steps, tokens of a step, D] or None, audio [n, D] or None, n_sounding: audio tokens before the zero
    padding begins; notes: of what was left out.
    """

    video: torch.Tensor | None
    audio: torch.Tensor | None
    n_sounding: int = 0
    notes: tuple[str, ...] = ()


class VideoLLaMA2Adapter:
    """See models/adapter.py. The global rule is the paper's: all video tokens and the first 10 audio tokens.

    module is the VideoLLaMA2 with all parts, model its language model, tokenizer the checkpoint's own; ignored are the
    checkpoint's keys that no part needs.
    """

    name = "videollama2.1-av"
    n_new_tokens = 512
    about = (
        "VideoLLaMA2.1-7B-AV answers open questions about real-life clips with sound. Of any clip it sees 8 frames and hears "
        "eight stretches of 2 s, so it knows nothing of what falls between them."
    )

    def __init__(self, checkpoint=None, *, revision=None, dtype=None, device=None, device_map=None, attn=None):
        self.device, dtype, attn = resolve(device, dtype, attn, device_map)
        folder = self.folder = locate(checkpoint, HUB_ID, revision)
        self.checkpoint = str(checkpoint or HUB_ID)
        config, weights = read_json(folder, "config.json"), Weights(folder)
        with describes(folder, "VideoLLaMA2.1-AV"):
            self.n_frames, self.audio_sizes = frames_per_clip(config), beats_config(config)
            self.module = empty(lambda: VideoLLaMA2(config))
        self.module.llm.set_attn_implementation(attn)
        self.module.vision.set_attn_implementation(attn)
        n_vision, table = self.module.vision.config.num_hidden_layers, min(_table_layers(weights), default=0)
        renamed = partial(rename, n_vision_layers=n_vision, table_layer=table)
        options = {"device": self.device, "dtype": dtype, "device_map": device_map}
        self.ignored = load(self.module, weights, renamed, original=original, **options)
        self.model = self.module.llm
        self.tokenizer = read_tokenizer(folder)
        self.generate_kwargs = generate_kwargs(folder, config, self.tokenizer, pad="<|im_end|>")
        self.read_options = {"sampler": self._sample, "resize": self._resize, "channels": CHANNELS}

    def encode(self, clip: Clip) -> Features:
        video = audio = None
        n_heard = 0
        if clip.has_video:
            frames = clip.frames
            if len(frames) != self.n_frames:  # read_clip has sampled, arrays come whole
                frames = frames[frame_indices(len(frames), self.n_frames)]
            pixels = pixel_values(np.stack([self._resize(frame) for frame in frames]))
            video = self.module.encode_video(pixels.to(self.device, self.model.dtype)).to(self.device)
        if clip.has_audio:
            samples, n_samples = sound(clip)
            audio = self.module.encode_audio(log_mel(samples).to(self.device)).to(self.device)
            n_heard = n_sounding(n_samples, self.audio_sizes)
        return Features(video, audio, n_heard, left_out(clip))

    def prepare(self, features: Features, clip: Clip, question: str) -> Inputs:
        parts, segments = [], []
        if features.video is not None:
            n_steps, n_tokens, _ = features.video.shape
            parts.append(features.video.flatten(0, 1))
            segments.append(("video", n_steps * n_tokens, n_steps))
        if features.audio is not None:
            parts.append(features.audio)
            segments.append(("audio", len(features.audio), features.n_sounding))
        placeholder = "<audio>" if features.video is None else "<video>"
        prefix, suffix = (self._embed(text) for text in prompt(question, placeholder).split(placeholder))
        layout = TokenLayout.of(("text", len(prefix)), *segments, ("text", len(suffix)))
        layout = layout.with_facts(rule_keep=first_audio(layout, RULE_N_AUDIO), model=self.name)
        return Inputs(torch.cat([prefix, *parts, suffix])[None], layout, self.generate_kwargs, features.notes)

    def decode(self, ids: list[int]) -> str:
        return self.tokenizer.decode(ids, skip_special_tokens=True).strip()

    @staticmethod
    def calibration_clips(n: int) -> Iterator[tuple[Clip, str]]:
        raise no_clips(VideoLLaMA2Adapter.name)

    def _embed(self, text: str) -> torch.Tensor:
        ids = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return self.model.get_input_embeddings()(torch.tensor(ids, device=self.device)).to(self.device)

    def _sample(self, n_frames: int, fps: float, duration_sec: float) -> list[int]:
        return frame_indices(n_frames, self.n_frames)

    def _resize(self, frame: np.ndarray) -> np.ndarray:
        return resize(frame, self.module.vision.config.image_size)


def frames_per_clip(config: dict) -> int:
    """Raises UserError for fewer than the two of a time step, or for what is no number of frames."""
    n = config.get("num_frames", N_FRAMES)
    if type(n) is not int or n < 2:
        raise UserError(f"config.json has num_frames = {n!r}; allowed: a whole number of 2 or more")
    return n


def llm_config(config: dict) -> Qwen2Config:
    """The language model's part of config.json, whose own model_type transformers does not know.

    Raises UserError for one that lacks a setting: a default would compute, and wrongly.
    """
    lacking = [name for name in _LLM_SETTINGS if config.get(name) is None]
    if lacking:
        raise UserError(f"config.json lacks {', '.join(lacking)}; give a folder that holds VideoLLaMA2.1-AV")
    return Qwen2Config(**{name: config[name] for name in (*_LLM_SETTINGS, *_LLM_OPTIONS) if name in config})


def vision_config(config: dict) -> SiglipVisionConfig:
    """The image tower up to the layer whose output is used: 26 of the published tower's 27."""
    sizes = config.get("tiny_vision_config", SIZES)
    n_layers = range(sizes["num_hidden_layers"] + 1)[config.get("mm_vision_select_layer", -2)]
    kept = {name: sizes[name] for name in SIZES}
    return SiglipVisionConfig(**{**kept, "num_hidden_layers": n_layers, "vision_use_head": False})


def beats_config(config: dict) -> BeatsConfig:
    return BeatsConfig.of(config.get("tiny_beats_config", {}))


def rename(key: str, n_vision_layers: int = 26, table_layer: int = 0) -> str | None:
    """Checkpoint key -> name in VideoLLaMA2, or None for what it does not need (see weights.load).

    n_vision_layers   layers of the image tower that run.
    table_layer       all layers of the audio tower share one table of relative positions, of which a file may hold many
                      copies: the layer whose copy is used.
    """
    if copy := _TABLE.fullmatch(key):
        return "audio.encoder.relative_attention_bias.weight" if int(copy[1]) == table_layer else None
    name = next((new + key.removeprefix(old) for old, new in _PARTS.items() if key.startswith(old)), f"llm.{key}")
    layer = re.match(r"vision\.encoder\.layers\.(\d+)\.", name)
    above = layer and int(layer[1]) >= n_vision_layers
    return None if above or name.startswith(_UNUSED) else name


def original(name: str) -> str:
    """Name in VideoLLaMA2 -> checkpoint key: `rename` the other way round, with the first layer's copy of the table."""
    if name == "audio.encoder.relative_attention_bias.weight":
        return "model.audio_tower.encoder.layers.0.self_attn.relative_attention_bias.weight"
    keys = (old + name.removeprefix(new) for old, new in _PARTS.items() if name.startswith(new))
    return next(keys, name.removeprefix("llm."))


def _table_layers(weights: Weights) -> list[int]:
    """Layers whose copy of the audio tower's table the checkpoint holds."""
    return sorted(int(copy[1]) for copy in map(_TABLE.fullmatch, weights.shapes) if copy)


def token_estimate(config: dict, duration_sec: float) -> dict[str, int]:
    """Tokens per kind of a clip with sound and a short question; at any duration they are the same."""
    vision, audio = vision_config(config), beats_config(config)
    side = vision.image_size // vision.patch_size // 2
    return {
        "text": 34,
        "video": frames_per_clip(config) // 2 * side * side,
        "audio": audio.n_tokens(N_MEL_FRAMES),
    }


def facts(weights: Weights, config: dict, generation_config: dict | None) -> list[Fact]:
    """What the published checkpoint was never seen to say. Sizes and ids of a smaller one are told, not judged."""
    told = [Fact(k, str(v), str(config.get(k, "absent")), config.get(k) == v) for k, v in EXPECTED.items()]
    told += [Fact(k, str(v), str(config.get(k, "absent")), config.get(k) == v or None) for k, v in EXPECTED_SIZES.items()]
    told += [Fact(k, "", str(config.get(k, "absent")), None) for k in _BOOKKEEPING]
    told.append(Fact("mm_audio_tower", "present", str(config.get("mm_audio_tower")), bool(config.get("mm_audio_tower"))))
    whole = config.get("tune_mm_mlp_adapter", "absent")
    told.append(Fact("tune_mm_mlp_adapter", "False or absent", str(whole), whole in (False, "absent")))

    n_vision = sum(key.startswith("model.vision_tower.") for key in weights.shapes)
    told.append(Fact("image tower in the checkpoint", "yes", f"{n_vision} tensors", n_vision > 0))
    tower = "model.audio_tower."
    norm = weights.shapes.get(f"{tower}encoder.pos_conv.0.weight_g")
    told.append(Fact("BEATs weight norm", "weight_g of (1, 1, kernel)", str(norm), norm is not None and norm[:2] == (1, 1)))
    squeeze = weights.shapes.get("model.mm_projector.s1.b1.se.fc1.weight", (0,))[0]
    quarter = vision_config(config).hidden_size // 4
    told.append(Fact("squeeze-and-excite width of s1.b1", str(quarter), str(squeeze), squeeze == quarter))
    told.append(Fact("copies of BEATs' distance table", "1 or 12", str(len(_table_layers(weights))), None))
    classifier = "present" if f"{tower}predictor.weight" in weights.shapes else "absent"
    told.append(Fact("BEATs classifier, unused", "", classifier, None))
    told.append(generation_fact(generation_config))
    return told
