"""Session: a model loaded once, clips and questions in, measured answers out. The one engine behind page, command line
and evaluation.
"""

from __future__ import annotations

import gc
import hashlib
import statistics
import threading
import time
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from fastav import __version__, engine, provenance, rollout
from fastav.clip.clip import Clip
from fastav.clip.read import read_clip
from fastav.cost import fvcore_flops, gqa_flops, paper_flops, peak_memory
from fastav.errors import UserError
from fastav.layout import TokenLayout
from fastav.methods import parse
from fastav.models import load_model
from fastav.models.adapter import Adapter, Inputs
from fastav.plan import Plan, check_settings
from fastav.result import Comparison, Result
from fastav.run import OneAtATime, Request, Run, Streamer, generate

MAX_QUESTION_CHARACTERS = 2000
MIN_GAPS = 8  # time per token is an average over at least this many gaps, otherwise noise


def load(name: str = "tiny", checkpoint: str | None = None, **options) -> Session:
    """A session of model `name`; checkpoint, revision, device, dtype, device_map, attn and errors as in models.load_model."""
    return Session(load_model(name, checkpoint, **options))


class Session:
    """See the module. One run at a time: two timed runs never overlap, and a comparison is one run; other threads wait."""

    def __init__(self, adapter: Adapter):
        self.adapter = adapter
        self.model = adapter.model
        self.config = adapter.model.config.get_text_config(decoder=True)
        self.n_layers = self.config.num_hidden_layers
        self.model_name, self.checkpoint, self.about = adapter.name, adapter.checkpoint, adapter.about
        self.device, self.dtype = adapter.device, adapter.model.dtype
        self.folder, self.provenance = adapter.folder, provenance.of(adapter)
        self.default_method = self.canonical("fastav")
        self._lock = OneAtATime()
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
        with self._lock:
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
        stop = stop or threading.Event()
        with self._lock:
            request = self._request(clip, question, method)
            self._generate(request, 1)  # warm-up at this length: kernels are chosen, and memory is fetched, per shape
            streamer = Streamer()
            outcome: list = []

            def work():
                try:
                    outcome.append(self._generate(request, self.adapter.n_new_tokens, streamer=streamer, stop=stop))
                except BaseException as error:  # raised again below, in the caller's thread
                    outcome.append(error)
                finally:
                    streamer.end()

            thread = threading.Thread(target=work, daemon=True)
            thread.start()
            try:
                for ids in streamer:
                    yield self.adapter.decode(ids)
            finally:
                stop.set()  # after the last token this changes nothing; when the consumer left, it ends the run
                thread.join()
            if isinstance(outcome[0], BaseException):
                raise outcome[0]
            yield self._result(clip, question, request, outcome[0], fvcore, peak)

    def compare(self, clip: Clip, question: str, method: str = "fastav", *, fvcore: bool = True, peak: bool = True) -> Comparison:
        """Vanilla and `method`, one after the other: single runs, each after a warm-up of one token."""
        with self._lock:
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
        with self._lock:
            plain = self._compare(clip, question, method)
            requests = [self._request(clip, question, m) for m in ("vanilla", method)]
            for request in requests:
                self._generate(request, n_new_tokens, forced=True)
            runs = [[self._generate(r, n_new_tokens, forced=True) for r in requests] for _ in range(repeats)]
        results = []
        for result, own in zip((plain.vanilla, plain.pruned), zip(*runs, strict=True), strict=True):
            times = {
                "prefill_sec": [run.seconds[0] for run in own],
                "per_token_sec": [statistics.mean(run.seconds[1:]) for run in own],
                "total_sec": [sum(run.seconds) for run in own],
            }
            quartiles = {name: np.percentile(values, (25, 50, 75)).tolist() for name, values in times.items()}
            results.append(
                replace(
                    result,
                    n_repeats=repeats,
                    n_new_tokens=n_new_tokens,
                    spread={name: [q[0], q[2]] for name, q in quartiles.items()},
                    **{name: q[1] for name, q in quartiles.items()},
                )
            )
        return Comparison(*results)

    def calibrate(
        self,
        n_clips: int,
        clips: Iterable[Path | Clip] | None = None,
        *,
        question: str = rollout.QUESTION,
        keep: float = 0.42,
        alpha: float = 0.5,
        statistic: str = "visible-column",
        progress=lambda text: None,
    ) -> Plan:
        """A plan for this model at its middle layer, from `n_clips` clips with both streams (section 2.3 of the paper).

        The first of `clips` (files, or decoded) that can be used are asked `question`; None: clips that the model brings, with a
        question each. What is done, and every clip that is left out, is told to `progress`.
        Raises UserError for impossible settings, when no clip can be used, and for a model that brings none.
        """
        check_settings(keep, alpha, statistic, n_clips)
        start = self.n_layers // 2
        asked = self.adapter.calibration_clips(n_clips) if clips is None else ((clip, question) for clip in clips)

        def sample(clip: Path | Clip, text: str) -> tuple[str, TokenLayout, np.ndarray]:
            clip = clip if isinstance(clip, Clip) else self.read(clip)
            inputs, _ = self.inputs(clip, text)
            if inputs.layout.single_stream:
                raise UserError("it has no sound" if inputs.layout.count()["video"] else "it has no picture")
            positions = {name: value for name, value in inputs.generate_kwargs.items() if name == "position_ids"}
            matrix = rollout.rollout(self.model, start, alpha, inputs_embeds=inputs.embeds, logits_to_keep=1, **positions)
            return clip.sha256, inputs.layout, rollout.influence(matrix, statistic)

        with self._lock:
            names, layouts, values = zip(*rollout.first_usable(asked, sample, n_clips, progress), strict=True)
        settings = {"keep": keep, "alpha": alpha, "statistic": statistic}
        return replace(
            rollout.calibrate(zip(layouts, values, strict=True), model=self.model_name, start=start, **settings),
            n_layers=self.n_layers,
            checkpoint=self.checkpoint,
            question="" if clips is None else question,
            clips_sha256=hashlib.sha256("\n".join(sorted(names)).encode()).hexdigest(),
            fastav_version=__version__,
        )

    def free(self) -> None:
        """Let go of the last clip's features and of what torch holds back: for the question after an out-of-memory."""
        with self._lock:
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
            self._generate(self._request(clip, question, name), 1)
        return Comparison(*(self._answer(clip, question, name, fvcore, peak) for name in ("vanilla", method)))

    def _answer(self, clip: Clip, question: str, method: str, fvcore: bool, peak: bool, max_new_tokens=None) -> Result:
        request = self._request(clip, question, method)
        run = self._generate(request, max_new_tokens or self.adapter.n_new_tokens)
        return self._result(clip, question, request, run, fvcore, peak)

    def _request(self, clip: Clip, question: str, method: str) -> Request:
        return Request.of(self.inputs(clip, question)[0], parse(method, self.n_layers))

    def _generate(self, request: Request, n_new_tokens: int, **options) -> Run:
        return generate(self.model, request, n_new_tokens, **options)

    def _result(self, clip: Clip, question: str, request: Request, run: Run, fvcore: bool, peak: bool) -> Result:
        layout, sizes = request.layout, run.lengths
        peak_bytes, total_bytes = None, None
        if peak:
            peak_bytes, total_bytes = run.peak or peak_memory(lambda: self._generate(request, 1), self.device)
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
            method=str(request.method),
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
            flops=gqa_flops(sizes, self.config),
            flops_paper=paper_flops(sizes, self.config),
            flops_fvcore=fvcore_flops(sizes, self.config) if fvcore else None,
            flops_relative_percent=100 * gqa_flops(sizes, self.config) / gqa_flops(full, self.config),
            flops_paper_relative_percent=100 * paper_flops(sizes, self.config) / paper_flops(full, self.config),
            n_new_tokens=len(run.ids),
            encode_sec=self._encoded[2],
            prefill_sec=run.seconds[0],
            per_token_sec=statistics.mean(run.seconds[1:]) if len(run.seconds) > MIN_GAPS else None,
            total_sec=sum(run.seconds),
            n_repeats=1,
            kv_bytes=run.kv_bytes,
            peak_bytes=peak_bytes,
            total_bytes=total_bytes,
            plan_sha256=provenance.plan_sha256(str(request.method)),
            **self.provenance,
        )
