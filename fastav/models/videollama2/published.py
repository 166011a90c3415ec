"""What the published checkpoint of VideoLLaMA2.1-AV is expected to say, and what a folder says instead."""

from __future__ import annotations

from pathlib import Path

from fastav.models.adapter import Fact, Published
from fastav.models.qwen2 import generation_fact
from fastav.models.videollama2.inputs import N_MEL_FRAMES
from fastav.models.videollama2.module import N_FRAMES, beats_config, frames_per_clip, rename, table_layers, vision_config
from fastav.models.weights import Weights

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
    """What this checkpoint says, beside what the adapter was written for. Sizes and ids are told and not judged: a smaller
    checkpoint has others.
    """
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
    told.append(Fact("copies of BEATs' distance table", "1 or 12", str(len(table_layers(weights))), None))
    classifier = "present" if f"{tower}predictor.weight" in weights.shapes else "absent"
    told.append(Fact("BEATs classifier, unused", "", classifier, None))
    told.append(generation_fact(generation_config))
    return told


PUBLISHED = Published(
    hub_id="DAMO-NLP-SG/VideoLLaMA2.1-7B-AV",
    rename=rename,
    facts=facts,
    token_estimate=token_estimate,
    keys=Path(__file__).with_name("keys.json"),
)
