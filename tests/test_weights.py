"""Checkpoint files -> module. Oracle: the tensors that were written, torch's own state_dict, arithmetic on sizes."""

import contextlib
import json
import math
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import fake_cuda
import psutil
import pytest
import torch
from fake_cuda import Card
from safetensors.torch import save_file
from torch import nn
from transformers import Qwen2_5OmniThinkerConfig, Qwen2_5OmniThinkerForConditionalGeneration

from fastav.errors import UserError
from fastav.models import load_model, weights
from fastav.models.device import resolve
from fastav.models.video_salmonn2 import module as video_salmonn2
from fastav.models.videollama2 import module as videollama2
from fastav.models.videollama2 import published


def build():
    return nn.ModuleDict({"a": nn.Linear(6, 4), "b": nn.Embedding(5, 3)})


@pytest.fixture
def tensors():
    torch.manual_seed(0)
    return {f"model.{name}": t.detach().bfloat16() for name, t in build().state_dict().items()} | {"predictor": torch.ones(2)}


def rename(key):
    return None if key == "predictor" else key.removeprefix("model.")


def write(folder, tensors, form="safetensors"):
    """One file, or two shards with their index."""
    folder.mkdir(exist_ok=True)
    if form == "safetensors":
        save_file(tensors, folder / "model.safetensors")
    elif form == "bin":
        torch.save(tensors, folder / "pytorch_model.bin")
    else:
        suffix = form.removeprefix("sharded ")
        stem, save = ("model", save_file) if suffix == "safetensors" else ("pytorch_model", torch.save)
        where = {key: f"{stem}-0000{i % 2 + 1}-of-00002.{suffix}" for i, key in enumerate(tensors)}
        for name in set(where.values()):
            save({key: t for key, t in tensors.items() if where[key] == name}, folder / name)
        (folder / f"{stem}.{suffix}.index.json").write_text(json.dumps({"weight_map": where}))
    return folder


def load(folder, dtype=torch.float32, **options):
    module = weights.empty(build)
    ignored = weights.load(module, weights.Weights(folder), rename, device=torch.device("cpu"), dtype=dtype, **options)
    return module, ignored


@pytest.mark.parametrize("form", ["safetensors", "bin", "sharded safetensors", "sharded bin"])
def test_every_form_gives_the_tensors_that_were_written(tmp_path, tensors, form):
    module, ignored = load(write(tmp_path / "c", tensors, form), torch.float64)
    assert ignored == ["predictor"]
    for name, tensor in module.state_dict().items():
        assert tensor.dtype == torch.float64 and torch.equal(tensor, tensors[f"model.{name}"].double()), name


def test_headers_tell_shapes_without_tensors(tmp_path, tensors):
    for form in ("safetensors", "bin"):
        found = weights.Weights(write(tmp_path / form, tensors, form))
        assert found.shapes == {key: tuple(t.shape) for key, t in tensors.items()}
        assert found.dtypes == {key: t.dtype for key, t in tensors.items()}


def test_a_map_to_disk_computes_the_same_without_a_gpu(tmp_path, tensors):
    folder = write(tmp_path / "c", tensors)
    plain, _ = load(folder)
    mapped, _ = load(folder, device_map={"a": "disk", "b": "cpu"})
    x = torch.randn(2, 6)
    assert mapped["a"].weight.is_meta
    assert torch.equal(mapped["a"](x), plain["a"](x))
    assert torch.equal(mapped["b"](torch.tensor([3])), plain["b"](torch.tensor([3])))


def test_a_map_that_names_no_place_is_refused(tmp_path, tensors):
    with pytest.raises(UserError, match="no place for b.weight"):
        load(write(tmp_path / "c", tensors), device_map={"a": "cpu"})
    with pytest.raises(UserError, match="name either the whole or every part"):
        load(tmp_path / "c", device_map={"": "cpu", "a": "disk"})
    with pytest.raises(UserError, match="unknown device map 'all'"):
        load(tmp_path / "c", device_map="all")


