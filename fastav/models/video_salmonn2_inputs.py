"""What video-SALMONN 2 reads: which frames, pixels, log-mels, the prompt, and the order of its tokens. No weights.

Letters: F frames, V tokens of a frame, A audio tokens, P pieces of sound (30 s each), S samples, D width of the LLM.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn.functional import interpolate
from transformers import WhisperFeatureExtractor

from fastav.errors import UserError
from fastav.layout import TokenLayout, first_frames

PIECE_SEC = 30
N_POSITIONS = 1500  # of the Whisper encoder, for one piece
RULE_N_FRAMES = 4  # frames that the paper's global rule keeps (arXiv:2601.13143)
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

    def sample(self, n_frames: int, fps: float, duration_sec: float) -> list[int]:
        """A media.Sampler: a frame per 1 / self.fps seconds, or as many as are allowed, evenly over the whole video."""
        indices = list(range(0, n_frames, max(round(fps / self.fps), 1)))
        limit = round(self.max_time_sec * self.fps)
        return indices if len(indices) <= limit else np.linspace(0, n_frames - 1, limit, dtype=int).tolist()

    def n_audio(self, n_samples: int, rate: int = 16_000) -> tuple[int, int]:
        """(A, how many of them begin before the zero padding does) for that much sound. A piece gives its full count always."""
        piece = PIECE_SEC * rate
        begins = np.arange(0, N_POSITIONS - self.window + 1, self.stride) * (piece // N_POSITIONS)
        begins = (np.arange(0, n_samples, piece)[:, None] + begins).ravel()
        return len(begins), int((begins < n_samples).sum())


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


def align(n_audio: int, n_frames: int, real_time_sec: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Which audio tokens follow which frame: (LongTensor [F, A'], LongTensor [tail]) of indices 0..A-1.

    The frames share the first 50 tokens per second, stretched to a multiple of F by repeating some; the tail follows the last
    frame. Since tokens come at 2 per second, and whole pieces of 30 s at a time, only a clip below 1.2 s has a tail, and in a
    clip of 10 s the first four frames get all of its sound and the others get padding. Without frames all is tail.
    """
    n_front = min(round(real_time_sec * 50), n_audio) if n_frames else 0
    front, tail = torch.arange(n_audio).split([n_front, n_audio - n_front])
    n_each = -(-n_front // max(n_frames, 1))
    if n_each * n_frames != n_front:
        # In float32, as in training: exact division differs at a position or two, for example for 60 tokens and 53 frames.
        front = interpolate(front[None, None].float(), size=n_each * n_frames, mode="nearest")[0, 0].long()
    return front.view(n_frames, n_each), tail


def interleave(visual: torch.Tensor, audio: torch.Tensor, groups: torch.Tensor, tail: torch.Tensor) -> torch.Tensor:
    """[M, D]: the tokens of each frame (visual [F, V, D]) followed by its group of audio [A, D], then the tail."""
    groups, tail = groups.to(audio.device), tail.to(audio.device)
    return torch.cat([torch.cat([visual, audio[groups]], 1).flatten(0, 1), audio[tail]])


def interleaved_layout(
    n_before: int, n_visual: int, groups: torch.Tensor, tail: torch.Tensor, n_sounding: int, n_after: int
) -> TokenLayout:
    """The layout of `interleave`'s tokens between n_before and n_after text tokens, with the paper's rule for this model.

    n_visual: V, newline and time tokens included; audio tokens with an index from n_sounding on encode padding alone.
    """
    segments: list[tuple] = [("text", n_before)]
    for heard in (groups < n_sounding).sum(1).tolist():
        segments += [("video", n_visual, 1), ("audio", groups.shape[1], heard)]
    heard = int((tail < n_sounding).sum())
    layout = TokenLayout.of(*segments, ("audio", len(tail), heard), ("text", n_after))
    return layout.with_facts(rule_keep=first_frames(layout, RULE_N_FRAMES))
