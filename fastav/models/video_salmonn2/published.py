"""What the published checkpoint of video-SALMONN 2 is expected to say, and what a folder says instead."""

from __future__ import annotations

from pathlib import Path

from fastav.layout import TokenLayout
from fastav.models.adapter import Fact, Published
from fastav.models.qwen2 import generation_fact
from fastav.models.siglip import SIZES
from fastav.models.video_salmonn2.inputs import N_POSITIONS, TRAINED_AS, Settings
from fastav.models.video_salmonn2.module import LLM, TOWER, rename, rope_parameters, rope_theta
from fastav.models.video_salmonn2.order import align, interleaved_layout
from fastav.models.weights import Weights


def layout_estimate(config: dict, duration_sec: float, n_before: int = 14, n_after: int = 16) -> TokenLayout:
    """The layout that a clip of 30 frames per second with sound gets at the published sizes; 14 + 16 text tokens are those of
    a short question.
    """
    settings = Settings.of(config)
    side = SIZES["image_size"] // SIZES["patch_size"] // 2
    n_frames = len(settings.sampler(round(30 * duration_sec), 30, duration_sec))
    n_audio, n_sounding = settings.n_audio(round(16_000 * duration_sec))
    groups, tail = align(n_audio, n_frames, duration_sec)
    return interleaved_layout(n_before, side * (side + 1), groups, tail, n_sounding, n_after)


def token_estimate(config: dict, duration_sec: float) -> dict[str, int]:
    """Tokens per kind of a clip with sound and a short question."""
    return layout_estimate(config, duration_sec).count()


def facts(weights: Weights, config: dict, generation_config: dict | None) -> list[Fact]:
    """What this checkpoint says, beside what the adapter was written for. Sizes and ids are told and not judged: a smaller
    checkpoint has others.

    Settings of training that config.json lacks are listed: the adapter then takes those of the evaluation script.
    """
    settings = {"hidden_act": "silu", "rope_scaling": None, "tie_word_embeddings": False, "use_sliding_window": False}
    settings |= {name: LLM[name] for name in ("rope_theta", "rms_norm_eps")}
    settings |= {"tokenizer_model_max_length": 32768, "model_max_length": 32768}
    sizes = {name: value for name, value in LLM.items() if name not in settings}
    sizes |= {"max_position_embeddings": 32768, "bos_token_id": 151643, "eos_token_id": 151645, "torch_dtype": "bfloat16"}
    sizes |= {"mm_vision_tower": "google/siglip-so400m-patch14-384", "mm_vision_select_layer": -2, "head_dim": 128}
    trained = TRAINED_AS | {"fps": 1, "second_per_window": 0.5, "second_stride": 0.5, "add_time_token": True}
    in_args = trained | {"max_time": 110, "model_max_length": 32768}
    own = config["model_args"] if isinstance(config.get("model_args"), dict) else {}
    top = {"rope_theta": rope_theta(config), **{k: v for k, v in config.items() if k not in ("rope_theta", "model_args")}}
    who = {"model_type": "video_salmonn_2", "architectures": ["VideoSALMONN2ForCausalLM"]}
    told = [Fact(k, str(v), str(config.get(k, "absent")), config.get(k) == v) for k, v in who.items()]
    told += [Fact(k, str(v), str(top.get(k, "absent")), top.get(k, v) == v) for k, v in settings.items()]
    kind = rope_parameters(config).get("rope_type", "absent")
    told.append(Fact("rope_parameters.rope_type", "default", str(kind), kind in ("default", "absent")))
    told += [Fact(k, str(v), str(top.get(k, "absent")), top.get(k) == v or None) for k, v in sizes.items()]
    told += [Fact(k, str(v), str(config[k]), config[k] == v) for k, v in trained.items() if config.get(k) is not None]
    told += [Fact(f"model_args.{k}", str(v), str(own[k]), own[k] == v) for k, v in in_args.items() if own.get(k) is not None]
    absent = sorted(k for k in trained if config.get(k) is None and own.get(k) is None)
    told.append(Fact("settings that config.json lacks", "any", ", ".join(absent) or "none", None))

    n_tower = sum(key.startswith(TOWER) for key in weights.shapes)
    told.append(Fact("vision tower in the checkpoint", "yes", f"{n_tower} tensors", n_tower > 0))
    n_lora = sum("lora_" in key for key in weights.shapes)
    told.append(Fact("LoRA merged", "0 tensors of adapters", f"{n_lora}", n_lora == 0))
    positions = weights.shapes.get("speech_encoder.embed_positions.weight", (0,))[0]
    told.append(Fact("Whisper positions in 30 s", str(N_POSITIONS), str(positions), positions == N_POSITIONS))
    told.append(generation_fact(generation_config))
    return told


PUBLISHED = Published(
    hub_id="tsinghua-ee/video-SALMONN-2",
    rename=rename,
    facts=facts,
    token_estimate=token_estimate,
    keys=Path(__file__).with_name("keys.json"),
)
