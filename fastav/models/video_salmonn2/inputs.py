"""What video-SALMONN 2 reads: which frames, log-mels and the prompt. No weights.

Letters: F frames, V tokens of a frame, A audio tokens, P pieces of sound (30 s each), S samples, D width of the LLM.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from transformers import WhisperFeatureExtractor

from fastav.errors import UserError

PIECE_SEC = 30
N_POSITIONS = 1500  # of the Whisper encoder, for one piece
SYSTEM = "You are a helpful assistant."

# What the adapter computes in one way only; a checkpoint trained in another way is refused.
TRAINED_AS = {
    "mm_projector_type": "mlp2x_gelu",
    "mm_pooling_position": "after",
    "mm_spatial_pool_mode": "max",
    "mm_spatial_pool_stride": 2,
    "mm_newline_position": "grid",
    "mm_patch_merge_type": "spatial_unpad",
    "num_speech_query_token": 1,
    "window_level_Qformer": True,
    "use_final_linear": True,
}


@dataclass(frozen=True)
class PerSecond:
    """Sampler: a frame per 1 / rate seconds, or as many as `max_time_sec` allows, evenly over the whole video."""

    rate: float
    max_time_sec: float

    def __call__(self, n_frames: int, fps: float, duration_sec: float = 0.0) -> list[int]:
        indices = list(range(0, n_frames, max(round(fps / self.rate), 1)))
        limit = round(self.max_time_sec * self.rate)
        return indices if len(indices) <= limit else np.linspace(0, n_frames - 1, limit, dtype=int).tolist()


@dataclass(frozen=True)
class Settings:
    """What the original code takes from its command line. Defaults are those of its evaluation script.

    fps              frames taken per second.
    max_time_sec     a longer video gives no more frames than this one; of a longer sound without video the rest is left out.
    second_per_window, second_stride   length and distance of the Q-Former's windows.
    add_time_token   the frames of a video without sound are followed by their time as text.
    max_tokens       of a whole prompt.
    Raises UserError for a value that is none.
    """

    fps: float = 1
    max_time_sec: float = 110
    second_per_window: float = 0.5
    second_stride: float = 0.5
    add_time_token: bool = True
    max_tokens: int = 32768

    def __post_init__(self):
        numbers = {name: value for name, value in vars(self).items() if name != "add_time_token"}
        wrong = {name: v for name, v in numbers.items() if type(v) not in (int, float) or not 0 < v < math.inf}
        if type(self.add_time_token) is not bool:
            wrong["add_time_token"] = self.add_time_token
        if wrong:
            raise UserError(f"config.json has {wrong}; allowed: numbers above 0, true or false for add_time_token")
        if not 1 <= self.window <= N_POSITIONS or self.stride < 1:
            raise UserError(
                f"config.json has windows of {self.second_per_window} s every {self.second_stride} s; allowed: 0.02 s or more, "
                f"and a window within {PIECE_SEC} s"
            )

    @classmethod
    def of(cls, config: dict) -> Settings:
        """From config.json: its `model_args`, which training wrote, and add_time_token.

        Other settings at its top level may be left from LLaVA-OneVision, on which the model was built; the original's evaluation
        overrides them, so they are not read. `facts` tells them. Raises UserError for what the adapter cannot follow.
        """
        given = {name: value for name, value in (config.get("model_args") or {}).items() if value is not None}
        if config.get("add_time_token") is not None:
            given.setdefault("add_time_token", config["add_time_token"])
        for name, only in TRAINED_AS.items():
            if given.get(name, only) != only:
                raise UserError(f"config.json has model_args.{name} = {given[name]!r}; this adapter knows {only!r} alone")
        free = ("fps", "second_per_window", "second_stride", "add_time_token")
        max_tokens = config.get("tokenizer_model_max_length")
        return cls(
            max_tokens=cls.max_tokens if max_tokens is None else max_tokens,
            **{name: given[name] for name in free if name in given},
        )

    @property
    def window(self) -> int:
        """Whisper positions (20 ms each) in a window."""
        return round(N_POSITIONS * self.second_per_window / PIECE_SEC)

    @property
    def stride(self) -> int:
        """Whisper positions from one window to the next."""
        return round(N_POSITIONS * self.second_stride / PIECE_SEC)

    @property
    def sampler(self) -> PerSecond:
        return PerSecond(self.fps, self.max_time_sec)

    def n_audio(self, n_samples: int, rate: int = 16_000) -> tuple[int, int]:
        """(A, how many of them begin before the zero padding does) for that much sound. A piece gives its full count always."""
        begins = self._begins(n_samples, rate)
        return len(begins), int((begins < n_samples).sum())

    def heard_sec(self, n_samples: int, rate: int = 16_000) -> np.ndarray:
        """float64 [A]: the middle of what each audio token hears."""
        return self._begins(n_samples, rate) / rate + self.window * PIECE_SEC / N_POSITIONS / 2

    def _begins(self, n_samples: int, rate: int) -> np.ndarray:
        """int64 [A]: the sample at which each window begins."""
        piece = PIECE_SEC * rate
        begins = np.arange(0, N_POSITIONS - self.window + 1, self.stride) * (piece // N_POSITIONS)
        return (np.arange(0, n_samples, piece)[:, None] + begins).ravel()


def log_mels(sound: np.ndarray, extractor: WhisperFeatureExtractor) -> torch.Tensor:
    """float32 [S] -> float32 [P, mels, 3000]: pieces of 30 s, each scaled by its own maximum, the last padded with zeros."""
    pieces = [sound[i : i + extractor.n_samples] for i in range(0, len(sound), extractor.n_samples)]
    return extractor(pieces, sampling_rate=extractor.sampling_rate, return_tensors="pt").input_features


def prompt_ids(tokenize: Callable[[str], list[int]], question: str) -> tuple[list[int], list[int]]:
    """Token ids before and after the media.

    The pieces are tokenized one by one, as in training: the newline after the media and the one before the question stay two
    tokens. Both <|im_end|> stay too; the original deletes them when its folder's path lacks "qwen", which training's had.
    """

    def joined(*texts: str) -> list[int]:
        return [token for text in texts for token in tokenize(text)]

    before = joined("<|im_start|>system", "\n", SYSTEM, "<|im_end|>", "\n", "<|im_start|>user", "\n")
    return before, joined("\n", "\n" + question.strip(), "<|im_end|>", "\n", "<|im_start|>assistant", "\n")


def time_texts(n_frames: int, real_time_sec: float) -> list[str]:
    """[F] the second at which each frame's share of the video ends."""
    share_sec = real_time_sec / n_frames
    return [str(round(share_sec * k, 1)) for k in range(1, n_frames + 1)]
