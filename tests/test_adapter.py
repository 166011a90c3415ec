"""What a machine's GPUs can do, before anything is loaded, and a prompt's subset. Oracles: NVIDIA's compute capabilities, on
faked cards; indexing by hand.
"""

import logging

import fake_cuda
import numpy as np
import pytest
import torch
from fake_cuda import Card

from fastav.errors import UserError
from fastav.layout import TokenLayout
from fastav.models import load_model
from fastav.models.adapter import Inputs
from fastav.models.device import resolve

T4, OLDER, A100 = Card("Tesla T4", (7, 5), 16e9), Card("Quadro P2000", (6, 1), 5e9), Card()


@pytest.fixture
def flash_attn(monkeypatch):
    """The package is installed."""
    monkeypatch.setattr("transformers.utils.is_flash_attn_2_available", lambda: True)


def test_cuda_is_the_current_gpu_with_its_index(monkeypatch):
    """torch.cuda.set_device, for one, refuses a device without an index."""
    fake_cuda.install(monkeypatch, A100, A100, current=1)
    for given in ("cuda", torch.device("cuda"), None):
        device, _, _ = resolve(given)
        assert device == torch.device("cuda", 1)
        torch.cuda.set_device(device)
    assert resolve("cuda:0")[0] == torch.device("cuda", 0)
    with pytest.raises(UserError, match="device cuda:2 was asked for, but there are 2 GPUs"):
        resolve("cuda:2")


def test_without_a_gpu_everything_is_on_the_cpu():
    assert resolve() == (torch.device("cpu"), torch.float32, "sdpa")


@pytest.mark.parametrize(("card", "dtype"), [(A100, torch.bfloat16), (T4, torch.float16)])
def test_the_default_dtype_is_one_that_the_gpu_multiplies_in(monkeypatch, card, dtype):
    fake_cuda.install(monkeypatch, card)
    assert resolve("cuda:0") == (torch.device("cuda:0"), dtype, "sdpa")


def test_a_default_that_is_not_bfloat16_is_said_once(monkeypatch, caplog):
    fake_cuda.install(monkeypatch, Card("Tesla V100", (7, 0)), A100, built_for=["sm_70", "sm_80"])
    with caplog.at_level(logging.WARNING):
        for device in ("cuda:0", "cuda:0", "cuda:1"):
            resolve(device)
    said = "cuda:0 (Tesla V100, 7.0) does not multiply in bfloat16: the model computes in float16"
    assert [record.getMessage() for record in caplog.records] == [said]


def test_bfloat16_on_a_gpu_that_would_imitate_it_is_refused(monkeypatch):
    fake_cuda.install(monkeypatch, A100, T4)
    assert resolve("cuda:0", "bfloat16")[1] == torch.bfloat16
    with pytest.raises(UserError, match=r"and cuda:1 \(Tesla T4, 7.5\) is older; give float16 or float32"):
        resolve("cuda:1", "bfloat16")
    assert resolve("cuda:1", "float16")[1] == torch.float16 and resolve("cuda:1", "float32")[1] == torch.float32


@pytest.mark.parametrize("dtype", ["float16", None])
def test_flash_attention_on_a_gpu_that_cannot_is_refused(monkeypatch, flash_attn, dtype):
    fake_cuda.install(monkeypatch, A100, T4)
    assert resolve("cuda:0", dtype, "flash_attention_2")[2] == "flash_attention_2"
    with pytest.raises(UserError, match=r"flash_attention_2 needs .* and cuda:1 \(Tesla T4, 7.5\) is older; give sdpa"):
        resolve("cuda:1", dtype, "flash_attention_2")