def test_a_map_that_misses_a_part_is_refused_before_reading(tmp_path, tensors, monkeypatch):
    monkeypatch.setattr(weights.Weights, "tensors", lambda *_: pytest.fail("it was read"))
    folder = write(tmp_path / "c", tensors, "sharded safetensors")  # of which the second holds a.bias
    with pytest.raises(UserError, match="the device map has no place for a.bias; it names a.weight, b$"):
        load(folder, device_map={"a.weight": "cpu", "b": "cpu"})


def a_videollama2():
    return videollama2.VideoLLaMA2({**published.EXPECTED, **published.EXPECTED_SIZES})


def a_video_salmonn2():
    return video_salmonn2.VideoSALMONN2(video_salmonn2.LLM, {}, video_salmonn2.Settings.of({}))


def a_qwen2_5_omni():
    vision = dict(depth=32, hidden_size=1280, intermediate_size=3420, num_heads=16, out_hidden_size=3584)
    return Qwen2_5OmniThinkerForConditionalGeneration(Qwen2_5OmniThinkerConfig(vision_config=vision))


WHOLE = {
    "Qwen2DecoderLayer",
    "SiglipEncoderLayer",
    "Beats",
    "Vision",
    "Speech",
    "Qwen2_5OmniDecoderLayer",
    "Qwen2_5OmniVisionBlock",
}


def shares(monkeypatch, build) -> dict:
    """Place -> bytes in bfloat16 that `load` puts there by the map "auto"; no tensor has data.

    Nothing that computes as one piece may lie in two places, and what runs the model is told the same as what fills it.
    """
    module, placed, maps = weights.empty(build), {}, []
    sizes = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
    checkpoint = SimpleNamespace(
        files=[Path("model.safetensors")],
        shapes=sizes,
        dtypes=dict.fromkeys(sizes, torch.bfloat16),
        file_of=dict.fromkeys(sizes, Path("model.safetensors")),
        tensors=lambda file, keys, device: ((key, None) for key in keys),
    )
    monkeypatch.setattr(weights, "set_module_tensor_to_device", lambda module, name, place, value: placed.update({name: place}))
    monkeypatch.setattr(weights, "dispatch_model", lambda module, found, **options: maps.append(found))
    options = {"device": torch.device("cuda:0"), "dtype": torch.bfloat16, "device_map": "auto"}
    weights.load(module, checkpoint, lambda key: key, **options)
    placed = dict.fromkeys(sizes, "disk") | placed
    for name, part in module.named_modules():
        if type(part).__name__ in WHOLE:
            assert len({place for key, place in placed.items() if key.startswith(f"{name}.")}) == 1, name
    taken: dict = {}
    for name, place in placed.items():
        taken[place] = taken.get(place, 0) + 2 * math.prod(sizes[name])
        assert any(maps[0].get(name[:end]) == place for end in range(len(name) + 1)), name
    return taken


@pytest.mark.parametrize("build", [a_videollama2, a_video_salmonn2, a_qwen2_5_omni])
def test_auto_leaves_a_reserve_on_a_card_that_is_too_small(monkeypatch, build):
    """By hand: of 16 GB a tenth, 1.6 GB, stays free for the run; 17 GB and more do not fit, so the rest is in main memory."""
    fake_cuda.install(monkeypatch, Card(free=16e9))
    found = shares(monkeypatch, build)
    assert 0.75 * 14.4e9 < found[0] <= 14.4e9
    assert found.keys() == {0, "cpu"} and sum(found.values()) > 16.9e9


@pytest.mark.parametrize("free", [12e9, 23e9, 80e9])
@pytest.mark.parametrize("build", [a_videollama2, a_video_salmonn2, a_qwen2_5_omni])
def test_auto_gives_two_equal_cards_about_equal_shares(monkeypatch, build, free):
    fake_cuda.install(monkeypatch, Card(free=free), Card(free=free))
    found = shares(monkeypatch, build)
    assert found.keys() == {0, 1}
    assert max(found.values()) <= min(1.15 * sum(found.values()) / 2, 0.9 * free)
    assert min(found.values()) >= 0.85 * max(found.values())


