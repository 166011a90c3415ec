"""FastAV-tiny: two small encoders and a stock Qwen2 decoder, in the layout of VideoLLaMA2.

    <bos> <user> | 128 video tokens (8 frames x 4 x 4) | 200 audio tokens (100 times x 2 bands) | question <assistant>
    | answer <eos>

Letters: D 192, the width of everything.
"""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import Qwen2Config, Qwen2ForCausalLM

from fastav.errors import UserError
from fastav.tiny.sampling import N_BANDS, N_SAMPLES, N_TIMES, RATE
from fastav.tiny.tokenizer import SPECIAL, Tokenizer

WIDTH = 192
FEATURE_SCALE = 10.0  # encoder outputs have norm 15-20, word embeddings 1
DECODER = dict(
    hidden_size=WIDTH,
    intermediate_size=384,
    num_hidden_layers=8,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=1024,
    tie_word_embeddings=True,
    rope_parameters={"rope_type": "default", "rope_theta": 1e6},
)


def mel_filters(n_mels: int = 64, n_fft: int = 512, low: float = 30.0, high: float = 8000.0) -> torch.Tensor:
    """float32 [n_fft // 2 + 1, n_mels]: triangles on the mel scale 2595 log10(1 + f / 700)."""
    mel = lambda f: 2595 * np.log10(1 + f / 700)  # noqa: E731
    edges = 700 * (10 ** (np.linspace(mel(low), mel(high), n_mels + 2) / 2595) - 1)
    freqs = np.linspace(0, RATE / 2, n_fft // 2 + 1)[:, None]
    rise = (freqs - edges[:-2]) / (edges[1:-1] - edges[:-2])
    fall = (edges[2:] - freqs) / (edges[2:] - edges[1:-1])
    return torch.from_numpy(np.maximum(0, np.minimum(rise, fall)).astype(np.float32))


def log_mel(samples: torch.Tensor) -> torch.Tensor:
    """float32 [B, 64, 400] from [B, 64000]: 512-point Hann spectra every 10 ms, log(mel power + 1e-4) / 4."""
    spectrum = torch.stft(samples, 512, 160, window=torch.hann_window(512, device=samples.device), return_complex=True)
    power = spectrum.abs().square()[..., :400].transpose(1, 2) @ mel_filters().to(samples.device)
    return ((power + 1e-4).log() / 4).transpose(1, 2)


def _conv(n_in, n_out, kernel, stride=1, padding=None, dilation=1):
    if padding is None:
        padding = kernel // 2
    return nn.Sequential(
        nn.Conv2d(n_in, n_out, kernel, stride, padding, dilation=dilation, bias=False), nn.BatchNorm2d(n_out), nn.ReLU()
    )


class VisionEncoder(nn.Module):
    """float [B, 3, 112, 112] in 0..1 -> [B, 16, D], row-major patches."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(
            _conv(3, 32, 4, 4, 0),
            _conv(32, 64, 3, 2),
            _conv(64, 64, 3),
            _conv(64, 128, 3, 2),
            _conv(128, 128, 3),
            _conv(128, 192, 3, 2),
        )
        self.out = nn.Linear(192, WIDTH)

    def forward(self, frames):
        return self.out(self.layers(frames - 0.5).flatten(2).transpose(1, 2))


class AudioEncoder(nn.Module):
    """log-mel [B, 64, 400] -> [B, 200, D], time-major: token = 2 t + band."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(
            _conv(1, 32, 5, (4, 2)),
            _conv(32, 64, 3, 2),
            _conv(64, 96, (4, 3), (4, 1), (0, 1)),
            _conv(96, 96, 3, 1, (1, 3), (1, 3)),
            _conv(96, 192, 3, 1, (1, 6), (1, 6)),
        )
        self.out = nn.Linear(192, WIDTH)

    def forward(self, mel):
        x = self.layers(mel[:, None] + 1.0)  # [B, 192, 2, 100]
        return self.out(x.permute(0, 3, 2, 1).flatten(1, 2))


