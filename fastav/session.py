"""Session: a model loaded once, clips and questions in, measured answers out. The one engine behind page, command line
and evaluation.
"""

from __future__ import annotations

import gc
import statistics
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace

import numpy as np
import torch

from fastav import engine, measure, provenance
from fastav.clip.clip import Clip
from fastav.clip.read import read_clip
from fastav.errors import UserError
from fastav.flops import fvcore_flops, gqa_flops, paper_flops, relative_percent
from fastav.memory import peak_memory
from fastav.methods import parse
from fastav.models import load_model
from fastav.models.adapter import Adapter, Inputs
from fastav.result import Comparison, Result
from fastav.run import OneAtATime, Request, Run, generate, stream

MAX_QUESTION_CHARACTERS = 2000
MIN_GAPS = 8  # time per token is an average over at least this many gaps, otherwise noise


def load(name: str = "tiny", checkpoint: str | None = None, **options) -> Session:
    """A session of model `name`; checkpoint, revision, device, dtype, device_map, attn and errors as in models.load_model."""
    return Session(load_model(name, checkpoint, **options))


class Session:
    """See the module. One run at a time: two timed runs never overlap, and a comparison is one run; other threads wait.

    lock   held by each run; whoever makes several that belong together holds it for all of them.
    """

    def __init__(self, adapter: Adapter):
        self.adapter = adapter
        self.model = adapter.model
        self.config = adapter.model.config.get_text_config(decoder=True)
        self.n_layers = self.config.num_hidden_layers
        self.model_name, self.checkpoint, self.about = adapter.name, adapter.checkpoint, adapter.about
        self.device, self.dtype = adapter.device, adapter.model.dtype
        self.folder, self.provenance = adapter.folder, provenance.of(adapter)
        self.default_method = self.canonical("fastav")
        self.lock = OneAtATime()
        self._encoded: tuple[Clip, object, float] | None = None  # of the last clip: itself, features, seconds
        engine.install(self.model)

    def canonical(self, method: str) -> str:
        """The full text form of a method. Raises UserError for one that does not fit this model."""
        return str(parse(method, self.n_layers))

    def read(self, path) -> Clip:
        """Decode a file as this model wants it. Raises UserError naming the file and the reason."""
        return read_clip(path, **self.adapter.read_options)

    def answer(
        self, clip: Clip, question: str, method: str = "fastav", *, fvcore=False, peak=False, max_new_tokens: int | None = None
    ) -> Result:
        """One answer by one method: greedy, single run.

        `fvcore` counts the FLOPs by tracing too; `peak` measures peak memory, on CPU in an extra untimed pass.
        """
        with self.lock:
            return self._answer(clip, question, method, fvcore, peak, max_new_tokens)

    def stream(
        self,
        clip: Clip,
        question: str,
        method: str = "fastav",
        *,
        stop: threading.Event | None = None,
        fvcore: bool = True,
        peak: bool = True,
    ) -> Iterator[str | Result]:
        """The answer so far each time it grows, then the Result. Setting `stop`, or closing the iterator, ends
        generation at the next token.
        """
        with self.lock:
            request = self._request(clip, question, method)
            generate(self.model, request, 1)  # warm-up at this length: kernels are chosen, and memory is fetched, per shape
            with closing(stream(self.model, request, self.adapter.n_new_tokens, stop or threading.Event())) as pieces:
                for piece in pieces:
                    if isinstance(piece, Run):
                        yield self._result(clip, question, request, piece, fvcore, peak)
                    else:
                        yield self.adapter.decode(piece)

    def compare(self, clip: Clip, question: str, method: str = "fastav", *, fvcore: bool = True, peak: bool = True) -> Comparison:
        """Vanilla and `method`, one after the other: single runs, each after a warm-up of one token."""
        with self.lock:
            return self._compare(clip, question, method, fvcore, peak)

    def measure(
        self, clip: Clip, question: str, method: str = "fastav", *, repeats: int = 5, n_new_tokens: int = 32
    ) -> Comparison:
        """Timings to rely on: both methods warmed up, interleaved `repeats` times with `n_new_tokens` forced; median
        and quartiles.

        The answers come from an ordinary run. Raises UserError for fewer than 5 repeats or too few tokens to time.
        """
        if repeats < 5 or n_new_tokens <= MIN_GAPS:
            raise UserError(f"measuring needs at least 5 repeats and {MIN_GAPS + 1} tokens, got {repeats} and {n_new_tokens}")
        with self.lock:
            plain = self._compare(clip, question, method)
            requests = [self._request(clip, question, m) for m in ("vanilla", method)]
            runs = measure.interleaved(self.model, requests, repeats, n_new_tokens)
        results = []
        for result, own in zip((plain.vanilla, plain.pruned), runs, strict=True):
            found = {name: measure.quartiles(values) for name, values in measure.seconds(own).items()}
            medians = {name: median for name, (_, median, _) in found.items()}
            spread = {name: [low, high] for name, (low, _, high) in found.items()}
            results.append(replace(result, n_repeats=repeats, n_new_tokens=n_new_tokens, spread=spread, **medians))
        return Comparison(*results)

    def free(self) -> None:
        """Let go of the last clip's features and of what torch holds back: for the question after an out-of-memory."""
        with self.lock:
            self._encoded = None
        gc.collect()
        torch.cuda.empty_cache()

    def inputs(self, clip: Clip, question: str) -> tuple[Inputs, float]:
        """The prompt of a question, and the seconds that encoding the clip took, which is done once for all its questions."""
        if not question.strip():
            raise UserError("the question is empty; ask something about the clip")
        if len(question) > MAX_QUESTION_CHARACTERS:
            raise UserError(f"the question has {len(question)} characters; at most {MAX_QUESTION_CHARACTERS} are allowed")
        with torch.inference_mode():
            # Not by its sha256, which is the file's, whatever was changed since.
            if self._encoded is None or self._encoded[0] is not clip:
                began = time.perf_counter()
                features = self.adapter.encode(clip)
                if self.device.type == "cuda":
                    torch.cuda.synchronize(self.device)
                self._encoded = (clip, features, time.perf_counter() - began)
            inputs = self.adapter.prepare(self._encoded[1], clip, question)
        layout = inputs.layout.with_facts(request_id=f"{clip.sha256}\0{question}")
        return replace(inputs, layout=layout), self._encoded[2]

    def _compare(self, clip: Clip, question: str, method: str, fvcore=True, peak=True) -> Comparison:
        for name in ("vanilla", method):
            generate(self.model, self._request(clip, question, name), 1)
        return Comparison(*(self._answer(clip, question, name, fvcore, peak) for name in ("vanilla", method)))

    def _answer(self, clip: Clip, question: str, method: str, fvcore: bool, peak: bool, max_new_tokens=None) -> Result:
        request = self._request(clip, question, method)
        run = generate(self.model, request, max_new_tokens or self.adapter.n_new_tokens)
        return self._result(clip, question, request, run, fvcore, peak)

    def _request(self, clip: Clip, question: str, method: str) -> Request:
        return Request.of(self.inputs(clip, question)[0], parse(method, self.n_layers), self.model.config)

    def _result(self, clip: Clip, question: str, request: Request, run: Run, fvcore: bool, peak: bool) -> Result:
        layout, sizes, again = request.layout, run.lengths, run.keys_again
        peak_bytes, total_bytes = None, None
        if peak:
            peak_bytes, total_bytes = run.peak or peak_memory(lambda: generate(self.model, request, 1), self.device)
        full = [len(layout)] * self.n_layers
        kept = run.kept or [range(len(request.entered))] * self.n_layers
        seen = np.bincount(np.concatenate([request.entered[list(k)] for k in kept]), minlength=len(layout))
        notes = [*clip.notes, *request.inputs.notes]
        if layout.single_stream:
            stream = "audio" if layout.count()["audio"] else "video"
            notes.append(f"{stream} only: single-stream mode, no global pruning by the model's rule")
        return Result(
            answer=self.adapter.decode(run.ids),
            question=question,
            model=self.model_name,
            checkpoint=self.checkpoint,
            method=str(request.asked),
            solved=str(request.method),
            clip_name=clip.name,
            clip_sha256=clip.sha256,
            clip_duration_sec=clip.duration_sec,
            has_video=clip.has_video,
            has_audio=clip.has_audio,
            notes=tuple(notes),
            token_runs=tuple(tuple(r) for r in layout.runs()),
            grids=layout.grids,
            layers_seen=tuple(seen.tolist()),
            lengths=tuple(sizes),
            tokens_before=layout.count(),
            tokens_after=layout.count(seen == self.n_layers),
            flops=gqa_flops(sizes, self.config, again),
            flops_paper=paper_flops(sizes, self.config, again),
            flops_fvcore=fvcore_flops(sizes, self.config, again) if fvcore else None,
            flops_relative_percent=relative_percent(sizes, len(layout), self.config, again),
            flops_paper_relative_percent=100 * paper_flops(sizes, self.config, again) / paper_flops(full, self.config),
            n_new_tokens=len(run.ids),
            encode_sec=self._encoded[2],
            prefill_sec=run.seconds[0],
            per_token_sec=statistics.mean(run.seconds[1:]) if len(run.seconds) > MIN_GAPS else None,
            total_sec=sum(run.seconds),
            n_repeats=1,
            kv_bytes=run.kv_bytes,
            peak_bytes=peak_bytes,
            total_bytes=total_bytes,
            plan_sha256=provenance.plan_sha256(str(request.asked)),
            **self.provenance,
        )
