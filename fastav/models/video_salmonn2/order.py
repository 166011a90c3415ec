"""The order of video-SALMONN 2's tokens: which audio tokens follow which frame, and the layout that comes of it.

Letters: F frames, V tokens of a frame, A audio tokens, D width of the LLM.
"""

from __future__ import annotations

import torch
from torch.nn.functional import interpolate

from fastav.layout import TokenLayout, first_steps

RULE_N_FRAMES = 4  # frames that the paper's global rule keeps (arXiv:2601.13143)


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
    return layout.with_facts(rule_keep=first_steps(layout, RULE_N_FRAMES))
