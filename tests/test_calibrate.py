"""`python -m fastav calibrate` on small checkpoints of every family, and the plan in use.

Oracle: attention maps of the whole model as transformers' eager attention returns them, multiplied and averaged in plain loops.
"""

import hashlib
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from test_qwen2_5_omni import folder as omni_checkpoint  # noqa: F401  (a fixture)

import fastav
from fastav import models, rollout
from fastav.__main__ import main
from fastav.calibrate import calibrate
from fastav.clip.clip import clip_from_arrays
from fastav.clip.read import read_clip
from fastav.clip.write import write_clip
from fastav.errors import UserError
from fastav.models import load_model
from fastav.session import Session, load

ROOT = Path(__file__).resolve().parents[1]
EXAMPLES = ROOT / "assets" / "examples"
QUESTION = "What is there?"
LARGE = {"videollama2.1-av": "videollama2/tiny", "video-salmonn-2": "video_salmonn2", "qwen2.5-omni": None}
pytestmark = pytest.mark.filterwarnings("ignore:Passing .repetition_penalty. with .inputs_embeds.")


@pytest.fixture(params=LARGE)
def large(request):
    """(name, folder of a small checkpoint) of each large model."""
    stored = LARGE[request.param]
    path = ROOT / "tests" / "golden" / stored if stored else request.getfixturevalue("omni_checkpoint")
    return request.param, str(path)


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """Two clips with both streams, one of them in a folder of its own; one without sound, one that is none, and a note."""
    path = tmp_path_factory.mktemp("clips")
    (path / "deep").mkdir()
    shutil.copy(EXAMPLES / "dog_car.mp4", path / "deep" / "dog_car.mp4")
    shutil.copy(EXAMPLES / "fan_kettle.mp4", path / "fan_kettle.mp4")
    write_clip(path / "mute.mp4", np.zeros((16, 64, 64, 3), np.uint8), 4, None)
    (path / "broken.mp4").write_text("no clip at all\n" * 50)
    (path / "notes.txt").write_text("not a video, and nobody says it is")
    return path


def ended(capsys, *arguments: str) -> tuple[int | BaseException, str, str]:
    """(exit code, or what was raised instead; stdout; stderr) of the command line."""
    try:
        code = main([str(a) for a in arguments])
    except BaseException as error:
        code = error
    return code, *capsys.readouterr()


