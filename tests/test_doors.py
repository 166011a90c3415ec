"""The paper's two models through command line and evaluation, on small checkpoints of their published formats, and every method
through the page on FastAV-tiny. Oracle: token counts of the facts about each model, and arithmetic on a method's cuts.
"""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

import app
from eval import run
from fastav import methods, session
from fastav.__main__ import main

ROOT = Path(__file__).resolve().parents[1]
GOLDEN = ROOT / "tests" / "golden"
CLIP = ROOT / "assets" / "examples" / "dog_car.mp4"
QUESTION = "Is the dog making sound in the audio? Answer yes or no."
# The clip has 4.25 s of pictures and 4.2 s of sound. 8 frames become 4 time steps of 2 x 2, and the track eight pieces of 2 s and
# zeros up to 30 s: 1,600 of 2,998 log-mel frames hold sound, which are 800 of 1,496 tokens. 5 frames at one per second have
# 3 x (3 + 1) tokens each, and 30 s of padded sound 60 tokens of half a second, of which 9 hold sound.
MODELS = {
    "videollama2.1-av": (GOLDEN / "videollama2" / "tiny", 16, 1496, 800),
    "video-salmonn-2": (GOLDEN / "video_salmonn2", 60, 60, 9),
}


@pytest.mark.parametrize("name", MODELS)
def test_one_question_on_the_command_line(name, capsys):
    folder, n_video, n_audio, n_sounding = MODELS[name]
    options = ["--model", name, "--checkpoint", str(folder), "--method", "trim+fastav:p=10", "--json"]
    assert main([str(CLIP), QUESTION, *options]) == 0
    out, err = capsys.readouterr()
    record = json.loads(out)
    vanilla, pruned = record["vanilla"], record["pruned"]
    assert (vanilla["tokens_before"]["video"], vanilla["tokens_before"]["audio"]) == (n_video, n_audio)
    assert vanilla["lengths"][0] - pruned["lengths"][0] == n_audio - n_sounding
    assert pruned["flops_relative_percent"] < 100 and pruned["method"].startswith("trim+fastav:start=")
    assert f"{name}: " in err and "KV cache unpruned" in err


@pytest.mark.parametrize("name", MODELS)
def test_evaluation_of_the_mini_set(name, tmp_path, capsys):
    folder = MODELS[name][0]
    options = ["--model", name, "--checkpoint", str(folder), "--limit", "3", "--output", str(tmp_path), "--method", "trim"]
    assert run.main(["--bench", "avhbench", *options]) == 0
    numbers = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert [m["method"] for m in numbers["methods"]] == ["vanilla", "trim"]
    assert (tmp_path / "records.jsonl").read_text().count("\n") == 1 + 2 * 3  # the settings, then each method on each question


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", MODELS)
def test_a_model_kept_on_disk_answers_the_same(name, dtype):
    """Oracle: the same model in memory."""
    folder = str(MODELS[name][0])
    plain, on_disk = (session.load(name, folder, dtype=dtype, device_map=where) for where in (None, {"": "disk"}))
    clip = plain.read(CLIP)
    for method in ("vanilla", "trim+fastav"):
        want, got = (each.answer(clip, QUESTION, method, max_new_tokens=6) for each in (plain, on_disk))
        assert (got.answer, got.dtype, got.lengths) == (want.answer, dtype, want.lengths)


@pytest.mark.parametrize("trim", [False, True])
@pytest.mark.parametrize("name", methods.METHODS)
def test_the_page_runs_every_method_on_fastav_tiny(name, trim):
    """Linked to, then run as the link says. Oracle: lengths of the method's own cuts of the same prompt."""
    text = str(methods.parse(f"trim+{name}" if trim else name, 8))
    assert app.restore(SimpleNamespace(query_params={"method": text}))[app.method_box] == text
    steps = list(app.compare(str(CLIP), QUESTION, "tiny", text))
    drawn = steps[-1][app.map_box]

    tiny = app.sessions.get("tiny")
    layout = tiny.inputs(tiny.read(CLIP), QUESTION)[0].layout
    method = methods.parse(text, tiny.n_layers)
    layout_left = layout.subset(method.enters(layout))
    assert drawn["lengths"] == methods.lengths(method, layout_left, tiny.n_layers) and drawn["n_tokens"] == len(layout)
    assert [(frame["rows"], frame["cols"]) for frame in drawn["frames"]] == [(4, 4)] * 8
    assert steps[-1][app.pruned_box]["label"].startswith(method.title + " · ")
    assert steps[-1][app.pruned_box]["value"] and f"<th scope='col'>{method.title}</th>" in steps[-1][app.table_box]
