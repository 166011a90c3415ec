"""The modules of VideoLLaMA2.1-AV, built from its config.json, and which of the checkpoint's keys fills which parameter.

Letters: D width of the decoder, F frames, T log-mel frames.
"""

from __future__ import annotations

import re

import torch
from torch import nn
from transformers import Qwen2Config, Qwen2ForCausalLM, SiglipVisionConfig, SiglipVisionModel

from fastav.errors import UserError
from fastav.models.siglip import SIZES
from fastav.models.videollama2.beats import Beats, BeatsConfig
from fastav.models.videollama2.stc import STCConnector
from fastav.models.weights import Weights

N_FRAMES = 8  # where config.json does not say

_LLM_SETTINGS = (
    "vocab_size hidden_size intermediate_size num_hidden_layers num_attention_heads num_key_value_heads rms_norm_eps "
    "max_position_embeddings rope_theta eos_token_id"
).split()
_LLM_OPTIONS = (
    "bos_token_id hidden_act tie_word_embeddings use_sliding_window sliding_window max_window_layers rope_scaling"
).split()

_PARTS = {  # checkpoint prefix -> module prefix; the first that fits
    "model.vision_tower.vision_tower.vision_model.": "vision.",
    "model.mm_projector.": "connector.",
    "model.mm_projector_a.": "audio_projector.",
    "model.audio_tower.": "audio.",
}
_UNUSED = ("vision.post_layernorm.", "vision.head.", "audio.predictor.")
_TABLE = re.compile(r"model\.audio_tower\.encoder\.layers\.(\d+)\.self_attn\.relative_attention_bias\.weight")


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


def table_layers(weights: Weights) -> list[int]:
    """Layers whose copy of the audio tower's table the checkpoint holds."""
    return sorted(int(copy[1]) for copy in map(_TABLE.fullmatch, weights.shapes) if copy)