def test_auto_fills_unequal_cards_within_their_room(monkeypatch):
    """12 and 5 GB of room, for 17 GB with nothing to spare on either: what is left over is not forced onto them."""
    fake_cuda.install(monkeypatch, Card(free=13.5e9), Card(free=6.5e9))
    found = shares(monkeypatch, a_videollama2)
    assert found[0] <= 12e9 and 4e9 <= found[1] <= 5e9 and found["cpu"] > 0


def test_auto_goes_on_to_disk_with_a_reserve_in_main_memory_too(monkeypatch):
    """By hand: 1.5 GB stay free of 8 and 7 GB, which are less than ten times that."""
    fake_cuda.install(monkeypatch, Card(free=8e9), main_memory=7e9)
    found = shares(monkeypatch, a_videollama2)
    assert 4e9 < found[0] <= 6.5e9 and 3e9 < found["cpu"] <= 5.5e9
    assert sum(found.values()) - found[0] - found["cpu"] == found["disk"] > 5e9


def test_auto_uses_no_place_that_is_full(monkeypatch):
    fake_cuda.install(monkeypatch, Card(free=1e9), Card(free=23e9))
    assert shares(monkeypatch, a_videollama2).keys() == {1}
    fake_cuda.install(monkeypatch, Card(free=1e9), main_memory=1e9)
    assert shares(monkeypatch, a_videollama2).keys() == {"disk"}


def test_an_integrated_cards_memory_is_the_main_memory_and_counts_once(monkeypatch):
    """16 GB in all: what does not fit goes to disk, since main memory has no other 16 GB."""
    fake_cuda.install(monkeypatch, Card(free=16e9), main_memory=16e9)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device=None: SimpleNamespace(is_integrated=True))
    assert shares(monkeypatch, a_videollama2).keys() == {0, "disk"}


def test_what_torch_keeps_of_a_card_is_free(monkeypatch):
    """18 GB that an earlier model left to torch's own pool, and 2 that it gave back: all 17 GB fit."""
    fake_cuda.install(monkeypatch, Card(free=2e9))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device=None: int(19e9))
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device=None: int(1e9))
    assert shares(monkeypatch, a_videollama2).keys() == {0}


@pytest.mark.parametrize("form", ["safetensors", "bin"])
def test_wrong_keys_are_named(tmp_path, tensors, form):
    taken = tensors.pop("model.a.bias")
    with pytest.raises(UserError, match="missing: a.bias$"):
        load(write(tmp_path / "missing", tensors, form))
    with pytest.raises(UserError, match="missing: a.bias; unknown key: model.a.biass$"):
        load(write(tmp_path / "renamed", {**tensors, "model.a.biass": taken}, form))
    with pytest.raises(UserError, match=r"wrong shape: model.a.bias is \(3,\), expected \(4,\)$"):
        load(write(tmp_path / "shape", {**tensors, "model.a.bias": taken[:3].clone()}, form))


def test_keys_given_twice_or_quantised_are_named(tmp_path, tensors):
    twice = {**tensors, "a.bias": tensors["model.a.bias"].clone()}
    with pytest.raises(UserError, match="given twice: a.bias, model.a.bias$"):
        load(write(tmp_path / "twice", twice))
    quantised = {**tensors, "model.a.weight": tensors["model.a.weight"].to(torch.int8)}
    with pytest.raises(UserError, match="quantised or no floating point: model.a.weight$"):
        load(write(tmp_path / "int8", quantised))


