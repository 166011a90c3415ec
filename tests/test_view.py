"""What the page shows, from records made by hand. Oracle: the record itself, counted here in another way."""

import base64
import io
import json
import re
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from fastav.page import view
from fastav.result import Comparison, Result


def make_result(**changes) -> Result:
    """Two text, 2 frames of 4 video, 3 audio and 2 text tokens through 4 layers; vanilla unless `layers_seen` says otherwise."""
    fields = {
        "answer": "yes", "question": "Is the bell visible?", "model": "tiny", "checkpoint": "nowhere", "method": "vanilla",
        "clip_name": "bell.mp4", "clip_sha256": "ab", "clip_duration_sec": 4.0, "has_video": True, "has_audio": True, "notes": (),
        "token_runs": (("text", -1, 2), ("video", 0, 4), ("video", 1, 4), ("audio", -1, 3), ("text", -1, 2)),
        "grids": ((2, 2), (1, 4)), "layers_seen": (4,) * 15, "lengths": (15,) * 4,
        "tokens_before": {"text": 4, "video": 8, "audio": 3}, "tokens_after": {"text": 4, "video": 8, "audio": 3},
        "flops": 2e9, "flops_paper": 2e9, "flops_fvcore": 2e9, "flops_relative_percent": 100.0,
        "flops_paper_relative_percent": 100.0,
        "n_new_tokens": 2, "encode_sec": 0.01, "prefill_sec": 0.2, "per_token_sec": None, "total_sec": 0.3, "n_repeats": 1,
        "kv_bytes": 2_000_000, "peak_bytes": 3_000_000, "total_bytes": None, "device": "cpu", "dtype": "float32", "attn": "sdpa",
    }  # fmt: skip
    return Result(**(fields | changes))


PRUNED_SEEN = (4, 4, 4, 2, 3, 4, 2, 2, 2, 2, 4, 2, 2, 4, 4)


def make_comparison(**changes) -> Comparison:
    pruned = {"method": "fastav:start=2", "layers_seen": PRUNED_SEEN, "lengths": (15, 15, 8, 7), "flops_relative_percent": 66.0}
    return Comparison(make_result(), make_result(**(pruned | {"prefill_sec": 0.15} | changes)))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, "34 % less prefill compute, first token 1.3x sooner, same answer."),
        ({"prefill_sec": 0.4}, "34 % less prefill compute, first token 2.0x later, same answer."),
        ({"prefill_sec": 0.201}, "34 % less prefill compute, first token about as soon, same answer."),
        ({"prefill_sec": 0.19}, "34 % less prefill compute, first token 1.1x sooner, same answer."),
        ({"prefill_sec": 2.2}, "34 % less prefill compute, first token 11.0x later, same answer."),
        ({"answer": "no"}, "34 % less prefill compute, first token 1.3x sooner, different answer."),
        ({"flops_relative_percent": 110.0}, "10 % more prefill compute, first token 1.3x sooner, same answer."),
        ({"flops_relative_percent": 100.0}, "Same prefill compute, first token 1.3x sooner, same answer."),
    ],
)
def test_headline_says_what_the_record_says(changes, said):
    assert view.headline(make_comparison(**changes)) == said


def test_conditions_tell_a_single_run_from_a_measured_one():
    assert view.conditions(make_result()).startswith("single run: ")
    assert view.conditions(make_result(n_repeats=5, n_new_tokens=32)).startswith("median of 5 runs, 32 forced tokens each; ")


def test_token_map_counts_as_the_record_does():
    result = make_comparison().pruned
    drawn = view.token_map(result, np.zeros((4, 6, 8, 3), np.uint8))
    for layer, length in enumerate(result.lengths):
        assert sum(counts[layer] for counts in drawn["kinds"].values()) == length == len(result.kept(layer))
    assert drawn["n_tokens"] == sum(count for _, _, count in result.token_runs)
    assert [frame["seen"] for frame in drawn["frames"]] == [list(PRUNED_SEEN[2:6]), list(PRUNED_SEEN[6:10])]
    assert [(frame["rows"], frame["cols"]) for frame in drawn["frames"]] == [(2, 2), (1, 4)]
    assert drawn["audio"] == list(PRUNED_SEEN[10:13])
    assert drawn["frames_each"] == 2
    json.dumps(drawn)


