"""What eval/speed.py times: a decoder of real shape with random weights, and the prompt that one clip makes in a model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from transformers import AutoModelForCausalLM, Qwen2Config

from fastav import engine
from fastav.layout import TokenLayout, first_audio, first_positions
from fastav.methods import parse
from fastav.methods.cut import keys_again, lengths_of
from fastav.models.adapter import Inputs
from fastav.models.placement import check_memory
from fastav.models.video_salmonn2.order import align, interleaved_layout
from fastav.run import Request


def _videollama2() -> TokenLayout:
    """4 time steps of 2 frames (676 tokens) and 30 s of sound, of which 16 s (800 tokens) are there: N = 2,206."""
    layout = TokenLayout.of(("text", 14), ("video", 676, 4), ("audio", 1496, 800), ("text", 20))
    return layout.with_facts(rule_keep=first_audio(layout, 10))


def _video_salmonn2() -> TokenLayout:
    """10 s: 10 frames of 182 visual and 6 audio tokens; 20 of the 60 audio tokens hear more than padding: N = 1,910."""
    return interleaved_layout(14, 182, *align(60, 10, 10.0), 20, 16)


def _qwen2_5_omni() -> TokenLayout:
    """60 s: 30 turns of 288 video tokens (2 time steps) and 50 of sound, between 80 of text: N = 10,220."""
    turns = [turn for _ in range(30) for turn in (("video", 288, 2), ("audio", 50))]
    layout = TokenLayout.of(("text", 40), *turns, ("text", 40))
    return layout.with_facts(rule_keep=first_positions(layout, 750))


MODELS: dict[str, Callable[[], TokenLayout]] = {
    "videollama2.1-av": _videollama2,
    "video-salmonn-2": _video_salmonn2,
    "qwen2.5-omni": _qwen2_5_omni,
}

# Qwen2-7B, the decoder of both models; all its widths divided by 7; and one that only shows that the command works.
SIZES = {
    "real": dict(hidden_size=3584, intermediate_size=18944, num_hidden_layers=28, num_attention_heads=28, num_key_value_heads=4),
    "scaled": dict(hidden_size=512, intermediate_size=2706, num_hidden_layers=28, num_attention_heads=8, num_key_value_heads=2),
    "tiny": dict(hidden_size=32, intermediate_size=64, num_hidden_layers=4, num_attention_heads=2, num_key_value_heads=1),
}
VOCABULARY = {"real": 152064, "scaled": 152064 // 7, "tiny": 100}


@dataclass(frozen=True)
class Case:
    """One method on the prompt, by the name that was typed; lengths [L]: planned tokens per layer; keys_again: see flops.py."""

    label: str
    request: Request
    lengths: list[int]
    keys_again: int = 0


def labels(percents: list[int]) -> list[str]:
    """FastAV and trim+FastAV at every P."""
    return [f"{trim}fastav:p={p}" for trim in ("", "trim+") for p in percents]


def cases(layout: TokenLayout, embeds: torch.Tensor, methods: list[str], config) -> list[Case]:
    """Vanilla first, then these methods. Raises UserError for one that is none or does not fit."""
    found, n_layers = [], config.num_hidden_layers
    for label in ["vanilla", *methods]:
        request = Request.of(Inputs(embeds, layout), parse(label, n_layers), config)
        cuts, n_tokens = request.method.cuts(request.inputs.layout, n_layers), len(request.inputs.layout)
        found.append(Case(label, request, lengths_of(cuts, n_tokens, n_layers), keys_again(cuts, n_tokens)))
    return found


def build(size: str, device: torch.device, dtype: torch.dtype, attn: str):
    """A stock Qwen2 with random weights, hooks installed. It never stops by itself: all runs have the same length."""
    torch.manual_seed(0)
    config = Qwen2Config(vocab_size=VOCABULARY[size], bos_token_id=None, eos_token_id=None, pad_token_id=None, **SIZES[size])
    with torch.device("meta"):
        n_parameters = AutoModelForCausalLM.from_config(config).num_parameters()
    check_memory(n_parameters * dtype.itemsize, device, dtype)
    with torch.device(device):
        model = AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation=attn).eval()
    engine.install(model)
    return model
