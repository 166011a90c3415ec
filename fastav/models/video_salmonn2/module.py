"""The modules of video-SALMONN 2, built from its config.json, and which of the checkpoint's keys fills which parameter.

config.json does not tell the sizes of SigLIP, Whisper and the Q-Former, which the original code takes from three other
repositories; they are written down here.

Letters: F frames, V tokens of a frame, D width of the LLM.
"""

from __future__ import annotations

import math
import re

import torch
from torch import nn
from torch.nn.functional import max_pool2d
from transformers import Qwen2Config, Qwen2ForCausalLM, SiglipVisionConfig, SiglipVisionModel, WhisperConfig

from fastav.errors import UserError
from fastav.models.siglip import SIZES
from fastav.models.video_salmonn2.inputs import Settings
from fastav.models.video_salmonn2.qformer import Speech

_WHISPER = {  # the encoder of openai/whisper-large-v3
    "d_model": 1280,
    "encoder_layers": 32,
    "encoder_attention_heads": 20,
    "encoder_ffn_dim": 5120,
    "num_mel_bins": 128,
}
_QFORMER = {  # bert-base-uncased with two layers
    "hidden_size": 768,
    "num_hidden_layers": 2,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "layer_norm_eps": 1e-12,
}
LLM = {  # what the published config.json is expected to say
    "vocab_size": 152064,
    "hidden_size": 3584,
    "intermediate_size": 18944,
    "num_hidden_layers": 28,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1e6,
}
_LLM_OPTIONS = ("hidden_act", "max_position_embeddings", "use_sliding_window", "sliding_window", "max_window_layers")

TOWER = "model.vision_tower.vision_tower.vision_model."
_PARTS = {  # checkpoint prefix -> module prefix; the first that fits
    TOWER: "vision.tower.",
    "model.mm_projector.": "vision.projector.",
    "model.image_newline": "vision.newline",
    "speech_encoder.": "speech.encoder.",
    "ln_speech.": "speech.norm.",
    "speech_query_tokens": "speech.query",
    "speech_Qformer.bert.": "speech.qformer.",
    "speech_llama_proj.": "speech.project.",
    "final_linear.": "speech.final.",
}
_UNUSED = ("speech_Qformer.bert.embeddings.position_ids", f"{TOWER}post_layernorm.", f"{TOWER}head.")
_LAYER = re.compile(re.escape(TOWER) + r"encoder\.layers\.(\d+)\.")


class VideoSALMONN2(nn.Module):
    """All parts of one checkpoint: llm (a stock Qwen2ForCausalLM), vision, speech.

    `config` is its config.json; `sizes` the submodel_configs.json of a small checkpoint, {} for the published sizes.
    """

    _no_split_modules = ("Vision", "Speech")  # each holds a parameter itself, which must lie where its forward runs

    def __init__(self, config: dict, sizes: dict, settings: Settings):
        super().__init__()
        siglip = SIZES | sizes.get("siglip_vision_config", {})
        siglip |= {"num_hidden_layers": siglip["num_hidden_layers"] - 1, "vision_use_head": False}
        whisper = WhisperConfig(**_WHISPER | sizes.get("whisper_config", {}))
        qformer = _QFORMER | {k: v for k, v in sizes.get("qformer_bert_config", {}).items() if k in _QFORMER}
        self.llm = Qwen2ForCausalLM(llm_config(config))
        width = self.llm.config.hidden_size
        self.vision = Vision(SiglipVisionConfig(**siglip), width)
        self.speech = Speech(whisper, qformer, width, settings.window, settings.stride)


class Vision(nn.Module):
    """Pixels [F, 3, h, h] -> visual tokens [F, V, D]: SigLIP, projection, 2x2 max pool, a newline token after each row."""

    def __init__(self, siglip: SiglipVisionConfig, width: int):
        super().__init__()
        self.tower = SiglipVisionModel(siglip)
        self.tower.post_layernorm = nn.Identity()  # which this model never used
        self.projector = nn.Sequential(nn.Linear(siglip.hidden_size, width), nn.GELU(), nn.Linear(width, width))
        self.newline = nn.Parameter(torch.empty(width))

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        tokens = self.projector(self.tower(pixels).last_hidden_state).transpose(1, 2)
        side = math.isqrt(tokens.shape[-1])
        rows = max_pool2d(tokens.unflatten(-1, (side, side)), 2).permute(0, 2, 3, 1)  # [F, h', w', D], an odd edge dropped
        return torch.cat([rows, self.newline.expand(*rows.shape[:2], 1, -1)], 2).flatten(1, 2)


def llm_config(config: dict) -> Qwen2Config:
    """The language model's part of config.json, whose own model_type transformers does not know."""
    given = {**config, "rope_theta": rope_theta(config)}
    lacking = [name for name in LLM if given.get(name) is None]
    if lacking:
        raise UserError(f"config.json lacks {', '.join(lacking)}; give a folder that holds video-SALMONN 2")
    return Qwen2Config(
        **{name: given[name] for name in (*LLM, *_LLM_OPTIONS) if name in given and name != "rope_theta"},
        rope_parameters={"rope_type": "default", "rope_theta": float(given["rope_theta"])},  # the original forbids scaling
    )


def rename(key: str, n_vision_layers: int = SIZES["num_hidden_layers"] - 1) -> str | None:
    """Checkpoint key -> name in VideoSALMONN2, or None for what it does not need (see weights.load): a table (0..511) that
    nothing reads, and what the image tower holds above its first `n_vision_layers` layers.
    """
    layer = _LAYER.match(key)
    above = layer and int(layer[1]) >= n_vision_layers
    if above or key.startswith(_UNUSED):
        return None
    return next((new + key.removeprefix(old) for old, new in _PARTS.items() if key.startswith(old)), f"llm.{key}")


def original(name: str) -> str:
    """Name in VideoSALMONN2 -> checkpoint key: `rename` the other way round."""
    keys = (old + name.removeprefix(new) for old, new in _PARTS.items() if name.startswith(new))
    return next(keys, name.removeprefix("llm."))


def rope_theta(config: dict) -> float | None:
    """Older files have it at the top, newer ones among the rope_parameters."""
    return config.get("rope_theta") or rope_parameters(config).get("rope_theta")


def rope_parameters(config: dict) -> dict:
    return config["rope_parameters"] if isinstance(config.get("rope_parameters"), dict) else {}