def test_a_key_of_two_files_is_named(tmp_path, tensors):
    folder = write(tmp_path / "c", tensors, "sharded safetensors")
    first, second = sorted(folder.glob("*.safetensors"))
    save_file(tensors, second)
    key = next(iter(tensors))
    with pytest.raises(UserError, match=f"{key} lies both in {first.name} and in {second.name} of "):
        weights.Weights(folder)


def test_a_pickle_cannot_stay_on_disk(tmp_path, tensors):
    with pytest.raises(UserError, match=r"pytorch_model.bin: only safetensors files can stay on disk"):
        load(write(tmp_path / "c", tensors, "bin"), device_map={"a": "disk", "b": "cpu"})


def test_a_missing_key_has_the_checkpoints_name(tmp_path, tensors):
    del tensors["model.a.bias"]
    module, found = weights.empty(build), weights.Weights(write(tmp_path / "c", tensors))
    options = {"device": torch.device("cpu"), "dtype": torch.float32, "original": lambda name: f"model.{name}"}
    with pytest.raises(UserError, match="missing: model.a.bias$"):
        weights.load(module, found, rename, **options)


@pytest.mark.parametrize("content", [{"weight_map": []}, {"weight_map": {"a": 3}}, {}])
def test_an_index_that_maps_nothing_is_named(tmp_path, content):
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match="index.json has no weight_map"):
        weights.Weights(tmp_path)


@pytest.mark.parametrize("content", [[torch.ones(2)], {"state_dict": {"a": torch.ones(2)}}, {3: torch.ones(2)}])
def test_a_bin_file_of_something_else_is_named(tmp_path, content):
    torch.save(content, tmp_path / "pytorch_model.bin")
    with pytest.raises(UserError, match="does not hold a dict of tensors by name"):
        weights.Weights(tmp_path)


def test_what_stays_on_disk_comes_back_in_the_wanted_dtype(tmp_path, tensors):
    folder = write(tmp_path / "c", {key: tensor.float() for key, tensor in tensors.items()})
    mapped, _ = load(folder, torch.bfloat16, device_map={"": "disk"})
    plain, _ = load(folder, torch.bfloat16)
    x = torch.randn(2, 6, dtype=torch.bfloat16)
    assert mapped["a"].weight.is_meta and mapped["a"].weight.dtype == torch.bfloat16
    assert torch.equal(mapped["a"](x), plain["a"](x))


@pytest.mark.parametrize("form", ["safetensors", "bin"])
def test_broken_files_are_named(tmp_path, tensors, form):
    folder = write(tmp_path / "cut", tensors, form)
    file = next(folder.iterdir())
    file.write_bytes(file.read_bytes()[:-40])
    with pytest.raises(UserError, match=f"{file.name} is cut or damaged"):
        load(folder)
    folder = write(tmp_path / "shards", tensors, f"sharded {form}")
    shard = sorted(folder.glob("*-00002-of*"))[0]
    shard.unlink()
    with pytest.raises(UserError, match=f"lacks {shard.name}"):
        load(folder)
    with pytest.raises(UserError, match="holds no weights; expected model.safetensors"):
        load(tmp_path)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.50 GiB."),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8000000 bytes."),
    ],
)
def test_a_file_is_not_called_damaged_when_memory_runs_out(tmp_path, tensors, monkeypatch, error):
    def get_tensor(*args):
        raise error

    opened = SimpleNamespace(get_tensor=get_tensor)
    folder = weights.Weights(write(tmp_path / "c", tensors))
    monkeypatch.setattr(weights, "safe_open", lambda *args, **options: contextlib.nullcontext(opened))
    with pytest.raises(Exception) as caught:  # noqa: B017  (which one is the question)
        list(folder.tensors(folder.files[0], ["model.a.bias"], torch.device("cpu")))
    assert caught.value is error


def test_code_in_a_bin_file_is_not_run(tmp_path):
    class Payload:
        def __reduce__(self):
            return (open, (str(tmp_path / "was-here"), "w"))

    (tmp_path / "c").mkdir()
    torch.save({"model.a.weight": Payload()}, tmp_path / "c" / "pytorch_model.bin")
    with pytest.raises(UserError, match="pytorch_model.bin is cut or damaged"):
        load(tmp_path / "c")
    assert not (tmp_path / "was-here").exists()


