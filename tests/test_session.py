"""Session on a random model behind a stub adapter: what is recorded, streamed, stopped and locked. Oracle: the stock
generate and counts by hand.
"""

import json
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import holding, random_qwen2

from fastav.calibrate import calibrate
from fastav.clip.clip import clip_from_arrays
from fastav.engine import PrunedCache
from fastav.errors import UserError
from fastav.flops import gqa_flops
from fastav.layout import TokenLayout, first_audio
from fastav.methods import FastAV
from fastav.models.adapter import Inputs
from fastav.result import Comparison, Result
from fastav.session import Session


class StubAdapter:
    """5 text, 24 video (4 frames), 30 audio and 7 text tokens of seeded noise; the answer's text is its ids."""

    name, checkpoint, folder, about, n_new_tokens = "stub", "nowhere", Path("nowhere"), "noise", 12
    read_options: dict = {}
    device = torch.device("cpu")

    def __init__(self):
        self.model = random_qwen2("sdpa").float()
        self.n_encoded = 0

    def encode(self, clip):
        self.n_encoded += 1
        return torch.randn(66, 48, generator=torch.Generator().manual_seed(len(clip.frames)))

    n_sounding = 30

    def prepare(self, features, clip, question):
        audio = [("audio", 30, self.n_sounding)] if clip.has_audio else []
        layout = TokenLayout.of(("text", 5), ("video", 24, 4), *audio, ("text", 7))
        return Inputs(features[None, : len(layout)], layout.with_facts(rule_keep=first_audio(layout, 5)))

    def decode(self, ids):
        return " ".join(map(str, ids))

    def calibration_clips(self, n):
        return ((make_clip(), "q") for _ in range(n))


def make_clip(audio=True, n=4):
    sound = np.zeros(1600, np.float32) if audio else None
    return clip_from_arrays(np.zeros((n, 8, 8, 3), np.uint8), 4, sound, 16000, "noise.mp4")


@pytest.fixture
def session():
    return Session(StubAdapter())


def test_vanilla_answer_is_stock_generate(session):
    result = session.answer(make_clip(), "What?", "vanilla")
    embeds = session.adapter.encode(make_clip())[None]
    ids = session.model.generate(inputs_embeds=embeds, max_new_tokens=12, do_sample=False)[0].tolist()
    assert result.answer == " ".join(map(str, ids))
    assert result.lengths == (66,) * 6 and set(result.layers_seen) == {6}
    assert result.flops_relative_percent == 100 and result.n_new_tokens == 12


def test_pruned_record_counts_by_hand(session):
    """Rule keeps 24 video + 5 audio; P 20: 29 -> 24 -> 20 unprotected; K and V of 2 heads x 12 floats = 192 bytes a
    token and layer.
    """
    result = session.answer(make_clip(), "What?", "fastav", fvcore=True, peak=True)
    assert result.lengths == (66, 66, 66, 41, 36, 32)
    assert result.kv_bytes == 192 * sum(result.lengths)
    assert [len(result.kept(layer)) for layer in range(6)] == list(result.lengths)
    assert result.kept(3) == [*range(34), *range(59, 66)]
    assert result.tokens_before == {"text": 12, "video": 24, "audio": 30}
    assert sum(result.tokens_after.values()) == 32 and result.tokens_after["text"] == 12
    assert result.flops_fvcore == pytest.approx(result.flops, rel=1e-3)
    assert result.peak_bytes > 0 and result.method == "fastav:start=3,p=20,rule=model,fine=low,protect=text,seed=0"
    assert Result.from_dict(json.loads(json.dumps(result.to_dict()))).kept(5) == result.kept(5)


def test_the_clip_is_encoded_once_for_both_answers(session):
    comparison = session.compare(make_clip(), "What?", peak=False)
    assert session.adapter.n_encoded == 1
    assert comparison.vanilla.encode_sec == comparison.pruned.encode_sec > 0
    session.answer(make_clip(n=5), "What?")
    assert session.adapter.n_encoded == 2


def test_streaming_grows_to_the_same_answer(session):
    *texts, result = session.stream(make_clip(), "What?", "fastav", peak=False)
    assert texts[-1] == result.answer == session.answer(make_clip(), "What?", "fastav").answer
    assert all(b.startswith(a) for a, b in zip(texts, texts[1:], strict=False)) and len(texts) == 12