@torch.inference_mode()
def slow_influence(session: Session, clip, question: str, alpha: float) -> dict[int, list[float]]:
    """Media offset -> mean over the rows that see it of R after the first half of the layers, of every token there."""
    inputs, _ = session.inputs(clip, question)
    positions = {k: v for k, v in inputs.generate_kwargs.items() if k == "position_ids"}
    session.model.set_attn_implementation("eager")
    maps = session.model(inputs_embeds=inputs.embeds, output_attentions=True, **positions).attentions
    n = len(inputs.layout)
    product = np.eye(n)
    for attention in maps[: len(maps) // 2]:
        product = (alpha * attention[0].double().mean(0).numpy() + (1 - alpha) * np.eye(n)) @ product
    found: dict[int, list[float]] = {}
    for position, offset in enumerate(inputs.layout.media_offset):
        if offset >= 0:
            found.setdefault(int(offset), []).append(product[position:, position].sum() / (n - position))
    return found


def test_the_curve_of_one_clip_is_the_slow_product_of_attention_maps(large):
    name, checkpoint = large
    session = Session(load_model(name, checkpoint, device="cpu"))
    clip = session.read(EXAMPLES / "dog_car.mp4")
    plan = calibrate(session, 1, [clip], question=QUESTION, keep=0.3, alpha=0.4)
    want = slow_influence(session, clip, QUESTION, 0.4)
    assert sorted(want) == list(range(len(plan.curve)))
    assert np.allclose(plan.curve, [np.mean(want[offset]) for offset in range(len(want))], rtol=1e-4)
    tokens = sorted((plan.curve[offset] for offset in want for _ in want[offset]), reverse=True)
    assert plan.threshold == tokens[round(0.3 * len(tokens)) - 1]


def test_a_folder_of_clips_makes_a_plan_that_its_model_takes_and_another_refuses(large, clips, tmp_path, capsys):
    name, checkpoint = large
    model, path = ("--model", name, "--checkpoint", checkpoint, "--device", "cpu"), tmp_path / "plan.json"
    code, out, err = ended(capsys, "calibrate", *model, "--clips", clips, "--keep", "0.1", "--output", path)
    assert code == 0, err
    for said in (
        f"left out: {clips / 'broken.mp4'}: this is not a video or sound file",
        f"left out: {clips / 'mute.mp4'}: it has no sound",
        "2 clips can be used, fewer than the 100 asked for",
    ):
        assert said in err
    assert "notes.txt" not in err and "(2 clips)" in out

    plan = json.loads(path.read_text())
    files = (clips / "deep" / "dog_car.mp4", clips / "fan_kettle.mp4")
    digests = sorted(hashlib.sha256(file.read_bytes()).hexdigest() for file in files)
    n_layers = plan["n_layers"]
    assert plan["model"] == name and plan["checkpoint"] == checkpoint and plan["n_clips"] == 2
    assert plan["start"] == n_layers // 2 and plan["keep"] == 0.1 and plan["alpha"] == 0.5
    assert plan["statistic"] == "visible-column" and plan["question"] == "Describe what you see and hear."
    assert plan["clips_sha256"] == hashlib.sha256("\n".join(digests).encode()).hexdigest()
    assert plan["fastav_version"] == fastav.__version__

    method = ("--method", f"fastav:p=0,plan={path}", "--json")
    code, out, err = ended(capsys, files[0], QUESTION, *model, *method)
    assert code == 0, err
    pruned = json.loads(out)["pruned"]
    text = pruned["tokens_before"]["text"]
    kept = [n - text for n in pruned["lengths"]]
    session = Session(load_model(name, checkpoint, device="cpu"))
    offsets = session.inputs(session.read(files[0]), QUESTION)[0].layout.media_offset
    by_hand = sum(plan["curve"][offset] >= plan["threshold"] for offset in offsets if offset >= 0)
    assert kept == [sum(offsets >= 0)] * (n_layers // 2) + [by_hand] * (n_layers - n_layers // 2)
    assert 0 < by_hand < kept[0]

    code, _, err = ended(capsys, files[0], "What color is the dog?", *method)
    assert code == 2 and f"{path} is a plan for model {name}, not tiny" in err


def test_the_command_needs_a_folder_for_a_model_without_clips_and_says_so_before_loading(capsys, tmp_path):
    for name in LARGE:
        for checkpoint in ((), ("--checkpoint", tmp_path / "missing")):
            code, _, err = ended(capsys, "calibrate", "--model", name, "--output", tmp_path / "plan.json", *checkpoint)
            assert code == 2 and f"fastav: {name} brings no clips to calibrate on; give a folder of yours:" in err
        with pytest.raises(UserError, match="--clips DIR"):
            models.adapter_class(name).calibration_clips(1)


def test_the_built_in_model_is_calibrated_on_a_folder_too(capsys, clips, tmp_path):
    path = tmp_path / "plan.json"
    given = ("calibrate", "--clips", clips, "--output", path)
    code, out, err = ended(capsys, *given, "-n", "1", "--question", "How many objects are visible?")
    assert code == 0 and "(1 clips)" in out and "fewer than" not in err
    assert json.loads(path.read_text())["question"] == "How many objects are visible?"
    path.unlink()
    code, _, err = ended(capsys, *given, "--question", "Where is the zebra?")
    assert code == 2 and "fastav: none of 4 clips can be used to calibrate; the first is" in err.splitlines()[-1]
    assert f"left out: {clips / 'fan_kettle.mp4'}: FastAV-tiny does not know the word 'zebra'" in err
    assert not path.exists()


def test_a_clip_that_does_not_fit_into_memory_is_left_out(monkeypatch):
    session, told = Session(load_model("tiny")), []
    real, large = rollout.rollout, clip_from_arrays(np.zeros((8, 112, 112, 3), np.uint8), 2, np.ones(16000), name="large")

    def full(*args, **kwargs):
        if session._encoded[0] is large:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real(*args, **kwargs)

    monkeypatch.setattr(rollout, "rollout", full)
    small = read_clip(EXAMPLES / "dog_car.mp4", **session.adapter.read_options)
    plan = calibrate(session, 5, [large, small], progress=told.append)
    assert plan.n_clips == 1 and "left out: large: there is not enough memory for it" in told
    with pytest.raises(UserError, match="none of 1 clips can be used to calibrate; the first is large: there is not enough"):
        calibrate(session, 5, [large])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--alpha", "5"), "alpha must be a weight of attention above 0 and at most 1, got 5.0"),
        (("--alpha", "nan"), "alpha must be a weight of attention above 0 and at most 1, got nan"),
        (
            ("--output", "missing/plan.json"),
            "cannot write missing/plan.json (No such file or directory); give --output a new file",
        ),
        (("--output", "."), ". is there already; give --output another name"),
        (("--output", "a" * 300), "(File name too long); give --output a new file"),
        (("--output", "/proc/plan.json"), "cannot write /proc/plan.json (No such file or directory)"),
        (("--output", "precious.txt"), "precious.txt is there already; give --output another name, or remove it first"),
    ],
    ids=str,
)
def test_what_a_calibration_cannot_use_is_refused_before_a_model_is_loaded(capsys, tmp_path, monkeypatch, arguments, message):
    """--clips 1: also no folder, but that is looked at later."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "precious.txt").write_text("hours of work")
    code, _, err = ended(capsys, "calibrate", "--clips", "1", "--output", "plan.json", *arguments)
    assert code == 2 and message in err and len(err.splitlines()) == 1, (code, err)
    assert os.listdir(tmp_path) == ["precious.txt"] and (tmp_path / "precious.txt").read_text() == "hours of work"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--keep", "1.5"), "keep must be a fraction of the audio and video tokens above 0 and at most 1, got 1.5"),
        (("--statistic", "sum"), "unknown statistic 'sum'; allowed: visible-column, column, last-row"),
        (("-n", "0"), "the number of clips must be at least 1, got 0"),
        (("--question", "What?"), "--question goes with --clips"),
        (("--clips", ".", "--question", " "), "the question is empty"),
        (("--clips", "100"), "100 is not a folder; give one that holds video files (how many of them to use is -n)"),
        (("--clips", "."), ". holds no video file; looked for .3gp,"),
        (("--model", "gpt"), "unknown model 'gpt'"),
    ],
    ids=str,
)
def test_the_other_settings_are_checked_first_too(capsys, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    code, _, err = ended(capsys, "calibrate", *arguments)
    assert code == 2 and message in err and len(err.splitlines()) == 1
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("fields", [{"model": "videollama2.1-av"}, {"start": 3}, {"n_layers": 28}], ids=str)
def test_the_built_in_model_refuses_a_plan_that_is_not_its_own(tmp_path, fields):
    """The shipped plan, which says nothing of its number of layers, with one field changed."""
    shipped = json.loads((ROOT / "assets" / "tiny" / "plan.json").read_text())
    path = tmp_path / "plan.json"
    path.write_text(json.dumps(shipped | fields))
    session = fastav.load("tiny")
    clip = session.read(EXAMPLES / "dog_car.mp4")
    method = "fastav:plan=" + str(ROOT / "assets" / "tiny" / "plan.json")
    assert session.answer(clip, "What color is the dog?", method, peak=False).answer
    with pytest.raises(UserError, match=f"{path} is a plan for "):
        session.answer(clip, "What color is the dog?", f"fastav:plan={path}", peak=False)


@pytest.mark.parametrize("fields", [{"model": "videollama2.1-av"}, {"n_layers": 28}], ids=str)
def test_a_plan_beside_the_weights_must_be_of_that_model(tmp_path, fields):
    for file in ("config.json", "model.safetensors"):
        shutil.copy(ROOT / "assets" / "tiny" / file, tmp_path / file)
    shipped = json.loads((ROOT / "assets" / "tiny" / "plan.json").read_text())
    (tmp_path / "plan.json").write_text(json.dumps(shipped | fields))
    with pytest.raises(UserError, match="plan.json is a plan for "):
        load_model("tiny", str(tmp_path))


def test_a_file_named_by_text_is_a_file():
    with pytest.raises(UserError, match="nothing.mp4: there is no such file"):
        calibrate(load(), 1, ["nothing.mp4"])
