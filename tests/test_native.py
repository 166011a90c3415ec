"""The public two lines on native transformers models, from a real processor's output; oracle: the masked run and stock
generate.
"""

import json

import numpy as np
import pytest
import torch
from conftest import holding
from masked import masked_run
from PIL import Image
from transformers import (
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLProcessor,
    Qwen2Tokenizer,
    Qwen2VLImageProcessorPil,
)
from transformers.models.qwen2_5_vl import modeling_qwen2_5_vl

import fastav

SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"]


@pytest.fixture
def processor(tmp_path, monkeypatch):
    """A real Qwen2.5-VL processor with a byte-level vocabulary of 256 + 7 and no merges; without torchvision it has no
    video part.
    """
    monkeypatch.setattr(Qwen2_5_VLProcessor, "check_argument_for_proper_class", lambda self, name, argument: None)
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    vocab = {c: i for i, c in enumerate(sorted(bytes_to_unicode().values()))} | {t: 256 + i for i, t in enumerate(SPECIAL)}
    (tmp_path / "vocab.json").write_text(json.dumps(vocab))
    (tmp_path / "merges.txt").write_text("#version: 0.2\n")
    tokenizer = Qwen2Tokenizer(str(tmp_path / "vocab.json"), str(tmp_path / "merges.txt"), additional_special_tokens=SPECIAL)
    images = Qwen2VLImageProcessorPil(min_pixels=56 * 56, max_pixels=112 * 112)
    return Qwen2_5_VLProcessor(images, tokenizer, None)


@pytest.fixture
def model(monkeypatch):
    torch.manual_seed(0)
    config = Qwen2_5_VLConfig(
        text_config=dict(
            vocab_size=300,
            hidden_size=48,
            intermediate_size=64,
            num_hidden_layers=6,
            num_attention_heads=4,
            num_key_value_heads=2,
            initializer_range=0.2,
            rope_parameters={"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 2, 2]},
            bos_token_id=None,
            eos_token_id=None,
            pad_token_id=None,
        ),
        vision_config=dict(
            depth=2, hidden_size=32, intermediate_size=32, num_heads=2, out_hidden_size=48, fullatt_block_indexes=[1]
        ),
        image_token_id=261,
        video_token_id=262,
        vision_start_token_id=259,
        vision_end_token_id=260,
    )
    norm = modeling_qwen2_5_vl.Qwen2_5_VLRMSNorm
    monkeypatch.setattr(
        norm, "forward", lambda self, x: self.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.variance_epsilon))
    )
    return Qwen2_5_VLForConditionalGeneration(config).double().eval()


@pytest.fixture
def inputs(processor):
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (84, 112, 3), np.uint8))
    text = "<|im_start|>user\n<|vision_start|><|image_pad|><|vision_end|>What is this?<|im_end|>\n"
    inputs = processor(text=[text], images=[image], return_tensors="pt")
    inputs["pixel_values"] = inputs["pixel_values"].double()
    return inputs


@pytest.mark.parametrize("attn", ["sdpa", "eager"])
def test_two_lines_on_qwen2_5_vl_equal_the_masked_run(model, inputs, attn):
    """M-RoPE, image features and a processor's own ids: pruned = masked to 1e-10, kept sets equal."""
    layout = fastav.layout_of(inputs, model.config)
    n = len(layout)
    assert layout.count() == {"text": n - 12, "video": 12, "audio": 0}  # 84 x 112 pixels = 3 x 4 merged patches of 28

    # What stock generate feeds its decoder, caught on the way in: embeddings with image features, and M-RoPE cos/sin per step.
    seen = []
    text = model.model.language_model
    handle = text.layers[0].register_forward_pre_hook(
        lambda m, args, kw: seen.append((args[0], kw["position_embeddings"])), with_kwargs=True
    )
    model.set_attn_implementation("eager")
    model.generate(**inputs, max_new_tokens=6, do_sample=False)
    handle.remove()
    cos_sin = [torch.cat([step[1][i] for step in seen], -2) for i in (0, 1)]
    method = fastav.FastAV(rule="first(12)", p=40)
    kept, logits, new = masked_run(
        text, model.lm_head, seen[0][0], method.cuts(layout, 6), 6, lambda m: tuple(t[..., :m, :] for t in cos_sin)
    )

    fastav.install(model)
    model.set_attn_implementation(attn)
    cache = fastav.PrunedCache(model.config, layout, method)
    got = []
    handle = model.lm_head.register_forward_hook(lambda m, args, out: got.append(out[0, -1]))
    out = model.generate(**inputs, **holding(model, cache), max_new_tokens=6, do_sample=False)
    handle.remove()
    assert cache.kept() == kept and len(kept[-1]) < n
    assert out[0, -6:].tolist() == new
    assert torch.allclose(torch.stack(got), logits, rtol=0, atol=1e-10)


def test_keep_all_on_qwen2_5_vl_is_stock_generate(model, inputs):
    want = model.generate(**inputs, max_new_tokens=8, do_sample=False)
    fastav.install(model)
    cache = fastav.PrunedCache(model.config, fastav.layout_of(inputs, model.config), fastav.FastAV(rule="all", p=0))
    assert torch.equal(model.generate(**inputs, **holding(model, cache), max_new_tokens=8, do_sample=False), want)