class Projector(nn.Module):
    """Encoder features -> decoder embeddings: linear, started at the identity, plus a learned vector per place (patch
    or band).
    """

    def __init__(self, n_places: int):
        super().__init__()
        self.linear = nn.Linear(WIDTH, WIDTH)
        nn.init.eye_(self.linear.weight)
        nn.init.normal_(self.linear.bias, std=1 / math.sqrt(WIDTH))
        self.place = nn.Parameter(3 * torch.randn(n_places, WIDTH) / math.sqrt(WIDTH))

    def forward(self, features):
        n = features.shape[-2]
        return self.linear(features / FEATURE_SCALE) + self.place.repeat(n // len(self.place), 1)


class TinyAV(nn.Module):
    """The whole model; see the module. words: its vocabulary, by default that of the world's questions."""

    def __init__(self, words: list[str] | None = None):
        super().__init__()
        self.tokenizer = Tokenizer(words)
        self.vision, self.audio = VisionEncoder(), AudioEncoder()
        self.vision_projector, self.audio_projector = Projector(16), Projector(N_BANDS)
        config = Qwen2Config(
            vocab_size=len(self.tokenizer.words),
            bos_token_id=self.tokenizer.bos_id,
            eos_token_id=self.tokenizer.eos_id,
            pad_token_id=self.tokenizer.eos_id,
            **DECODER,
        )
        self.decoder = Qwen2ForCausalLM(config)

    def encode_video(self, frames: torch.Tensor) -> torch.Tensor:
        """[128, D] from uint8 [8, 112, 112, 3]."""
        weight = self.vision.out.weight
        pixels = frames.to(weight.device).permute(0, 3, 1, 2).to(weight.dtype) / 255
        return self.vision_projector(self.vision(pixels).flatten(0, 1))

    def encode_audio(self, samples: torch.Tensor) -> torch.Tensor:
        """[200, D] from float32 [64000] at 16 kHz."""
        weight = self.audio.out.weight
        return self.audio_projector(self.audio(log_mel(samples[None].to(weight.device)).to(weight.dtype))[0])

    def embed_prompt(self, question: str) -> tuple[torch.Tensor, torch.Tensor]:
        """([2, D] before the media, [m, D] after them). Raises UserError for an unknown word."""
        token = self.tokenizer
        ids = (token.bos_id, token.user_id, *token.encode(question), token.assistant_id)
        embeds = self.decoder.get_input_embeddings()(torch.tensor(ids, device=self.decoder.device))
        return embeds[:2], embeds[2:]

    @staticmethod
    def n_sounding(n_samples: int) -> int:
        """Audio tokens that see sound when the first `n_samples` of 64,000 are sound: 40 ms and 2 bands per time."""
        return min(math.ceil(n_samples / (N_SAMPLES // N_TIMES)), N_TIMES) * N_BANDS


def save(model: TinyAV, folder: str | Path) -> None:
    """Weights in bfloat16 (the tied output matrix once), numbers and words in config.json."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    state = {k: v.detach().to(torch.bfloat16).contiguous() for k, v in model.state_dict().items() if _is_saved(k)}
    save_file(state, folder / "model.safetensors")
    config = {"decoder": model.decoder.config.to_diff_dict(), "words": model.tokenizer.words}
    (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n")


def load(folder: str | Path) -> TinyAV:
    """The model in float32 on CPU, ready to answer. Raises UserError naming missing, unexpected or misshapen tensors."""
    folder = Path(folder)
    try:
        words = json.loads((folder / "config.json").read_text())["words"]
        state = load_file(folder / "model.safetensors")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"cannot load FastAV-tiny from {folder}: {type(error).__name__}: {error}") from error
    except Exception as error:  # safetensors raises its own class for a damaged file
        raise UserError(f"{folder / 'model.safetensors'} is damaged: {error}") from error
    listed = isinstance(words, list) and all(isinstance(word, str) for word in words)
    if not listed or len(set(words)) < len(words) or not set(SPECIAL) <= set(words):
        raise UserError(f"{folder / 'config.json'} must list the model's words, once each, among them {', '.join(SPECIAL)}")
    model = TinyAV(words)
    wanted = {k: v.shape for k, v in model.state_dict().items() if _is_saved(k)}
    wrong = sorted(set(wanted) ^ set(state)) + sorted(k for k in set(wanted) & set(state) if wanted[k] != state[k].shape)
    if wrong:
        raise UserError(
            f"{folder / 'model.safetensors'} does not fit FastAV-tiny: missing, unexpected or misshapen {', '.join(wrong)}"
        )
    model.load_state_dict({k: v.float() for k, v in state.items()}, strict=False)
    model.decoder.tie_weights()
    return model.eval()


def _is_saved(key: str) -> bool:
    """Everything but the output matrix, which is the word embeddings, and counters that only training needs."""
    return key != "decoder.lm_head.weight" and not key.endswith("num_batches_tracked")
