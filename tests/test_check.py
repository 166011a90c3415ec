"""`python -m fastav check` on small checkpoints of the published formats. Oracle: what was altered, the tables of real keys."""

import json
import re
import shutil
from itertools import takewhile
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from fastav.__main__ import main
from fastav.check import CLIP, check

GOLDEN = Path(__file__).parent / "golden"
FOLDERS = {"videollama2.1-av": GOLDEN / "videollama2" / "tiny", "video-salmonn-2": GOLDEN / "video_salmonn2"}


@pytest.fixture(params=FOLDERS)
def checkpoint(request, tmp_path):
    """(model name, a copy of its checkpoint that may be altered)"""
    shutil.copytree(FOLDERS[request.param], tmp_path / "c")
    return request.param, tmp_path / "c"


def differing(name, folder):
    """Names of the lines, before anything is loaded, that say "differs"."""
    lines = takewhile(lambda line: line.name not in ("loading", "run"), check(name, str(folder)))
    return {line.name for line in lines if line.passed is False}


def alter_config(folder, **values):
    config = json.loads((folder / "config.json").read_text())
    for key, value in values.items():
        group, _, inner = key.rpartition("__")
        (config[group] if group else config)[inner] = value
    (folder / "config.json").write_text(json.dumps(config))


def alter_tensors(folder, change):
    """`change` the tensors of every file of weights in place."""
    for file in folder.glob("model*.safetensors"):
        tensors = load_file(file)
        change(tensors)
        save_file(tensors, file)


def test_keys_are_compared_with_the_published_ones(checkpoint):
    name, folder = checkpoint
    alter_tensors(folder, lambda tensors: tensors.pop("model.norm.weight", None))
    lines = {line.name: line for line in check(name, str(folder))}
    assert lines["keys that the checkpoint lacks"].passed is False
    assert lines["keys that the checkpoint lacks"].text == "model.norm.weight"
    assert lines["keys that the table lacks"].passed is True
    # The report goes to its end: loading says the same in its own words.
    assert lines["run"].passed is False and re.search(r"missing: \S*norm.weight", lines["run"].text)


def test_the_whole_report_on_an_unaltered_checkpoint(checkpoint, capsys):
    name, folder = checkpoint
    assert main(["check", "--model", name, "--checkpoint", str(folder)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert {line[:8].strip() for line in lines} == {"ok", "info"}
    table = {re.split(r"\s{2,}", line[8:])[0]: line for line in lines}
    for part in ("versions", "files", "estimate", "loading", "logits", "clip", "vanilla", "fastav", "generation_config.json"):
        assert part in table, part
    assert "all finite" in table["logits"] and "KV cache unpruned" in table["estimate"]


@pytest.mark.parametrize(
    ("name", "alteration", "line"),
    [
        ("videollama2.1-av", {"num_frames": 16}, "num_frames"),
        ("videollama2.1-av", {"model_type": "videollama2_mistral"}, "model_type"),
        ("videollama2.1-av", {"mm_projector_type": "stc_connector"}, "mm_projector_type"),
        ("videollama2.1-av", {"mm_vision_select_layer": -1}, "mm_vision_select_layer"),
        ("videollama2.1-av", {"mm_vision_select_feature": "cls_patch"}, "mm_vision_select_feature"),
        ("videollama2.1-av", {"mm_projector_a_type": "linear"}, "mm_projector_a_type"),
        ("videollama2.1-av", {"tune_mm_mlp_adapter": True}, "tune_mm_mlp_adapter"),
        ("videollama2.1-av", {"mm_audio_tower": None}, "mm_audio_tower"),
        ("video-salmonn-2", {"model_type": "llava_qwen"}, "model_type"),
        ("video-salmonn-2", {"tie_word_embeddings": True}, "tie_word_embeddings"),
        ("video-salmonn-2", {"rms_norm_eps": 1e-5}, "rms_norm_eps"),
        ("video-salmonn-2", {"rope_scaling": {"type": "linear", "factor": 2}}, "rope_scaling"),
        ("video-salmonn-2", {"model_args__second_per_window": 0.333333}, "model_args.second_per_window"),
    ],
)
def test_an_altered_fact_is_named_and_no_other(name, alteration, line, tmp_path):
    shutil.copytree(FOLDERS[name], tmp_path / "c")
    assert differing(name, tmp_path / "c") == set()
    alter_config(tmp_path / "c", **alteration)
    assert differing(name, tmp_path / "c") == {line}


def test_a_checkpoint_that_differs_ends_with_exit_code_1(checkpoint, capsys):
    name, folder = checkpoint
    alter_tensors(folder, lambda tensors: tensors.pop("model.norm.weight", None))
    assert main(["check", "--model", name, "--checkpoint", str(folder)]) == 1
    assert any(line.startswith("differs") and "model.norm.weight" in line for line in capsys.readouterr().out.splitlines())


def test_what_the_model_ignores_may_be_missing(tmp_path):
    """The facts page allows one copy of BEATs' distance table and no classifier; nothing reads the Q-Former's positions."""
    for name, dropped in (
        ("videollama2.1-av", r"predictor|layers\.[12].*relative_attention"),
        ("video-salmonn-2", "position_ids"),
    ):
        shutil.copytree(FOLDERS[name], tmp_path / name)

        def drop(tensors, dropped=dropped):
            for key in [key for key in tensors if re.search(dropped, key)]:
                del tensors[key]

        alter_tensors(tmp_path / name, drop)
        assert differing(name, tmp_path / name) == set()


def test_a_part_that_stops_does_not_stop_the_report(checkpoint):
    name, folder = checkpoint
    (folder / "generation_config.json").write_text("{")
    lines = {line.name: line for line in check(name, str(folder))}
    assert lines["facts"].passed is False and "generation_config.json" in lines["facts"].text
    assert "KV cache unpruned" in lines["estimate"].text and "run" in lines


def test_a_config_without_sizes_is_one_line(checkpoint, capsys):
    name, folder = checkpoint
    config = json.loads((folder / "config.json").read_text())
    del config["hidden_size"]
    (folder / "config.json").write_text(json.dumps(config))
    assert main([str(CLIP), "Is it?", "--model", name, "--checkpoint", str(folder)]) == 2
    assert re.search(r"config.json does not describe .*hidden_size", capsys.readouterr().err)


def test_a_repetition_penalty_of_the_checkpoint_is_shown(checkpoint):
    name, folder = checkpoint
    (folder / "generation_config.json").write_text(json.dumps({"repetition_penalty": 1.05}))
    line = next(line for line in check(name, str(folder)) if line.name == "generation_config.json")
    assert "'repetition_penalty': 1.05" in line.text


def test_the_built_in_model_has_a_short_report(capsys):
    assert main(["check"]) == 0
    assert "built in" in capsys.readouterr().out


def test_a_folder_without_a_checkpoint_is_one_line(tmp_path, capsys):
    assert main(["check", "--model", "videollama2.1-av", "--checkpoint", str(tmp_path)]) == 2
    assert "config.json" in capsys.readouterr().err
