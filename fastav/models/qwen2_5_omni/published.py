"""What a published checkpoint of Qwen2.5-Omni is expected to say, and what a folder says instead."""

from __future__ import annotations

import math

from fastav.errors import UserError
from fastav.models.adapter import Fact, Published
from fastav.models.qwen2_5_omni.inputs import FRAMES_PER_STEP, audio_tokens, frame_size, sample_frames
from fastav.models.weights import Weights, read_json

# What the checkpoint's chat template inserts. The longer published prompt ("a virtual human ...") is for speech output.
SYSTEM = "You are a helpful assistant."


def rename(key: str) -> str | None:
    """Checkpoint key -> name in the thinker's state_dict; None for the parts that speak."""
    if key.startswith(("talker.", "token2wav.")):
        return None
    name = key.removeprefix("thinker.")
    if name.startswith("model."):
        return "model.language_" + name
    return name if name.startswith("lm_head.") else "model." + name


def original(name: str) -> str:
    """Name in the thinker's state_dict -> checkpoint key: `rename` the other way round."""
    if name.startswith("model.language_model."):
        return "thinker." + name.removeprefix("model.language_")
    return "thinker." + (name if name.startswith("lm_head.") else name.removeprefix("model."))


def thinker_config(config: dict) -> dict:
    if not isinstance(config.get("thinker_config"), dict):
        raise UserError(f"config.json of a Qwen2.5-Omni checkpoint has a thinker_config; this one has {', '.join(config)}")
    return config["thinker_config"]


def facts(weights: Weights, config: dict, generation_config: dict | None) -> list[Fact]:
    """What the adapter was written for, beside what this checkpoint says."""
    thinker = thinker_config(config)
    text, vision, audio = (thinker.get(f"{part}_config", {}) for part in ("text", "vision", "audio"))
    spoken = sum(key.startswith(("talker.", "token2wav.")) for key in weights.shapes)
    sounds = read_json(weights.folder, "preprocessor_config.json")
    rope = text.get("rope_parameters") or text.get("rope_scaling") or {}
    table = [
        ("audio placeholder id", 151646, thinker.get("audio_token_index")),
        ("video placeholder id", 151656, thinker.get("video_token_index")),
        ("positions per second", 25, thinker.get("position_id_per_seconds")),
        ("seconds per chunk", 2, thinker.get("seconds_per_chunk")),
        ("M-RoPE sections", [16, 24, 24], rope.get("mrope_section")),
        ("patch and frames per step", [14, 2], [vision.get("patch_size"), vision.get("temporal_patch_size")]),
        ("mel bins", 128, audio.get("num_mel_bins")),
        ("seconds of sound at most", 300, sounds.get("chunk_length")),
        ("output layer of its own", True, "thinker.lm_head.weight" in weights.shapes),
        ("default system prompt", True, SYSTEM in _template(weights.folder)),
    ]
    return [
        *(Fact(name, str(expected), str(found), expected == found) for name, expected, found in table),
        Fact("decoder layers, width", "", f"{text.get('num_hidden_layers')}, {text.get('hidden_size')}", None),
        Fact("tensors of the speaking parts", "", f"{spoken}, not loaded", None),
        Fact("stop ids in generation_config.json", "", str((generation_config or {}).get("eos_token_id")), None),
    ]


def _template(folder) -> str:
    """The chat template, wherever the checkpoint keeps it; "" when it has none."""
    files = [folder / name for name in ("chat_template.json", "chat_template.jinja", "tokenizer_config.json")]
    return "\n".join(file.read_text() for file in files if file.is_file())


def token_estimate(config: dict, duration_sec: float) -> dict[str, int]:
    """Tokens per kind of a clip with sound (1280 x 720, 30 frames per second) and a short question."""
    del config  # the same for all sizes of this family
    n_frames = len(sample_frames(max(round(30 * duration_sec), 1), 30.0))
    height, width = frame_size(720, 1280, n_frames)
    video = n_frames // FRAMES_PER_STEP * (height // 28) * (width // 28)
    return {"text": 40, "video": video, "audio": audio_tokens(min(math.ceil(100 * duration_sec), 30_000))}


PUBLISHED = Published(hub_id="Qwen/Qwen2.5-Omni-3B", rename=rename, facts=facts, token_estimate=token_estimate)
