"""video-SALMONN 2 (arXiv:2506.15220; not 2+): SigLIP for the picture, Whisper and a Q-Former for the sound, Qwen2 for the answer.

For every frame the decoder reads 13 rows of 13 visual tokens, a newline token after each row, then that frame's share of the
audio tokens. config.json does not tell the sizes of SigLIP, Whisper and the Q-Former, which the original code takes from three
other repositories; they are written down here.

Letters: F frames, V tokens of a frame, A audio tokens, P pieces of sound (30 s each), D width of the LLM.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import nn
from torch.nn.functional import max_pool2d
from torch.nn.utils.rnn import pad_sequence
from transformers import (
    Qwen2Config,
    Qwen2ForCausalLM,
    SiglipVisionConfig,
    SiglipVisionModel,
    WhisperConfig,
    WhisperFeatureExtractor,
)

from fastav.errors import UserError
from fastav.layout import TokenLayout
from fastav.media import Clip
from fastav.models.adapter import Fact, Inputs, no_clips, resolve
from fastav.models.qformer import Speech, segment_positions
from fastav.models.qwen2 import generate_kwargs, generation_fact, read_tokenizer
from fastav.models.siglip import SIZES, pixel_values, resize
from fastav.models.video_salmonn2_inputs import (
    N_POSITIONS,
    TRAINED_AS,
    Settings,
    align,
    interleave,
    interleaved_layout,
    log_mels,
    prompt_ids,
    time_texts,
)
from fastav.models.weights import Weights, describes, empty, load, locate, read_json

HUB_ID = "tsinghua-ee/video-SALMONN-2"
N_AT_ONCE = 8  # frames, or pieces of sound, that go through an encoder together

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

_TOWER = "model.vision_tower.vision_tower.vision_model."
_PARTS = {  # checkpoint prefix -> module prefix; the first that fits
    _TOWER: "vision.tower.",
    "model.mm_projector.": "vision.projector.",
    "model.image_newline": "vision.newline",
    "speech_encoder.": "speech.encoder.",
    "ln_speech.": "speech.norm.",
    "speech_query_tokens": "speech.query",
    "speech_Qformer.bert.": "speech.qformer.",
    "speech_llama_proj.": "speech.project.",
    "final_linear.": "speech.final.",
}
_UNUSED = ("speech_Qformer.bert.embeddings.position_ids", f"{_TOWER}post_layernorm.", f"{_TOWER}head.")
_LAYER = re.compile(re.escape(_TOWER) + r"encoder\.layers\.(\d+)\.")


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


@dataclass(frozen=True)
class Features:
    """visual [F, V, D] and audio [A, D], with F or A = 0 for what the clip lacks; n_sounding: audio tokens before the zero
    padding begins; real_time_sec: of the video.
    """

    visual: torch.Tensor
    audio: torch.Tensor
    n_sounding: int
    real_time_sec: float


class VideoSALMONN2Adapter:
    """See models/adapter.py. The global rule is the paper's: the first four frames, each with the audio that follows it.

    module is the VideoSALMONN2 with all parts, model its language model, tokenizer the checkpoint's own; ignored are the
    checkpoint's keys that no part needs; settings may be replaced (dataclasses.replace) but for those of the windows.
    """

    name = "video-salmonn-2"
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
        folder = self.folder = locate(checkpoint, HUB_ID, revision)
        self.checkpoint = str(checkpoint or HUB_ID)
        config, weights = read_json(folder, "config.json"), Weights(folder)
        if config.get("model_type") != "video_salmonn_2":
            raise UserError(
                f"{folder} holds a model of type {config.get('model_type')!r}; {self.name} reads 'video_salmonn_2' alone, and "
                "video-SALMONN 2+ is another model"
            )
        if not any(key.startswith(_TOWER) for key in weights.shapes):
            raise UserError(
                f"{folder} was saved without its vision tower; add vision_model.* of google/siglip-so400m-patch14-384 under the "
                f"names {_TOWER}*, without the last encoder layer and the head"
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
        self._extractor = WhisperFeatureExtractor(feature_size=self.module.speech.encoder.num_mel_bins)
        self.read_options = {"sampler": self._sample, "resize": self._resize, "channels": "first"}

    def encode(self, clip: Clip) -> Features:
        """Raises UserError for a video of one frame, or for sound at another rate than 16 kHz."""
        width = self.model.config.hidden_size
        visual, audio, n_sounding = self._zeros(0, 0, width), self._zeros(0, width), 0
        real_time_sec = clip.n_source_frames / clip.fps if clip.has_video else self.settings.max_time_sec
        if clip.has_video:
            visual = self._see(clip)
        if clip.has_audio:
            audio, n_sounding = self._hear(clip, real_time_sec)
        elif self.settings.add_time_token:
            visual = torch.cat([visual, self._times(len(visual), real_time_sec)], 1)
        return Features(visual, audio, n_sounding, real_time_sec)

    def prepare(self, features: Features, clip: Clip, question: str) -> Inputs:
        """Raises UserError for a prompt that is longer than the model reads."""
        before, after = prompt_ids(self.tokenize, question)
        groups, tail = align(len(features.audio), len(features.visual), features.real_time_sec)
        layout = interleaved_layout(len(before), features.visual.shape[1], groups, tail, features.n_sounding, len(after))
        layout = layout.with_facts(model=self.name)
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

    @staticmethod
    def calibration_clips(n: int) -> Iterator[tuple[Clip, str]]:
        raise no_clips(VideoSALMONN2Adapter.name)

    def _see(self, clip: Clip) -> torch.Tensor:
        """[F, V, D]"""
        frames = clip.frames
        if len(frames) == clip.n_source_frames:  # read_clip has sampled, arrays come whole
            frames = frames[self._sample(len(frames), clip.fps, clip.duration_sec)]
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

    def _sample(self, n_frames: int, fps: float, duration_sec: float) -> list[int]:
        return self.settings.sample(n_frames, fps, duration_sec)

    def _resize(self, frame: np.ndarray) -> np.ndarray:
        return resize(frame, self.module.vision.tower.config.image_size)


def llm_config(config: dict) -> Qwen2Config:
    """The language model's part of config.json, whose own model_type transformers does not know."""
    given = {**config, "rope_theta": _rope_theta(config)}
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