def test_stop_and_leaving_end_the_run_and_free_the_lock(session):
    session.adapter.n_new_tokens = 4000
    stop = threading.Event()
    stream = session.stream(make_clip(), "What?", stop=stop, peak=False)
    next(stream)
    stop.set()
    *_, result = stream
    assert result.n_new_tokens < 4000
    leaving = session.stream(make_clip(), "What?", peak=False)
    next(leaving)
    leaving.close()
    session.adapter.n_new_tokens = 2
    assert session.answer(make_clip(), "What?").n_new_tokens == 2


def test_an_error_while_generating_reaches_the_consumer(session):
    session.model.lm_head.weight.data[:] = torch.nan
    with pytest.raises(UserError, match="NaN logits"):
        list(session.stream(make_clip(), "What?"))


def test_two_timed_runs_never_overlap(session):
    spans, real = [], session.model.generate

    def watched(*args, **kwargs):
        began = time.perf_counter()
        try:
            return real(*args, **kwargs)
        finally:
            spans.append((began, time.perf_counter()))

    session.model.generate = watched
    threads = [threading.Thread(target=session.answer, args=(make_clip(), f"{i}?")) for i in range(4)]
    [t.start() for t in threads]
    [t.join() for t in threads]
    spans.sort()
    assert len(spans) == 4 and all(a[1] <= b[0] for a, b in zip(spans, spans[1:], strict=False))


def test_measure_gives_medians_within_their_quartiles(session):
    comparison = session.measure(make_clip(), "What?", repeats=5, n_new_tokens=10)
    for result in (comparison.vanilla, comparison.pruned):
        assert result.n_repeats == 5 and result.n_new_tokens == 10
        for name, (low, high) in result.spread.items():
            assert low <= getattr(result, name) <= high
    with pytest.raises(UserError, match="at least 5 repeats"):
        session.measure(make_clip(), "What?", repeats=1)


def test_time_per_token_needs_eight_gaps(session):
    assert session.answer(make_clip(), "What?", max_new_tokens=8).per_token_sec is None
    assert session.answer(make_clip(), "What?", max_new_tokens=9).per_token_sec > 0


def test_a_clip_without_sound_is_single_stream_and_says_so(session):
    result = session.answer(make_clip(audio=False), "What?")
    assert result.lengths == (36, 36, 36, 36, 32, 28)
    assert not result.has_audio and "video only: single-stream mode" in result.notes[-1]


@pytest.mark.parametrize("inner", ["", "+fastav:p=30"])
def test_trim_is_the_prompt_without_its_padding(session, inner):
    """Oracle: stock generate, or a PrunedCache of its own, on embeddings whose 18 padding rows were deleted by hand."""
    session.adapter.n_sounding = 12
    result = session.answer(make_clip(), "What?", "trim" + inner)
    embeds = torch.cat([session.adapter.encode(make_clip())[:41], session.adapter.encode(make_clip())[59:]])[None]
    layout = TokenLayout.of(("text", 5), ("video", 24, 4), ("audio", 12), ("text", 7))
    layout = layout.with_facts(rule_keep=first_audio(layout, 5))
    cache = PrunedCache(session.model.config, layout, FastAV(p=30)) if inner else None
    ids = session.model.generate(inputs_embeds=embeds, **holding(session.model, cache), max_new_tokens=12, do_sample=False)
    assert result.answer == session.adapter.decode(ids[0].tolist())
    # The trace speaks of the whole prompt: padding (41..58) was seen by no layer, the later text by all 6.
    assert result.tokens_before == {"text": 12, "video": 24, "audio": 30}
    assert result.layers_seen[41:59] == (0,) * 18 and result.layers_seen[59:] == (6,) * 7
    assert result.lengths[:3] == (48, 48, 48)
    by_hand = cache.lengths if inner else [48] * 6
    assert list(result.lengths) == by_hand and sum(result.layers_seen) == sum(by_hand)
    assert result.flops_relative_percent == pytest.approx(
        100 * gqa_flops(by_hand, session.config) / gqa_flops([66] * 6, session.config)
    )


