"""Adapter of Qwen2.5-Omni (3B, 7B): the thinker of stock transformers, which sees, hears and answers in text.

Picture and sound enter interleaved, 2 s of video, then the same 2 s of audio, all on one time axis of 25 positions per second
(M-RoPE). The talker and the vocoder are not loaded. Sources: transformers' processor and model of this family, and the defaults
of the publisher's own reader (QwenLM/Qwen2.5-Omni, qwen-omni-utils) for which frames to take and how large.

Letters: N prompt tokens, D width of the decoder, F frames, T temporal steps of 2 frames, V / A video / audio tokens.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from transformers import (
    Qwen2_5OmniThinkerConfig,
    Qwen2_5OmniThinkerForConditionalGeneration,
    Qwen2VLImageProcessorPil,
    WhisperFeatureExtractor,
)
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize

from fastav.errors import UserError
from fastav.layout import layout_of
from fastav.media import AUDIO_RATE, Clip
from fastav.models.adapter import Fact, Inputs, no_clips, resolve
from fastav.models.qwen2 import generate_kwargs, read_tokenizer
from fastav.models.weights import Weights, describes, empty, load, locate, read_json

HUB_ID = "Qwen/Qwen2.5-Omni-3B"

# What the checkpoint's chat template inserts. The longer published prompt ("a virtual human ...") is for speech output.
SYSTEM = "You are a helpful assistant."

# The publisher's limits. 768 frames are 384 s at 2 per second, beyond which a step stands for more than its second; the total
# is 90 % of 128,000 tokens of 28 x 28 pixels in 2 frames and binds from 300 frames on. At least 4 frames: two temporal steps.
FPS, MIN_FRAMES, MAX_FRAMES = 2.0, 4, 768
MIN_PIXELS, MAX_PIXELS, TOTAL_PIXELS = 128 * 28 * 28, 768 * 28 * 28, int(0.9 * 128_000 * 28 * 28)
FRAMES_PER_STEP = 2
SECONDS_PER_STEP = FRAMES_PER_STEP / FPS  # also where frames lie otherwise: the publisher's processor does not look

_BRACKETS = {  # (video, audio): what stands before and after the media tokens
    (True, True): ("<|vision_bos|><|audio_bos|>", "<|audio_eos|><|vision_eos|>"),
    (True, False): ("<|vision_bos|>", "<|vision_eos|>"),
    (False, True): ("<|audio_bos|>", "<|audio_eos|>"),
}


def sample_frames(n_frames: int, fps: float) -> list[int]:
    """Indices of an even number of frames, 2 per second from the first to the last; one frame alone is taken twice."""
    limit = min(MAX_FRAMES, n_frames)
    n = int(min(max(n_frames / fps * FPS, MIN_FRAMES), limit)) // FRAMES_PER_STEP * FRAMES_PER_STEP
    return torch.linspace(0, n_frames - 1, max(n, FRAMES_PER_STEP)).round().long().tolist()


def frame_size(height: int, width: int, n_frames: int, factor: int = 28) -> tuple[int, int]:
    """(height, width) that each of `n_frames` frames is resized to: multiples of `factor`, between the limits in pixels.

    Raises UserError for a picture more than 200 times as long as wide.
    """
    limit = max(min(MAX_PIXELS, TOTAL_PIXELS * FRAMES_PER_STEP // n_frames), int(1.05 * MIN_PIXELS))
    try:
        return smart_resize(height, width, factor, MIN_PIXELS, limit)
    except ValueError as error:
        raise UserError(f"a picture of {width} x {height} is too narrow for this model ({error})") from error


def audio_tokens(n_mel: int) -> int:
    """Tokens of `n_mel` spectrogram frames of 10 ms: halved by a convolution, then pooled in pairs; 25 a second."""
    return max(((n_mel - 1) // 2 + 1) // 2, 0)


class _Reader:
    """Sampler and resizer of one clip: how large a frame may be depends on how many there are."""

    def __init__(self, factor: int):
        self.factor, self.n_frames = factor, MIN_FRAMES

    def sample(self, n_frames: int, fps: float, duration_sec: float) -> list[int]:
        indices = sample_frames(n_frames, fps)
        self.n_frames = len(indices)
        return indices

    def resize(self, frame: np.ndarray) -> np.ndarray:
        height, width = frame_size(*frame.shape[:2], self.n_frames, self.factor)
        if frame.shape[:2] == (height, width):
            return frame
        return np.asarray(Image.fromarray(frame).resize((width, height), Image.Resampling.BICUBIC))


@dataclass(frozen=True)
class _Features:
    """video [V, D], its grid [1, 3] (T, height and width in patches), audio [A, D] of n_mel spectrogram frames; None: absent."""

    video: torch.Tensor | None
    grid: torch.Tensor | None
    audio: torch.Tensor | None
    n_mel: int


class Qwen25OmniAdapter:
    """See models/adapter.py. The paper names no global rule for this model: positions < 750 stay, its general statement."""

    name = "qwen2.5-omni"
    n_new_tokens = 256
    about = (
        "Qwen2.5-Omni answers questions about pictures, sound and speech in real footage, in text. "
        "It sees two frames a second, 768 at most, and hears the first 300 s of a clip."
    )

    def __init__(self, checkpoint=None, *, revision=None, device=None, dtype=None, device_map=None, attn=None):
        self.device, dtype, attn = resolve(device, dtype, attn, device_map)
        folder = self.folder = locate(checkpoint, HUB_ID, revision)
        self.checkpoint = str(checkpoint or HUB_ID)
        thinker = _thinker(read_json(folder, "config.json"))
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
        # The stock model computes the logits of all N positions at prefill: 14 GB for a minute of HD video. Only the last counts.
        self.model.lm_head.register_forward_pre_hook(lambda module, args: (args[0][..., -1:, :],))

    @property
    def read_options(self) -> dict:
        """Anew for each clip, see _Reader."""
        reader = _Reader(self.pictures.patch_size * self.pictures.merge_size)
        return {"sampler": reader.sample, "resize": reader.resize, "channels": "mean"}

    def encode(self, clip: Clip) -> _Features:
        """Frames are taken as 2 per second and resized where their size is not the model's.

        Raises UserError for sound at another rate than 16 kHz.
        """
        video = grid = audio = None
        n_mel = 0
        if clip.has_video:
            pixels, grid = self.patches(clip.frames)
            grid = grid.to(self.device)
            found = self.model.get_video_features(pixels.to(self.model.dtype), video_grid_thw=grid)
            video = torch.cat(tuple(found.pooler_output)).to(self.device)
        if clip.has_audio:
            if clip.audio_rate != AUDIO_RATE:
                raise UserError(f"{clip.name}: the sound must have {AUDIO_RATE} samples per second, got {clip.audio_rate}")
            mel, mask = self.spectrogram(clip.audio)
            n_mel = int(mask.sum())
            if audio_tokens(n_mel):
                mel = mel.to(self.device, self.model.dtype)
                found = self.model.get_audio_features(mel, feature_attention_mask=mask.to(self.device))
                audio = found.last_hidden_state.to(self.device)
        return _Features(video, grid, audio, n_mel)

    def patches(self, frames: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        """uint8 [F, h, w, 3] -> what the vision encoder reads, float32 [patches, 3 * 2 * patch * patch], and its grid [1, 3]."""
        settings = self.pictures
        patch, merge, steps = settings.patch_size, settings.merge_size, settings.temporal_patch_size
        if pad := -len(frames) % steps:
            frames = np.concatenate([frames, frames[-1:].repeat(pad, 0)])
        reader = _Reader(patch * merge)
        reader.n_frames = len(frames)
        frames = np.stack([reader.resize(frame) for frame in frames])
        f, height, width = frames.shape[:3]
        t, gh, gw = f // steps, height // patch, width // patch
        mean, std = (torch.tensor(v, device=self.device) for v in (settings.image_mean, settings.image_std))
        pixels = (torch.from_numpy(frames).to(self.device) * settings.rescale_factor - mean) / std
        pixels = pixels.view(t, steps, gh // merge, merge, patch, gw // merge, merge, patch, 3)
        pixels = pixels.permute(0, 2, 5, 3, 6, 8, 1, 4, 7)  # step, block row and column, patch in the block, colour, frame, pixel
        return pixels.reshape(t * gh * gw, -1), torch.tensor([[t, gh, gw]])

    def spectrogram(self, sound: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        """float32 [S] at 16 kHz -> log-mel [1, 128, n] and which of its frames hold sound [1, n], 100 a second, 300 s at most.

        The publisher pads every sound to 300 s. A window of zeros behind the last sample gives the same frames in less time.
        """
        hop, window = self.sounds.hop_length, self.sounds.n_fft
        n_samples = min((math.ceil(len(sound) / hop) + math.ceil(window / hop)) * hop, self.sounds.n_samples)
        found = self.sounds(
            [sound],
            sampling_rate=AUDIO_RATE,
            padding="max_length",
            max_length=n_samples,
            return_attention_mask=True,
            return_tensors="pt",
        )
        return found["input_features"], found["attention_mask"]

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
        layout = layout.with_facts(model=self.name)
        return Inputs(embeds, layout, {**self._stop, "position_ids": positions}, self._notes(clip))

    def _notes(self, clip: Clip) -> tuple[str, ...]:
        """What was left out of the clip."""
        notes = []
        if len(clip.frames) < clip.n_source_frames and clip.n_source_frames / clip.fps * FPS > MAX_FRAMES:
            notes.append(f"the video is longer than {MAX_FRAMES / FPS:g} s: {MAX_FRAMES} frames, evenly over it, are taken")
        if len(clip.audio) > self.sounds.n_samples:
            notes.append(f"sound after {self.sounds.n_samples / AUDIO_RATE:g} s is left out")
        return tuple(notes)

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
            *encode(question, split_special_tokens=True),
            *encode("<|im_end|>\n<|im_start|>assistant\n"),
        ]

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

    @staticmethod
    def calibration_clips(n: int) -> Iterator[tuple[Clip, str]]:
        raise no_clips(Qwen25OmniAdapter.name)


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


def _thinker(config: dict) -> dict:
    if not isinstance(config.get("thinker_config"), dict):
        raise UserError(f"config.json of a Qwen2.5-Omni checkpoint has a thinker_config; this one has {', '.join(config)}")
    return config["thinker_config"]


def facts(weights: Weights, config: dict, generation_config: dict | None) -> list[Fact]:
    """What the adapter was written for, beside what this checkpoint says."""
    thinker = _thinker(config)
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
