"""What a run costs: prefill FLOPs, KV-cache bytes, time per token, peak memory. Each number has one definition.

"FLOP" is not well defined: here, as in fvcore, one multiply-add counts one. Counted are the decoder layers at prefill
and the logits of the last position; encoders and decode steps are not. Attention counts all n x n scores, though a
causal kernel may skip half.

Letters: n tokens, d model width, m MLP width, H query heads, G key/value heads, E head width, V vocabulary, L layers.
"""

from __future__ import annotations

import os
import re
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import lru_cache
from importlib import import_module
from typing import BinaryIO

import torch
from torch import nn
from transformers import MODEL_MAPPING, LogitsProcessor, PreTrainedModel

from fastav.errors import UserError

_STDERR = threading.Lock()  # see _without_profiler_lines

# Elementwise or reducing operations, which by convention cost nothing beside matrix products. Anything else must be counted.
_FREE_OPS = {
    f"aten::{name}"
    for name in (
        "abs add cos div exp gelu gelu_ mean mul neg pow reciprocal rsqrt rsub sigmoid silu sin softmax sub sum tanh"
    ).split()
}


def gqa_flops(lengths: Sequence[int], config) -> float:
    """Closed form for a gated-MLP decoder with grouped-query attention; equals the fvcore count.

    Per layer n d (2 H E + 2 G E) + 2 n^2 H E + 3 n d m, plus d V for the last position's logits.
    `lengths` [L]: tokens that each layer computes on; `config`: the text decoder's config.
    """
    d, m = config.hidden_size, config.intermediate_size
    head = getattr(config, "head_dim", None) or d // config.num_attention_heads
    q, kv = config.num_attention_heads * head, config.num_key_value_heads * head
    return float(sum(n * d * (2 * q + 2 * kv) + 2 * n * n * q + 3 * n * d * m for n in lengths) + d * config.vocab_size)


def paper_flops(lengths: Sequence[int], config) -> float:
    """The paper's formula (section 3.1, after FastV): 4 n d^2 + 2 n^2 d + 2 n d m per layer. Ignores GQA, the MLP's
    gate and the logits.
    """
    d, m = config.hidden_size, config.intermediate_size
    return float(sum(4 * n * d * d + 2 * n * n * d + 2 * n * d * m for n in lengths))


def fvcore_flops(lengths: Sequence[int], config) -> float:
    """fvcore's count over a skeleton of the decoder on the meta device: no weights, no memory, cached by length.

    Raises RuntimeError naming the operation when the decoder uses one that fvcore cannot count and that is not elementwise.
    """
    key = config.to_json_string(use_diff=False)
    return float(sum(_layer_flops(key, type(config), n) for n in lengths) + config.hidden_size * config.vocab_size)


@lru_cache(maxsize=4)
def _skeleton(config_json: str, config_class: type) -> nn.Module:
    import json

    config = config_class.from_dict({**json.loads(config_json), "num_hidden_layers": 1, "layer_types": ["full_attention"]})
    config._attn_implementation = "sdpa"
    with torch.device("meta"):
        return _decoder_class(config_class)(config).layers[0]


def _decoder_class(config_class: type) -> type:
    """The decoder of a config. AutoModel does not list those that come only as a part of a larger model."""
    if config_class in MODEL_MAPPING:
        return MODEL_MAPPING[config_class]
    home = import_module(config_class.__module__.replace(".configuration_", ".modeling_"))
    models = (c for c in vars(home).values() if isinstance(c, type) and issubclass(c, PreTrainedModel))
    return next(c for c in models if c.config_class is config_class)


@lru_cache(maxsize=4096)
def _layer_flops(config_json: str, config_class: type, n: int) -> float:
    layer = _skeleton(config_json, config_class)
    width, head = layer.self_attn.q_proj.in_features, layer.self_attn.head_dim
    hidden, cos_sin = torch.empty(1, n, width, device="meta"), torch.empty(1, n, head, device="meta")
    return count_flops(_WithRotary(layer), (hidden, cos_sin, cos_sin))


class _WithRotary(nn.Module):
    """A decoder layer with (hidden, cos, sin) as positional arguments, which is what a trace needs."""

    def __init__(self, layer: nn.Module):
        super().__init__()
        self.layer = layer

    def forward(self, hidden, cos, sin):
        return self.layer(hidden, position_embeddings=(cos, sin))


def count_flops(module: nn.Module, inputs: tuple) -> float:
    """Multiply-adds of one forward, by fvcore with a handle for fused attention, which it would silently leave out."""
    from fvcore.nn import FlopCountAnalysis

    analysis = FlopCountAnalysis(module, inputs).set_op_handle("aten::scaled_dot_product_attention", _attention_flops)
    analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False)
    total = analysis.total()
    unknown = sorted(set(analysis.unsupported_ops()) - _FREE_OPS)
    if unknown:
        raise RuntimeError(f"fvcore cannot count {', '.join(unknown)}; the FLOPs would be wrong. Add a handle in {__name__}")
    return total