def layout_estimate(config: dict, duration_sec: float, n_before: int = 14, n_after: int = 16) -> TokenLayout:
    """The layout that a clip of 30 frames per second with sound gets at the published sizes; 14 + 16 text tokens are those of
    a short question.
    """
    settings = Settings.of(config)
    side = SIZES["image_size"] // SIZES["patch_size"] // 2
    n_frames = len(settings.sample(round(30 * duration_sec), 30, duration_sec))
    n_audio, n_sounding = settings.n_audio(round(16_000 * duration_sec))
    groups, tail = align(n_audio, n_frames, duration_sec)
    return interleaved_layout(n_before, side * (side + 1), groups, tail, n_sounding, n_after)


def token_estimate(config: dict, duration_sec: float) -> dict[str, int]:
    """Tokens per kind of a clip with sound and a short question."""
    return layout_estimate(config, duration_sec).count()


def facts(weights: Weights, config: dict, generation_config: dict | None) -> list[Fact]:
    """What the published checkpoint was never seen to say. Sizes and ids of a smaller one are told, not judged.

    Settings of training that config.json does not carry are told too: the adapter then takes those of the evaluation script.
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
    top = {"rope_theta": _rope_theta(config), **{k: v for k, v in config.items() if k not in ("rope_theta", "model_args")}}
    who = {"model_type": "video_salmonn_2", "architectures": ["VideoSALMONN2ForCausalLM"]}
    told = [Fact(k, str(v), str(config.get(k, "absent")), config.get(k) == v) for k, v in who.items()]
    told += [Fact(k, str(v), str(top.get(k, "absent")), top.get(k, v) == v) for k, v in settings.items()]
    kind = _rope_parameters(config).get("rope_type", "absent")
    told.append(Fact("rope_parameters.rope_type", "default", str(kind), kind in ("default", "absent")))
    told += [Fact(k, str(v), str(top.get(k, "absent")), top.get(k) == v or None) for k, v in sizes.items()]
    told += [Fact(k, str(v), str(config[k]), config[k] == v) for k, v in trained.items() if config.get(k) is not None]
    told += [Fact(f"model_args.{k}", str(v), str(own[k]), own[k] == v) for k, v in in_args.items() if own.get(k) is not None]
    absent = sorted(k for k in trained if config.get(k) is None and own.get(k) is None)
    told.append(Fact("settings that config.json lacks", "any", ", ".join(absent) or "none", None))

    n_tower = sum(key.startswith(_TOWER) for key in weights.shapes)
    told.append(Fact("vision tower in the checkpoint", "yes", f"{n_tower} tensors", n_tower > 0))
    n_lora = sum("lora_" in key for key in weights.shapes)
    told.append(Fact("LoRA merged", "0 tensors of adapters", f"{n_lora}", n_lora == 0))
    positions = weights.shapes.get("speech_encoder.embed_positions.weight", (0,))[0]
    told.append(Fact("Whisper positions in 30 s", str(N_POSITIONS), str(positions), positions == N_POSITIONS))
    told.append(generation_fact(generation_config))
    return told


def _rope_theta(config: dict) -> float | None:
    """Older files have it at the top, newer ones among the rope_parameters."""
    return config.get("rope_theta") or _rope_parameters(config).get("rope_theta")


def _rope_parameters(config: dict) -> dict:
    return config["rope_parameters"] if isinstance(config.get("rope_parameters"), dict) else {}
