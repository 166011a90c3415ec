"""One run: one prompt through the model's own generate, by one method, timed. The only place that generates.

Shapes: N tokens of the whole prompt, N' of them in the decoder, L layers, D width.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from contextvars import ContextVar
from dataclasses import dataclass

import numpy as np
import torch
from transformers import StoppingCriteria
from transformers.generation.streamers import BaseStreamer

from fastav import engine
from fastav.clock import Clock
from fastav.decoder import cache_keyword
from fastav.errors import UserError
from fastav.layout import TokenLayout
from fastav.memory import kv_bytes
from fastav.methods import Method
from fastav.models.adapter import Inputs


@dataclass(frozen=True)
class Request:
    """A prompt and the method that is to answer it.

    layout [N] is the whole prompt's; inputs hold what enters the decoder, entered int64 [N'] which positions these are. asked is
    the method as it was asked for; where that says how many FLOPs, method has the settings that it comes to.
    """

    asked: Method
    method: Method
    layout: TokenLayout
    inputs: Inputs
    entered: np.ndarray

    @classmethod
    def of(cls, inputs: Inputs, asked: Method, config) -> Request:
        """`config` is the model's. Raises UserError where the method shortens a prompt that cannot be renumbered, or asks for
        FLOPs that it cannot have.
        """
        method = engine.of_prompt(config, inputs.layout, asked)
        return cls(asked, method, inputs.layout, *inputs.subset(method.enters(inputs.layout)))


@dataclass(frozen=True)
class Run:
    """What one generate gave: new ids; seconds of each forward, prefill first; KV bytes of the prompt; tokens [L]; how many keys
    were projected again for scores; kept positions of each layer (None: all); (peak, total) bytes on the prompt's GPU.
    """

    ids: list[int]
    seconds: list[float]
    kv_bytes: int
    lengths: list[int]
    keys_again: int
    kept: list[list[int]] | None
    peak: tuple[int, int] | None


@torch.inference_mode()
def generate(
    model, request: Request, n_new_tokens: int, *, forced=False, streamer=None, stop: threading.Event | None = None
) -> Run:
    """Greedy. `forced`: exactly n_new_tokens, whatever the model says; setting `stop` ends the run at the next token."""
    embeds = request.inputs.embeds
    device, before = embeds.device, 0
    clock = Clock(device)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
    clock.start()  # planning is a part of a pruned request
    cache = engine.cache_of(model.config, request.inputs.layout, request.method)
    ids = model.generate(
        inputs_embeds=embeds,
        attention_mask=torch.ones(embeds.shape[:2], dtype=torch.long, device=device),
        **{cache_keyword(model): cache},
        do_sample=False,
        max_new_tokens=n_new_tokens,
        min_new_tokens=n_new_tokens if forced else None,
        logits_processor=[clock],
        stopping_criteria=[_StopFlag(stop)] if stop else None,
        streamer=streamer,
        **request.inputs.generate_kwargs,
    )[0].tolist()
    seconds = clock.seconds()
    total = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None
    pruned = isinstance(cache, engine.PrunedCache)
    kept, again = (cache.kept(), cache.keys_again) if pruned else (None, 0)
    lengths = engine.lengths_in(cache, request.inputs.layout)
    peak = None if total is None else (total - before, total)
    return Run(ids, seconds, kv_bytes(cache, lengths), lengths, again, kept, peak)


class _StopFlag(StoppingCriteria):
    """Ends generation at the next token once the event is set."""

    def __init__(self, event: threading.Event):
        self.event = event

    def __call__(self, input_ids, scores, **kwargs):
        return torch.full((len(input_ids),), self.event.is_set(), dtype=torch.bool, device=input_ids.device)


def stream(model, request: Request, n_new_tokens: int, stop: threading.Event) -> Iterator[list[int] | Run]:
    """The new ids so far each time they grow, then the Run. `stop`, or closing the iterator, ends it at the next token."""
    streamer, outcome = _Streamer(), []

    def work():
        try:
            outcome.append(generate(model, request, n_new_tokens, streamer=streamer, stop=stop))
        except BaseException as error:  # raised again below, in the caller's thread
            outcome.append(error)
        finally:
            streamer.end()

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        yield from streamer
    finally:
        stop.set()  # after the last token this changes nothing; when the consumer left, it ends the run
        thread.join()
    if isinstance(outcome[0], BaseException):
        raise outcome[0]
    yield outcome[0]


class _Streamer(BaseStreamer):
    """Hands the growing list of new ids from the generating thread to the consumer."""

    def __init__(self):
        self._queue: queue.Queue = queue.Queue()
        self._ids: list[int] = []

    def put(self, value):
        self._ids = self._ids + value.flatten().tolist()  # the prompt comes first and is empty: it went in as embeddings
        if self._ids:
            self._queue.put(self._ids)

    def end(self):
        self._queue.put(None)

    def __iter__(self):
        return iter(self._queue.get, None)


_INSIDE: ContextVar[frozenset] = ContextVar("inside", default=frozenset())  # locks that this thread of work holds


class OneAtATime:
    """A lock. Who holds it and asks for it again gets an error, where a plain lock would wait for ever.

    Who holds it is known by context, not by thread: a page may take each piece of one stream in another thread.
    """

    def __init__(self):
        self._lock = threading.Lock()

    def __enter__(self) -> None:
        if self in _INSIDE.get():
            raise UserError("an answer is still being streamed here; read its stream to the end or close it, then ask again")
        self._lock.acquire()
        _INSIDE.set(_INSIDE.get() | {self})

    def __exit__(self, *_) -> None:
        _INSIDE.set(_INSIDE.get() - {self})
        self._lock.release()