def _attention_flops(inputs, outputs) -> float:
    """softmax(Q K^T) V: B H n E for each of the two products, times n keys. Q [B, H, n, E], K [B, G or H, k, E]."""
    (batch, heads, n, head), keys = inputs[0].type().sizes(), inputs[1].type().sizes()[-2]
    return 2 * batch * heads * n * keys * head


def kv_bytes(cache, lengths: Sequence[int]) -> int:
    """Bytes of the prompt's keys and values in a transformers cache, from its own tensors; lengths [L] are the
    prompt's tokens per layer.

    Tokens generated since (the cache's tail) are left out, so that answers of different lengths compare.
    """
    return sum(
        t[..., :n, :].numel() * t.element_size()
        for layer, n in zip(cache.layers, lengths, strict=True)
        for t in (layer.keys, layer.values)
    )


class Clock(LogitsProcessor):
    """Ticks once per forward, in the thread that generates: give it to `generate` as the last logits processor.

    After generate, `seconds()` is [prefill to first logits, then one gap per later token]. On CUDA it records events of `device`,
    where the prompt is, and waits once, at the end. It also notices NaN logits, which would otherwise become a confident wrong
    answer.
    """

    def __init__(self, device: torch.device):
        self.device = device
        self.cuda = device.type == "cuda"
        self.nan = torch.zeros((), dtype=torch.bool, device=device)
        self.ticks: list = []

    def start(self) -> None:
        if self.cuda:
            torch.cuda.synchronize(self.device)
        self._tick()

    def __call__(self, input_ids, scores):
        self.nan = self.nan | scores.isnan().any().to(self.nan.device)  # `device` waits for the card that the logits are on
        self._tick()
        return scores

    def _tick(self) -> None:
        if self.cuda:
            event = torch.cuda.Event(enable_timing=True)
            event.record(torch.cuda.current_stream(self.device))  # without a stream: of the thread's current device
            self.ticks.append(event)
        else:
            self.ticks.append(time.perf_counter())

    def seconds(self) -> list[float]:
        """Raises UserError when any logit was NaN."""
        if bool(self.nan):
            raise UserError(
                "the model computed NaN logits, so it has no answer; float16 with eager attention does this: "
                "use sdpa, or dtype bfloat16 or float32"
            )
        if self.cuda:
            torch.cuda.synchronize(self.device)
            return [a.elapsed_time(b) / 1e3 for a, b in zip(self.ticks, self.ticks[1:], strict=False)]
        return [b - a for a, b in zip(self.ticks, self.ticks[1:], strict=False)]


def peak_memory(run: Callable[[], object], device: torch.device) -> tuple[int, int | None]:
    """(peak bytes above what was allocated before `run`, total peak bytes incl. weights or None on CPU).

    CUDA asks the allocator. On CPU it is the running sum of the profiler's allocation events, which repeats exactly where the
    process's resident memory does not; the profiler slows the run, so never time it.
    """
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        run()
        torch.cuda.synchronize(device)
        total = torch.cuda.max_memory_allocated(device)
        return total - before, total
    from torch.profiler import ProfilerActivity, profile

    profiler = profile(activities=[ProfilerActivity.CPU], profile_memory=True)
    with _without_profiler_lines():
        profiler.start()
    try:
        run()
    finally:
        with _without_profiler_lines():
            profiler.stop()
    current = peak = 0
    events = [e for e in profiler.profiler.kineto_results.events() if e.name() == "[memory]"]
    for event in sorted(events, key=lambda e: e.start_ns()):
        current += event.nbytes()
        peak = max(peak, current)
    return peak, None


@contextmanager
def _without_profiler_lines() -> Iterator[None]:
    """What the process writes to its standard error inside this waits in a file, and comes out at the end without the lines in
    which torch's profiler says that it starts or stops ("USDT:..."), and in which thread ("ERROR: External init callback ...").

    They come from C++: sys.stderr does not see them, and no log level leaves them out. Lines of other threads come out some
    hundredths of a second late; a process that another thread starts meanwhile keeps the file as its standard error. One thread
    at a time: a second one would take the first one's file for the standard error, and leave it there.
    """
    with _STDERR, tempfile.TemporaryFile() as held, ExitStack() as at_end:
        with suppress(OSError):  # nobody reads a standard error that is closed
            stderr = os.dup(2)
            at_end.callback(_let_out, held, stderr)
            os.dup2(held.fileno(), 2)
        yield


def _let_out(held: BinaryIO, stderr: int) -> None:
    """Give the standard error its own file descriptor back, and what it missed."""
    os.dup2(stderr, 2)
    os.close(stderr)
    held.seek(0)
    rest = re.sub(rb"(USDT:|ERROR: External init callback)[^\n]*\n", b"", held.read())
    with suppress(OSError):  # its reader has gone
        while rest:
            rest = rest[os.write(2, rest) :]
