"""What loading will take, told before it. Oracles: the loaded model's own tensors and cache; figures of the design by hand."""

from pathlib import Path

import pytest
import torch
from conftest import prompt, random_qwen2
from transformers import DynamicCache

from fastav.models import load_model
from fastav.models.estimate import estimate, kv_numbers

GOLDEN = Path(__file__).resolve().parent / "golden"


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_an_estimate_is_what_the_loaded_model_takes(dtype):
    """Not of VideoLLaMA2: the small one's vision tower is cut after another layer than the published one's."""
    name, folder = "video-salmonn-2", GOLDEN / "video_salmonn2"
    said = estimate(name, folder, device="cpu", dtype=dtype, duration_sec=10.0)
    adapter = load_model(name, str(folder), device="cpu", dtype=dtype)
    tensors = adapter.module.state_dict().values()
    assert said.n_tensors == len(tensors)
    assert said.weight_bytes == sum(t.numel() for t in tensors) * getattr(torch, dtype).itemsize
    config, n_tokens = adapter.model.config, sum(said.tokens.values())
    cache = DynamicCache(config=config)
    with torch.inference_mode():
        adapter.model(inputs_embeds=torch.zeros(1, 3, config.hidden_size, dtype=adapter.model.dtype), past_key_values=cache)
    cached = sum(t.numel() * t.element_size() for layer in cache.layers for t in (layer.keys, layer.values))
    assert said.kv_bytes == cached / 3 * n_tokens


def test_a_token_of_a_7b_decoder_is_28672_numbers_of_cache():
    """By hand: K and V of 28 layers of 4 heads of 3584 / 28 = 128; 2,206 tokens in 16 bits are 126.5 MB."""
    config = {"hidden_size": 3584, "num_attention_heads": 28, "num_hidden_layers": 28, "num_key_value_heads": 4}
    assert kv_numbers(config) == 28_672 and round(2206 * 28_672 * 2 / 1e6, 1) == 126.5


def test_a_head_may_be_wider_than_the_decoder_shares_out():
    """Oracle: the cache of a stock decoder of 4 heads of 24 in a width of 48, whose config stands inside another."""
    model = random_qwen2(n_layers=2, head_dim=24)
    cache = model(input_ids=prompt(model, 5), use_cache=True).past_key_values
    cached = sum(t.numel() for layer in cache.layers for t in (layer.keys, layer.values))
    config = {"thinker_config": {"text_config": model.config.to_dict() | {"head_dim": 24}}}
    assert kv_numbers(config) == cached / 5 == 2 * 2 * 2 * 24