def test_weights_that_do_not_fit_are_refused_before_reading(tmp_path, tensors, monkeypatch):
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=80))
    with pytest.raises(UserError, match=r"take 0.0 GB in float32, and 0.0 GB are free on cpu"):
        load(write(tmp_path / "c", tensors))  # 43 numbers of 4 bytes
    load(tmp_path / "c", dtype=torch.float8_e4m3fn)  # 43 bytes


def test_a_folder_has_no_revisions(tmp_path):
    with pytest.raises(UserError, match="is a folder, which has no revisions"):
        weights.locate(str(tmp_path), "some/model", "main")


def test_a_hub_id_that_cannot_be_fetched_says_how(tmp_path, monkeypatch):
    """No network: whatever the hub library raises becomes one line. A half-fetched snapshot does not count as fetched."""
    asked = []

    def snapshot_download(hub_id, **options):
        asked.append(options)
        if options.get("local_files_only"):
            return str(tmp_path)  # a snapshot without weights
        raise RuntimeError("no route to host")

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    with pytest.raises(
        UserError, match=r"could not be fetched from the hub \(RuntimeError\).*`hf download some/model --revision v2`"
    ):
        weights.locate("some/model", "other/model", "v2")
    assert [bool(options.get("local_files_only")) for options in asked] == [True, False]
    with pytest.raises(UserError, match="are not on this machine; fetch them with `hf download other/model`"):
        weights.locate(None, "other/model")


@pytest.mark.parametrize(
    ("name", "said"),
    [("mps", "unknown device 'mps'"), ("cpu:3", "unknown device 'cpu:3'"), ("meta", "unknown device"), ("tpu", "unknown device")],
)
def test_devices_that_are_none_are_named(name, said):
    with pytest.raises(UserError, match=said):
        resolve(name)


@pytest.mark.parametrize("name", ["videollama2.1-av", "video-salmonn-2", "qwen2.5-omni"])
def test_a_model_without_weights_says_what_to_do(name, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(UserError, match=r"fetch them with `hf download [\w-]+/[\w.-]+`, or give --checkpoint a folder"):
        load_model(name)
    with pytest.raises(UserError, match="is not a folder; give --checkpoint"):
        load_model(name, "./nowhere")


def test_two_gigabytes_take_no_second_copy(tmp_path):
    """Arithmetic: peak resident memory of a process that loads 2 GB in 4 shards <= size x 1.15 + 1 GB."""
    n_layers, width = 8, 11_180
    where = {}
    for shard in range(4):
        name = f"model-{shard + 1:05}-of-00004.safetensors"
        layers = {f"{2 * shard + i}.weight": torch.full((width, width), shard, dtype=torch.bfloat16) for i in range(2)}
        save_file(layers, tmp_path / name)
        where |= dict.fromkeys(layers, name)
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": where}))
    script = f"""
import resource, sys, torch
from torch import nn
from fastav.models import weights
module = weights.empty(lambda: nn.Sequential(*(nn.Linear({width}, {width}, bias=False) for _ in range({n_layers}))))
weights.load(module, weights.Weights(sys.argv[1]), lambda key: key, device=torch.device("cpu"), dtype=torch.bfloat16)
print(sum(int(p[-1, -1]) for p in module.parameters()), sum(p.view(torch.int64).amax().item() >= 0 for p in module.parameters()))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
"""
    ran = subprocess.run([sys.executable, "-c", script, tmp_path], capture_output=True, text=True, check=True)
    total, peak = ran.stdout.splitlines()
    size = n_layers * width * width * 2
    assert total == "12 8" and size > 1.99e9  # 2 x (0 + 1 + 2 + 3)
    assert size < int(peak) <= size * 1.15 + 1e9
