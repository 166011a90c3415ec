"""The parity tool itself. Oracle: the golden data of tests/golden, on which it passes, with one thing changed or taken away."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from parity import Report, main
from parity_methods import METHODS
from parity_methods import compare as compare_methods
from parity_video_salmonn2 import compare as compare_salmonn
from parity_videollama2 import compare as compare_llama
from safetensors.torch import load_file, save_file

GOLDEN = Path(__file__).resolve().parent / "golden"
CASE = "av_1s_tail"  # of video-SALMONN 2
pytestmark = pytest.mark.filterwarnings("ignore:Passing .repetition_penalty. with .inputs_embeds.")

# What the tool calls the comparisons with these tensors of a case.
STAGES = {
    "vision_features": "vision_features",
    "projected_full": "projected",
    "pooled_visual": "pooled visual",
    "whisper_out": "whisper",
    "qformer_out": "qformer_out",
    "speech_proj": "speech_proj",
    "final_linear": "final_linear",
    "speech_tokens": "speech tokens, with position",
    "inputs_embeds": "inputs_embeds",
    "token_modality": "kind of every token",
    "token_frame": "frame of every token",
    "hidden_states": "hidden states",
    "logits": "logits",
    "last_query_importance": "last-query score",
}


@pytest.fixture
def llama(tmp_path):
    return shutil.copytree(GOLDEN / "videollama2", tmp_path / "videollama2")


@pytest.fixture
def salmonn(tmp_path):
    """The checkpoint and its shortest case."""
    names = "config.json submodel_configs.json tokenizer.json model.safetensors index.json".split()
    return copied(tmp_path / "video_salmonn2", *names, f"{CASE}.safetensors", f"{CASE}.flac")


def copied(folder, *names):
    folder.mkdir()
    for name in names:
        shutil.copy(GOLDEN / "video_salmonn2" / name, folder)
    return folder


def edit_tensors(path, edit):
    tensors = load_file(path)
    edit(tensors)
    save_file(tensors, path)


def edit_json(path, edit):
    record = json.loads(path.read_text())
    edit(record)
    path.write_text(json.dumps(record))


def stages(compare, folder):
    """Names of the stages in excess."""
    compare(folder, report := Report(quiet=True))
    assert report.n_sets
    return {line[25:57].strip() for line in report.failures}


def increase_last(tensors):
    """In every tensor that is not an input, one element."""
    for name, tensor in tensors.items():
        if not name.startswith(("in.", "frames_uint8")):
            tensor.view(-1)[-1] += 1


def test_unaltered_data_passes(llama, salmonn):
    assert stages(compare_llama, llama) == set()
    assert stages(compare_salmonn, salmonn) == set()


# --- VideoLLaMA2


def test_one_changed_element_of_any_tensor_is_named(llama):
    edit_tensors(llama / "golden_small.safetensors", increase_last)
    expected = {name for name in load_file(llama / "golden_small.safetensors") if not name.startswith("in.")}
    assert len(expected) > 20
    assert stages(compare_llama, llama) == expected


def test_changed_ids_and_margins_are_named(llama):
    def change(told):
        for name in ("input_ids", "audio_prompt_ids", "greedy_margins", "video_only_greedy_ids", "audio_only_greedy_ids"):
            told[name][-1] += 1
        for name in ("greedy_ids", "greedy_ids_repetition_penalty_1_3"):
            told[name][0] += 1
        told["eos_token_id"], told["pad_token_id"] = told["pad_token_id"], told["eos_token_id"]

    edit_json(llama / "golden_small.json", change)
    assert stages(compare_llama, llama) == {
        "prompt ids",
        "audio only, prompt ids",
        "greedy margins",
        "video only",
        "audio only",
        "greedy ids",
        "greedy text",
        "repetition penalty 1.3",
        "stop ids",
        "padding id of the tokenizer",
    }


def test_removed_tensors_are_named(llama):
    """Of the stages that are left, all are still compared."""

    def remove(tensors):
        for name in [name for name in tensors if name.startswith(("llm.", "connector.", "gen."))]:
            del tensors[name]
        tensors["audio.out"] = tensors["audio.out"][:, 1:].contiguous()

    edit_tensors(llama / "golden_small.safetensors", remove)
    compare_llama(llama, report := Report(quiet=True))
    listed, shape = report.failures
    for name in ("llm.logits", "llm.attn_last_query", "connector.out", "gen.step_logits", "audio.out"):
        assert f"'{name}'" in listed
    assert "audio.out" in shape
    assert len(report.lines) > 30


def test_a_listed_tensor_of_the_preprocessing_must_be_there(tmp_path):
    save_file(
        {"fbank.waveform_int16": load_file(GOLDEN / "videollama2/golden_small.safetensors")["in.waveform_int16"]},
        tmp_path / "preprocess.safetensors",
    )
    (tmp_path / "preprocess.json").write_text(json.dumps({"tensors": {"img0.pixel_rows_fp32": ["float32", [1]]}}))
    compare_llama(tmp_path, report := Report(quiet=True))
    assert "img0.pixel_rows_fp32" in report.failures[0]


# --- video-SALMONN 2


def test_one_changed_element_of_any_tensor_of_a_case_is_named(salmonn):
    edit_tensors(salmonn / f"{CASE}.safetensors", increase_last)
    assert set(load_file(salmonn / f"{CASE}.safetensors")) - {"frames_uint8"} == set(STAGES)
    assert stages(compare_salmonn, salmonn) == set(STAGES.values())


def test_changed_counts_and_ids_of_a_case_are_named(salmonn):
    def change(index):
        case = index["cases"][CASE]
        for name in ("visual_per_frame", "audio_tokens_raw", "audio_tokens_front", "audio_tokens_after_nearest"):
            case[name] += 1
        for name in ("input_ids", "generated_ids", "greedy_margins"):
            case[name][-1] += 1

    edit_json(salmonn / "index.json", change)
    assert stages(compare_salmonn, salmonn) == {
        "visual tokens per frame",
        "audio tokens",
        "audio tokens before the tail",
        "audio tokens after alignment",
        "prompt ids",
        "greedy ids",
        "greedy margins",
    }


@pytest.mark.parametrize("name", ["speech_tokens", "last_query_importance"])
def test_a_removed_tensor_of_a_case_is_named(salmonn, name):
    edit_tensors(salmonn / f"{CASE}.safetensors", lambda tensors: tensors.pop(name))
    compare_salmonn(salmonn, report := Report(quiet=True))
    assert name in report.failures[0]


def test_what_only_the_detailed_case_holds_must_be_there(salmonn):
    """The short case under the name of the detailed one."""
    for suffix in (".safetensors", ".flac"):
        (salmonn / f"{CASE}{suffix}").rename(salmonn / f"av_10s{suffix}")
    edit_json(salmonn / "index.json", lambda index: index["cases"].update(av_10s=index["cases"].pop(CASE)))
    compare_salmonn(salmonn, report := Report(quiet=True))
    (line,) = report.failures
    assert all(name in line for name in ("pixel_values_first3", "input_features", "last_query_attention_per_head"))


def test_changed_numbers_at_real_size_are_named(tmp_path):
    def change(real):
        real["real_num_elements"] += 1
        real["time_string_ids"]["10.0"].pop()
        real["time_string_ids"]["7"] = [22]

    folder = copied(tmp_path / "real", "real_parameters.json", "tokenizer.json")
    edit_json(folder / "real_parameters.json", change)
    assert stages(compare_salmonn, folder) == {"elements", "10.0, tokens", "7"}


# --- pruning methods


@pytest.fixture
def recorded(tmp_path):
    return shutil.copytree(GOLDEN / "methods", tmp_path / "methods")


def test_one_changed_position_of_any_case_of_a_method_is_named(recorded):
    """The last position that stays, or the last of all, as a recording has positions or a mask."""

    def change(tensors):
        for name, tensor in tensors.items():
            if name.endswith(".keep"):
                tensor[-1] = ~tensor[-1] if tensor.dtype == torch.bool else tensor[-1] + 1

    for name in METHODS:
        edit_tensors(recorded / f"{name}.safetensors", change)
        cases = json.loads((recorded / f"{name}.json").read_text())["cases"]
        compare_methods(recorded, report := Report(quiet=True), [name])
        assert [line[:24].strip() for line in report.failures] == [f"{name} {case['name']}" for case in cases]


def test_a_removed_tensor_of_a_method_is_named(recorded):
    edit_tensors(recorded / "fastv.safetensors", lambda tensors: tensors.pop("om.kind"))
    compare_methods(recorded, report := Report(quiet=True))
    assert "om.kind" in report.failures[0] and all("fastv" in line for line in report.failures)


@pytest.mark.parametrize("method", ["omnizip", "seats"])
def test_one_changed_choice_of_any_case_is_named(method, tmp_path):
    """Of what the reference code chose, the last: a flag, an index or a number."""
    for suffix in (".json", ".safetensors"):
        shutil.copy(GOLDEN / "methods" / f"{method}{suffix}", tmp_path)
    outcomes = ("picked", "keep", "budgets", "rates", "merged", "anchors")

    def change(tensors):
        for name in [name for name in tensors if name.endswith(outcomes)]:
            flat = tensors[name].view(-1)
            flat[-1] = ~flat[-1] if flat.dtype == torch.bool else flat[-1] + 1

    edit_tensors(tmp_path / f"{method}.safetensors", change)
    compare_methods(tmp_path, report := Report(quiet=True), [method])
    cases = {f"{method} {case['name']}" for case in json.loads((tmp_path / f"{method}.json").read_text())["cases"]}
    assert {line[:24].strip() for line in report.failures} == cases


# --- the command line


@pytest.mark.parametrize("model", ["videollama2", "video_salmonn2", "methods"])
def test_an_empty_folder_fails(model, tmp_path, capsys):
    assert main([model, str(tmp_path)]) == 1
    assert "holds none of the sets" in capsys.readouterr().out


def test_a_checkpoint_without_a_case_is_no_set(salmonn, capsys):
    (salmonn / f"{CASE}.flac").unlink()
    assert main(["video_salmonn2", str(salmonn)]) == 1
    assert "holds none of the sets" in capsys.readouterr().out


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


BROKEN = {
    "a JSON is missing": ("videollama2", lambda f: (f / "golden_small.json").unlink(), "golden_small.json"),
    "its tensors are missing": ("videollama2", lambda f: (f / "golden_small.safetensors").unlink(), "golden_small.safetensors"),
    "the tensors are cut": ("videollama2", lambda f: cut(f / "golden_small.safetensors"), "SafetensorError"),
    "the JSON is cut": ("videollama2", lambda f: cut(f / "golden_small.json"), "JSONDecodeError"),
    "the adapter refuses": ("videollama2", lambda f: (f / "tiny/config.json").unlink(), "config.json"),
    "no index": ("video_salmonn2", lambda f: (f / "index.json").unlink(), "index.json"),
    "no state_dict": ("video_salmonn2", lambda f: edit_json(f / "index.json", lambda i: i.pop("state_dict")), "'state_dict'"),
    "a case is cut": ("video_salmonn2", lambda f: cut(f / f"{CASE}.safetensors"), "SafetensorError"),
    "the sound is no sound": ("video_salmonn2", lambda f: (f / f"{CASE}.flac").write_bytes(b"x"), "LibsndfileError"),
    "refused weights": ("video_salmonn2", lambda f: cut(f / "model.safetensors"), "model.safetensors"),
}


@pytest.mark.parametrize("broken", BROKEN)
def test_a_broken_folder_fails_and_says_why(broken, llama, salmonn, capsys):
    model, breaks, expected = BROKEN[broken]
    folder = {"videollama2": llama, "video_salmonn2": salmonn}[model]
    breaks(folder)
    assert main([model, str(folder)]) == 1
    (line,) = {line for line in capsys.readouterr().out.splitlines() if line.startswith("EXCESS")}
    assert expected in line