def test_trim_of_a_prompt_without_padding_is_the_method_alone(session):
    trimmed, plain = (session.answer(make_clip(), "What?", m) for m in ("trim+fastav", "fastav"))
    assert trimmed.answer == plain.answer and trimmed.layers_seen == plain.layers_seen


def test_bad_questions_and_methods_are_named(session):
    with pytest.raises(UserError, match="question is empty"):
        session.answer(make_clip(), "  ")
    with pytest.raises(UserError, match="2001 characters; at most 2000"):
        session.answer(make_clip(), "a" * 2001)
    with pytest.raises(UserError, match="unknown method 'fast'"):
        session.answer(make_clip(), "What?", "fast")


def test_calibration_gives_a_plan_for_the_middle_layer(session):
    plan = calibrate(session, 2, keep=0.5, alpha=0.5, statistic="visible-column")
    assert plan.start == 3 and plan.n_clips == 2 and len(plan.curve) == 54
    assert sum(v >= plan.threshold for v in plan.curve) == 27


def test_comparison_table_shows_both_columns(session):
    comparison = session.compare(make_clip(), "What?")
    assert isinstance(comparison, Comparison)
    rows = {name: cells for name, *cells in comparison.rows()}
    assert rows["Audio tokens, first > last layer"][0] == "30 > 30"
    assert rows["Prefill FLOPs, vanilla = 100"] == ["100.0", f"{comparison.pruned.flops_relative_percent:.1f}"]
    assert "KV cache after prefill" in comparison.table()


# --- one clip, one encoding


def test_a_changed_clip_of_the_same_file_is_encoded_anew(session):
    """Blanked frames keep the file's hash. Oracle: the adapter's own counter, and a session that saw only the changed clip."""
    clip = make_clip(n=6)
    blanked = replace(clip, frames=np.zeros_like(clip.frames[:5]))
    session.answer(clip, "What?")
    assert session.answer(blanked, "What?").answer == Session(StubAdapter()).answer(blanked, "What?").answer
    assert session.adapter.n_encoded == 2
    session.answer(blanked, "What else?")
    assert session.adapter.n_encoded == 2


def test_a_clip_cannot_be_changed_in_place():
    clip = make_clip()
    for values in (clip.frames, clip.audio):
        assert not values.flags.writeable


# --- one run at a time


def test_two_threads_comparing_two_clips_encode_each_clip_once(session):
    """By hand: a comparison is one run, so two of them need two encodings."""
    clips = [make_clip(n=n) for n in (4, 5)]
    encode, began = session.adapter.encode, threading.Barrier(2, timeout=20)

    def slowly(clip):
        time.sleep(0.05)
        return encode(clip)

    session.adapter.encode = slowly

    def compare(clip):
        began.wait()
        session.compare(clip, "What?", fvcore=False, peak=False)

    threads = [threading.Thread(target=compare, args=(clip,)) for clip in clips]
    [t.start() for t in threads]
    [t.join() for t in threads]
    assert session.adapter.n_encoded == 2


def test_asking_while_ones_own_stream_is_open_is_an_error_not_a_wait(session):
    said = []

    def ask():
        for _ in session.stream(make_clip(), "What?", peak=False, fvcore=False):
            try:
                session.answer(make_clip(), "What?")
            except UserError as error:
                said.append(str(error))
                break

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(30)
    assert said and "still being streamed" in said[0]


def test_another_thread_waits_for_an_open_stream(session):
    stream = session.stream(make_clip(), "What?", peak=False, fvcore=False)
    next(stream)
    done = []
    thread = threading.Thread(target=lambda: done.append(session.answer(make_clip(), "What?").n_new_tokens), daemon=True)
    thread.start()
    time.sleep(0.1)
    assert not done
    for _ in stream:
        pass
    thread.join(30)
    assert done == [12]


def test_planning_is_in_the_time_to_the_first_token(session, monkeypatch):
    """By hand: a plan that takes 0.2 s makes the first token take at least that."""
    cuts = FastAV.cuts

    def slow(self, layout, n_layers):
        time.sleep(0.2)
        return cuts(self, layout, n_layers)

    session.answer(make_clip(), "What?")
    monkeypatch.setattr(FastAV, "cuts", slow)
    assert session.answer(make_clip(), "What?").prefill_sec > 0.2