@pytest.mark.parametrize("name", ["videollama2.1-av", "video-salmonn-2", "qwen2.5-omni"])
@pytest.mark.parametrize("device_map", ["auto", {"a": 0, "b": "cuda:1", "c": "cpu", "d": "disk"}])
def test_a_map_asks_every_gpu_that_it_uses(monkeypatch, flash_attn, name, device_map):
    """Before a checkpoint is looked for. Otherwise layers on the older card fail, or crawl, in the middle of an answer."""
    fake_cuda.install(monkeypatch, A100, T4)
    for dtype, attn in (("bfloat16", "sdpa"), ("float16", "flash_attention_2")):
        with pytest.raises(UserError, match=r"cuda:1 \(Tesla T4, 7.5\) is older"):
            load_model(name, "./nowhere", device="cuda:0", dtype=dtype, attn=attn, device_map=device_map)
        with pytest.raises(UserError, match="nowhere"):
            load_model(name, "./nowhere", device="cuda:0", dtype=dtype, attn=attn, device_map={"": 0})


@pytest.mark.parametrize("device_map", ["auto", {"a": 0, "b": 1}])
def test_the_oldest_gpu_of_a_map_decides_the_default(monkeypatch, caplog, device_map):
    card = Card(f"Quadro RTX 4000 {device_map}", (7, 5))  # what is said of a card is said once
    fake_cuda.install(monkeypatch, A100, card)
    for places, said in (({"": 0}, 0), (device_map, 1)):
        with pytest.raises(UserError, match="nowhere"):
            load_model("videollama2.1-av", "./nowhere", device_map=places)
        assert len([record for record in caplog.records if card.name in record.getMessage()]) == said


@pytest.mark.parametrize(
    ("place", "said"), [(2, "device cuda:2 was asked for"), ("cuda:5", "cuda:5 was asked for"), ("ram", "unknown device 'ram'")]
)
def test_a_map_to_a_place_that_is_not_there_is_refused(monkeypatch, place, said):
    fake_cuda.install(monkeypatch, A100, A100)
    with pytest.raises(UserError, match=said):
        load_model("videollama2.1-av", "./nowhere", device_map={"a": 0, "b": place})


@pytest.mark.parametrize(
    ("built_for", "card", "runs"),
    [
        (["sm_75", "sm_80", "compute_80"], Card("Tesla T4", (7, 5)), True),
        (["sm_75", "sm_80", "compute_80"], OLDER, False),
        (["sm_80", "sm_90"], Card("RTX 4090", (8, 9)), True),  # machine code of the same major version
        (["sm_80", "sm_90"], Card("RTX 5090", (12, 0)), False),
        (["sm_80", "compute_90"], Card("RTX 5090", (12, 0)), True),  # PTX is compiled for what is newer
        (["sm_86"], A100, False),
        (["sm_90a", "sm_120"], Card("RTX PRO 6000", (12, 0)), True),
        (["gfx90a"], Card("MI210", (9, 0)), True),  # ROCm: not judged
        ([], A100, True),
    ],
)
def test_a_gpu_that_this_torch_has_no_code_for_is_refused(monkeypatch, built_for, card, runs):
    fake_cuda.install(monkeypatch, card, built_for=built_for)
    if runs:
        assert resolve("cuda")[0] == torch.device("cuda:0")
        return
    with pytest.raises(UserError, match=rf"built for compute capability .* does not run on cuda:0 \({card.name}, "):
        resolve("cuda")
    assert resolve("cpu")[0] == torch.device("cpu")


def test_a_subset_of_a_prompt_is_renumbered_unless_it_stands_in_time_and_space():
    layout = TokenLayout.of(("text", 1), ("audio", 3, 2), ("text", 1))
    inputs = Inputs(torch.arange(10.0).view(1, 5, 2), layout, {"eos_token_id": 1})
    shorter, entered = inputs.subset(~layout.audio_padding)
    assert entered.tolist() == [0, 1, 2, 4] and shorter.layout.count() == {"text": 2, "video": 0, "audio": 2}
    assert torch.equal(shorter.embeds, inputs.embeds[:, [0, 1, 2, 4]]) and shorter.generate_kwargs == inputs.generate_kwargs
    placed = Inputs(inputs.embeds, layout, {"position_ids": torch.zeros(3, 1, 5)})
    assert placed.subset(np.ones(5, bool))[0] is placed
    with pytest.raises(UserError, match="its prompt cannot be renumbered by trim"):
        placed.subset(~layout.audio_padding)