def test_token_map_of_sound_alone_and_of_interleaved_frames():
    sound = make_result(token_runs=(("text", -1, 5), ("audio", -1, 10)), has_video=False)
    drawn = view.token_map(sound, np.zeros((0, 0, 0, 3), np.uint8))
    assert drawn["frames"] == [] and len(drawn["audio"]) == 10 and "video" not in drawn["kinds"]
    runs = (("video", 0, 3), ("audio", 0, 4), ("video", 1, 3), ("video", 0, 1), ("audio", 1, 4))
    woven = make_result(token_runs=runs, grids=((2, 2), (1, 3)))
    drawn = view.token_map(woven, np.zeros((2, 6, 8, 3), np.uint8))
    assert [len(frame["seen"]) for frame in drawn["frames"]] == [4, 3] and len(drawn["audio"]) == 8


def test_tokens_of_a_time_step_are_laid_out_as_its_grid_says():
    """By hand: two rows of two tokens and a newline token, then three time tokens, which are not drawn but counted."""
    seen = (4, 1, 2, 3, 4, 1, 4, 4, 4, 2, 2, 2, 2, 2, 2, 3, 3, 3)
    result = make_result(token_runs=(("video", 0, 9), ("video", 1, 9)), grids=((2, 3), (3, 2)), layers_seen=seen)
    first, second = view.token_map(result, np.zeros((2, 6, 8, 3), np.uint8))["frames"]
    assert (first["rows"], first["cols"], first["seen"]) == (2, 3, [4, 1, 2, 3, 4, 1])
    assert (second["rows"], second["cols"], second["seen"]) == (3, 2, [2] * 6)
    assert view.token_map(result, np.zeros((2, 6, 8, 3), np.uint8))["kinds"]["video"] == [18, 16, 9, 5]


def test_token_map_of_a_large_model_stays_small():
    """2,206 tokens in 28 layers (VideoLLaMA2): well under a megabyte for the page."""
    runs = (("text", -1, 14), *(("video", f, 169) for f in range(4)), ("audio", -1, 1496), ("text", -1, 20))
    result = make_result(token_runs=runs, grids=((13, 13),) * 4, layers_seen=(28,) * 2206, lengths=(2206,) * 28)
    frames = np.random.default_rng(0).integers(0, 256, (8, 384, 384, 3), np.uint8)
    assert len(json.dumps(view.token_map(result, frames))) < 200_000


def test_thumbnails_are_the_middle_frames_of_equal_parts():
    frames = np.repeat(np.arange(0, 160, 20, np.uint8), 200 * 300 * 3).reshape(8, 200, 300, 3)
    pictures = [Image.open(io.BytesIO(base64.b64decode(p.split(",")[1]))) for p in view.thumbnails(frames, 4)]
    assert [round(np.asarray(p).mean() / 20) for p in pictures] == [1, 3, 5, 7]
    assert max(pictures[0].size) == view.THUMBNAIL_PIXELS


def test_table_holds_every_row_and_the_record_and_no_markup_from_outside():
    comparison = make_comparison(question="<img src=x onerror=alert(1)>", notes=("a <b> note",))
    page = view.table(comparison)
    assert page.count("<tr>") == 1 + len(comparison.rows())
    assert "<img" not in page and "a &lt;b&gt; note" in page and "<th scope='col'>FastAV</th>" in page
    record = json.loads(base64.b64decode(re.search(r"base64,([^']+)'", page).group(1)))
    again = Comparison(Result.from_dict(record["vanilla"]), Result.from_dict(record["pruned"]))
    assert again.rows() == comparison.rows()
    assert replace(again.pruned, spread={}) == comparison.pruned


def test_tokens_without_a_known_grid_are_one_row():
    drawn = view.token_map(replace(make_comparison().pruned, grids=()), np.zeros((4, 6, 8, 3), np.uint8))
    assert [(frame["rows"], frame["cols"]) for frame in drawn["frames"]] == [(1, 4), (1, 4)]
