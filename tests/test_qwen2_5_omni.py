"""Qwen2.5-Omni on a tiny random checkpoint in the published layout.

Oracles: transformers' own processor (with its video part, which needs torchvision, replaced by its picture part), its own
from_pretrained and generate; the masked run of tests/masked.py; arithmetic by hand.
"""

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import holding
from masked import masked_run
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import (
    BatchFeature,
    Qwen2_5OmniProcessor,
    Qwen2_5OmniThinkerConfig,
    Qwen2_5OmniThinkerForConditionalGeneration,
    Qwen2Tokenizer,
    Qwen2VLImageProcessorPil,
    WhisperFeatureExtractor,
)
from transformers.convert_slow_tokenizer import bytes_to_unicode
from transformers.models.qwen2_5_omni import modeling_qwen2_5_omni

import fastav
from fastav.clip.clip import clip_from_arrays
from fastav.clip.read import read_clip
from fastav.clip.write import write_clip
from fastav.errors import UserError
from fastav.layout import AUDIO, VIDEO
from fastav.methods import parse
from fastav.models.qwen2_5_omni import inputs as qwen2_5_omni
from fastav.models.qwen2_5_omni.adapter import Qwen25OmniAdapter
from fastav.models.qwen2_5_omni.importance import seen_importance, square_order
from fastav.models.qwen2_5_omni.inputs import audio_tokens, frame_size, patches, sample_frames, spectrogram
from fastav.models.qwen2_5_omni.published import facts, original, rename, token_estimate
from fastav.models.weights import Weights
from fastav.session import Session

NAMES = "endoftext im_start im_end AUDIO audio_bos audio_eos vision_bos vision_eos IMAGE VIDEO"
IDS = {f"<|{name}|>": 256 + i for i, name in enumerate(NAMES.split())}
ROLES = ("image", "audio", "video", "vision_bos", "vision_eos", "audio_bos", "audio_eos")
QUESTION = "Who sings?"
PUBLISHED_PREPROCESSOR = {
    "chunk_length": 300,
    "dither": 0.0,
    "feature_extractor_type": "WhisperFeatureExtractor",
    "feature_size": 128,
    "hop_length": 160,
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_processor_type": "Qwen2VLImageProcessor",
    "image_std": [0.26862954, 0.26130258, 0.27577711],
    "max_pixels": 12845056,
    "merge_size": 2,
    "min_pixels": 3136,
    "n_fft": 400,
    "n_samples": 4800000,
    "nb_max_frames": 30000,
    "padding_side": "right",
    "padding_value": 0.0,
    "patch_size": 14,
    "processor_class": "Qwen2_5OmniProcessor",
    "return_attention_mask": True,
    "sampling_rate": 16000,
    "temporal_patch_size": 2,
}
N_LAYERS = 6


def config():
    return Qwen2_5OmniThinkerConfig(
        text_config=dict(
            vocab_size=300,
            hidden_size=48,
            intermediate_size=64,
            num_hidden_layers=N_LAYERS,
            num_attention_heads=4,
            num_key_value_heads=2,
            initializer_range=0.2,
            rope_parameters={"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 2, 2]},
        ),
        vision_config=dict(
            depth=2, hidden_size=32, intermediate_size=32, num_heads=2, out_hidden_size=48, fullatt_block_indexes=[1]
        ),
        audio_config=dict(
            encoder_layers=1, encoder_attention_heads=2, encoder_ffn_dim=32, d_model=32, output_dim=48, initializer_range=0.2
        ),
        audio_token_index=IDS["<|AUDIO|>"],
        image_token_index=IDS["<|IMAGE|>"],
        video_token_index=IDS["<|VIDEO|>"],
        audio_start_token_id=IDS["<|audio_bos|>"],
        audio_end_token_id=IDS["<|audio_eos|>"],
        vision_start_token_id=IDS["<|vision_bos|>"],
        vision_end_token_id=IDS["<|vision_eos|>"],
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A checkpoint as published: thinker.* beside the speaking parts, thinker_config, both preprocessors in one file."""
    path = tmp_path_factory.mktemp("omni")
    torch.manual_seed(0)
    model = Qwen2_5OmniThinkerForConditionalGeneration(config())
    for name, p in model.named_parameters():
        if "lm_head" in name or "merger" in name or "audio_tower" in name:
            torch.nn.init.normal_(p, std=0.2)
    model.save_pretrained(path / "plain")
    tensors = {f"thinker.{key}": t for key, t in load_file(path / "plain" / "model.safetensors").items()}
    spoken = {"talker.model.norm.weight": torch.ones(3), "token2wav.x.bias": torch.ones(2)}
    save_file(tensors | spoken, path / "model.safetensors")
    (path / "config.json").write_text(
        json.dumps({"model_type": "qwen2_5_omni", "thinker_config": json.loads((path / "plain" / "config.json").read_text())})
    )
    vocab = {c: i for i, c in enumerate(sorted(bytes_to_unicode().values()))} | IDS
    (path / "vocab.json").write_text(json.dumps(vocab))
    (path / "merges.txt").write_text("#version: 0.2\n")
    special = {f"{role}_token": f"<|{role.upper() if role in ('image', 'audio', 'video') else role}|>" for role in ROLES}
    tokenizer = Qwen2Tokenizer(
        str(path / "vocab.json"),
        str(path / "merges.txt"),
        additional_special_tokens=list(IDS),
        extra_special_tokens=special,
    )
    tokenizer.save_pretrained(path)
    (path / "preprocessor_config.json").write_text(json.dumps(PUBLISHED_PREPROCESSOR))
    return path


@pytest.fixture(autouse=True)
def small_pictures(monkeypatch):
    """Frames of 56 x 84 pixels, 6 tokens each, instead of the published 128 tokens at least."""
    monkeypatch.setattr(qwen2_5_omni, "MIN_PIXELS", 28 * 28)
    norm = modeling_qwen2_5_omni.Qwen2_5OmniRMSNorm
    wide = lambda self, x: self.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.variance_epsilon))  # noqa: E731
    monkeypatch.setattr(norm, "forward", wide)  # stock computes it in float32 even in a float64 model


@pytest.fixture(scope="module")
def loaded(folder):
    adapter = Qwen25OmniAdapter(str(folder), device="cpu")
    adapter.model.double()
    return adapter


@pytest.fixture
def adapter(loaded):
    loaded.model.set_attn_implementation("eager")
    return loaded


@pytest.fixture
def stock(folder):
    """transformers' own way to load the same checkpoint, without our hooks."""
    model = Qwen2_5OmniThinkerForConditionalGeneration.from_pretrained(folder, config=config(), attn_implementation="eager")
    return model.double().eval()


def test_the_adapter_knows_the_folder_of_its_weights(loaded, folder):
    assert getattr(loaded, "folder", None) == folder


def clip(video=True, audio=True, seconds=5.0):
    """5 s: 10 frames are 5 steps of 6 tokens, 125 audio tokens; chunks of 2 steps and 50 tokens."""
    rng = np.random.default_rng(1)
    frames = rng.integers(0, 255, (int(2 * seconds), 56, 84, 3), np.uint8)
    sound = rng.standard_normal(int(16_000 * seconds)).astype(np.float32) * 0.1
    return clip_from_arrays(frames if video else None, 2.0, sound if audio else None)


class Videos:
    """The stock processor's video part from its picture part: each of a pair of frames fills its own half of the patches."""

    temporal_patch_size = merge_size = 2

    def __init__(self, pictures):
        self.pictures = pictures

    def __call__(self, videos, **kwargs):
        frames = [Image.fromarray(frame) for frame in videos[0]]
        found = self.pictures(images=frames, return_tensors="pt", size={"shortest_edge": 784, "longest_edge": 768 * 784})
        _, gh, gw = found["image_grid_thw"][0].tolist()
        halves = found["pixel_values"].view(len(frames), gh * gw, 3, 2, -1)
        pairs = [torch.stack([halves[i, :, :, 0], halves[i + 1, :, :, 1]], 2) for i in range(0, len(frames), 2)]
        pixels = torch.cat(pairs).flatten(1)
        return BatchFeature({"pixel_values_videos": pixels, "video_grid_thw": torch.tensor([[len(frames) // 2, gh, gw]])})


def stock_inputs(adapter, clip, monkeypatch):
    """The stock processor on the chat template's text."""
    monkeypatch.setattr(Qwen2_5OmniProcessor, "check_argument_for_proper_class", lambda self, name, argument: None)
    pictures = Qwen2VLImageProcessorPil()
    sounds = WhisperFeatureExtractor(feature_size=128, chunk_length=300, return_attention_mask=True)
    processor = Qwen2_5OmniProcessor(pictures, Videos(pictures), sounds, adapter.tokenizer)
    media = "<|vision_bos|><|VIDEO|><|vision_eos|>" if clip.has_video else "<|audio_bos|><|AUDIO|><|audio_eos|>"
    text = (
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
        f"<|im_start|>user\n{media}{QUESTION}<|im_end|>\n<|im_start|>assistant\n"
    )
    options = {"use_audio_in_video": True, "audio_from_video_indices": [0]} if clip.has_video and clip.has_audio else {}
    return processor(
        text=[text],
        videos=[clip.frames] if clip.has_video else None,
        audio=[clip.audio] if clip.has_audio else None,
        return_tensors="pt",
        **options,
    )


def watch(model):
    """Lists that fill with what the decoder is given, [embeddings, (cos, sin)] per forward, and with the last logits."""
    seen, logits = [], []
    first = model.model.language_model.layers[0].register_forward_pre_hook(
        lambda m, args, kw: seen.append((args[0], kw["position_embeddings"])), with_kwargs=True
    )
    last = model.lm_head.register_forward_hook(lambda m, args, out: logits.append(out[0, -1]))
    return seen, logits, (first, last)


def run(model, n_new=6, **inputs):
    seen, logits, handles = watch(model)
    with torch.inference_mode():
        out = model.generate(**inputs, max_new_tokens=n_new, min_new_tokens=n_new, do_sample=False)
    [handle.remove() for handle in handles]
    return seen, torch.stack(logits), out[0, -n_new:].tolist()


@torch.inference_mode()
def prepared(adapter, clip):
    return adapter.prepare(adapter.encode(clip), clip, QUESTION)


def own_run(adapter, inputs, cache=None, n_new=6):
    mask = torch.ones(inputs.embeds.shape[:2], dtype=torch.long)
    kwargs = {"inputs_embeds": inputs.embeds, "attention_mask": mask, **holding(adapter.model, cache), **inputs.generate_kwargs}
    return run(adapter.model, n_new, **kwargs)


STREAMS = [(True, True), (True, False), (False, True)]


@pytest.mark.parametrize(("video", "audio"), STREAMS)
def test_the_prompt_and_what_encoders_read_equal_the_stock_processor(adapter, monkeypatch, video, audio):
    want = stock_inputs(adapter, clip(video, audio), monkeypatch)
    with torch.inference_mode():
        features = adapter.encode(clip(video, audio))
    assert adapter.input_ids(features, QUESTION) == want["input_ids"][0].tolist()
    if video:
        pixels, grid = patches(clip().frames, adapter.pictures)
        assert torch.equal(grid, want["video_grid_thw"])
        assert torch.allclose(pixels, want["pixel_values_videos"], rtol=0, atol=1e-6)
    if audio:
        mel, mask = spectrogram(clip().audio, adapter.sounds)
        n = int(want["feature_attention_mask"].sum())
        assert int(mask.sum()) == n
        assert torch.allclose(mel[..., :n], want["input_features"][..., :n], rtol=0, atol=1e-6)


@pytest.mark.parametrize(("video", "audio"), STREAMS)
def test_decoder_gets_what_stock_generate_gives_it_and_answers_the_same(adapter, stock, monkeypatch, video, audio):
    """Embeddings and M-RoPE at prefill and at every step; then vanilla and keep-all = stock, token for token."""
    given = stock_inputs(adapter, clip(video, audio), monkeypatch)
    for name in {"pixel_values_videos", "input_features"} & set(given):
        given[name] = given[name].double()
    if "pixel_values_videos" in given:
        given["pixel_values_videos"] = patches(clip().frames, adapter.pictures)[0].double()  # equal to 1e-6, see the test above
    want, want_logits, want_ids = run(stock, use_audio_in_video=video and audio, eos_token_id=IDS["<|im_end|>"], **given)

    inputs = prepared(adapter, clip(video, audio))
    for cache in (None, fastav.PrunedCache(adapter.model.config, inputs.layout, fastav.FastAV(rule="all", p=0))):
        fastav.install(adapter.model)
        seen, logits, ids = own_run(adapter, inputs, cache)
        assert ids == want_ids
        assert torch.allclose(logits, want_logits, rtol=0, atol=1e-10)
        for (embeds, tables), (want_embeds, want_tables) in zip(seen, want, strict=True):
            assert torch.allclose(embeds, want_embeds, rtol=0, atol=1e-10)
            for table, want_table in zip(tables, want_tables, strict=True):
                assert torch.equal(table, want_table)


def test_logits_of_the_last_position_alone_are_computed(adapter):
    """The stock model would compute those of all N; the last row must be theirs."""
    inputs = prepared(adapter, clip())
    seen = []
    handle = adapter.model.model.language_model.norm.register_forward_hook(lambda m, args, out: seen.append(out))
    with torch.inference_mode():
        logits = adapter.model(inputs_embeds=inputs.embeds, position_ids=inputs.generate_kwargs["position_ids"]).logits
        want = torch.nn.functional.linear(seen[0], adapter.model.lm_head.weight)
    handle.remove()
    assert logits.shape == (1, 1, 300) and want.shape[1] == len(inputs.layout)
    assert torch.allclose(logits[:, -1], want[:, -1], rtol=0, atol=1e-12)


@pytest.mark.parametrize("attn", ["sdpa", "eager"])
@pytest.mark.parametrize("text", ["fastav:rule=first(80),p=30", "seats", "omnizip"])
def test_pruned_run_equals_the_masked_run(adapter, text, attn):
    inputs, method = prepared(adapter, clip()), parse(text)
    seen, _, _ = own_run(adapter, inputs)
    cos_sin = [torch.cat([step[1][i] for step in seen], -2) for i in (0, 1)]
    kept, logits, new = masked_run(
        adapter.model.model.language_model,
        adapter.model.lm_head,
        inputs.embeds,
        method.cuts(inputs.layout, N_LAYERS),
        6,
        lambda n: tuple(t[..., :n, :] for t in cos_sin),
        inputs.layout,
    )
    fastav.install(adapter.model)
    adapter.model.set_attn_implementation(attn)
    cache = fastav.PrunedCache(adapter.model.config, inputs.layout, method)
    _, got_logits, got = own_run(adapter, inputs, cache)
    assert cache.kept() == kept and len(kept[-1]) < len(inputs.layout)
    assert got == new
    assert torch.allclose(got_logits, logits, rtol=0, atol=1e-10)


def test_layout_by_hand(adapter):
    """Chunks of 12 video and 50 audio tokens; the last has one step and 25. Audio belongs to the step that it follows."""
    layout = prepared(adapter, clip()).layout
    runs = [(kind, frame, n) for kind, frame, n in layout.runs() if kind != "text"]
    steps = [("video", 0, 6), ("video", 1, 6), ("audio", 1, 50), ("video", 2, 6), ("video", 3, 6), ("audio", 3, 50)]
    assert runs == [*steps, ("video", 4, 6), ("audio", 4, 25)]
    assert layout.interleaved and layout.rule_keep is None and not layout.audio_padding.any()
    assert layout.count()["text"] == len(layout) - 155
    for video, audio in STREAMS[1:]:
        layout = prepared(adapter, clip(video, audio)).layout
        assert layout.single_stream and layout.count()["video"] == 30 * video and layout.count()["audio"] == 125 * audio


def test_positions_by_hand(adapter):
    """25 positions a second: step 1 and audio token 25 lie at the same time; text counts on from the latest of all."""
    inputs = prepared(adapter, clip())
    time, height, width = inputs.generate_kwargs["position_ids"][:, 0]
    video, audio = (np.flatnonzero(inputs.layout.kind == k) for k in (1, 2))
    origin = int(time[video[0]])
    assert origin == video[0] - 1 == audio[0] - 13  # the two opening brackets share a position
    assert (time[video] - origin).tolist() == [25 * step for step in range(5) for _ in range(6)]
    assert (height[video] - origin).tolist() == [0, 0, 0, 1, 1, 1] * 5
    assert (width[video] - origin).tolist() == [0, 1, 2] * 10
    for axis in (time, height, width):
        assert (axis[audio] - origin).tolist() == list(range(125))
        after = axis[audio[-1] + 1 :]
        assert after[0] == after[1] == origin + 125  # the two closing brackets share a position
        assert after[1:].tolist() == list(range(origin + 125, origin + 124 + len(after)))


@pytest.mark.parametrize(("video", "audio"), STREAMS)
def test_importance_is_what_the_naive_softmax_says(adapter, monkeypatch, video, audio):
    """Queries and keys as the stock layers hand them to eager attention, in one map of the whole clip."""
    monkeypatch.setattr("fastav.models.qwen2_5_omni.importance._CELLS", 64)  # so that maps are made in blocks
    asked, (seeing, hearing) = (
        {},
        (adapter.model.model.visual.blocks[-1].attn, adapter.model.model.audio_tower.layers[-1].self_attn),
    )
    eager = modeling_qwen2_5_omni.eager_attention_forward

    def spy(module, query, key, *args, **kwargs):
        asked.setdefault(module, []).append((query[0], key[0]))
        return eager(module, query, key, *args, **kwargs)

    monkeypatch.setattr(modeling_qwen2_5_omni, "eager_attention_forward", spy)
    small = clip(video, audio, seconds=4.9)
    layout = prepared(adapter, small).layout
    assert (layout.importance > 0).tolist() == layout.media.tolist()
    assert (layout.importance_in_clip > 0).tolist() == (layout.kind == AUDIO).tolist()

    def naive(module, window):
        query, key = (torch.cat(each, 1) for each in zip(*asked[module], strict=True))
        logits = query @ key.mT / key.shape[-1] ** 0.5
        place = torch.arange(key.shape[1]) // window
        return logits.masked_fill(place[:, None] != place, -torch.inf).softmax(-1).mean(0).sum(0)

    if video:  # two rows of three tokens lie in one square of the encoder's windows: its order is row by row
        n_steps = len(layout.grids)
        want = naive(seeing, 2 * 24).view(n_steps * 6, 4).mean(1)
        assert np.allclose(layout.importance[layout.kind == VIDEO], want, rtol=1e-5)
    if audio:
        for got, window in ((layout.importance, 100), (layout.importance_in_clip, 10**6)):
            want = naive(hearing, window)
            want = want[: len(want) // 2 * 2].view(-1, 2).mean(1)
            assert np.allclose(got[layout.kind == AUDIO], want, rtol=1e-5)


def test_squares_by_hand_and_as_stock_has_them():
    assert square_order(3, 5, 2).tolist() == [0, 1, 5, 6, 2, 3, 7, 8, 4, 9, 10, 11, 12, 13, 14]
    for rows, columns in ((3, 5), (4, 8), (9, 10)):
        grid = torch.tensor([[1, 2 * rows, 2 * columns]])
        stock, _ = modeling_qwen2_5_omni.get_vision_window_index(grid, spatial_merge_size=2, window_size=112, patch_size=14)
        assert square_order(rows, columns, 4).tolist() == stock.tolist()


def test_importance_of_a_picture_is_told_row_by_row():
    """Three steps of 3 x 5 tokens, which the encoder has in squares of 2 x 2. Oracle: a map of each two steps, in plain order."""
    generator, grid = torch.Generator().manual_seed(0), torch.tensor([[3, 6, 10]])
    query, key = torch.randn(2, 2, 45, 4, 8, generator=generator, dtype=torch.float64)  # heads, tokens, patches, width
    order, _ = modeling_qwen2_5_omni.get_vision_window_index(grid, spatial_merge_size=2, window_size=56, patch_size=14)
    want = []
    for tokens in (slice(30), slice(30, 45)):
        q, k = (each[:, tokens].flatten(1, 2) for each in (query, key))
        want.append((q @ k.mT / 8**0.5).softmax(-1).mean(0).sum(0).view(-1, 4).mean(1))
    sizes = SimpleNamespace(spatial_merge_size=2, window_size=56, patch_size=14)
    got = seen_importance(query[:, order].flatten(1, 2), key[:, order].flatten(1, 2), grid[0].tolist(), sizes)
    assert np.allclose(got, torch.cat(want), rtol=1e-5)


def test_frames_that_are_taken_by_hand():
    """2 per second, even, 4 to 768, first and last included; never more than there are, and one frame alone twice."""
    assert sample_frames(300, 30.0) == torch.linspace(0, 299, 20).round().int().tolist()
    assert len(sample_frames(225, 30.0)) == 14  # 7.5 s: 15 is odd
    assert sample_frames(30, 30.0) == [0, 10, 19, 29]
    assert len(sample_frames(30 * 3600, 30.0)) == 768
    assert sample_frames(3, 1.0) == [0, 2] and sample_frames(1, 25.0) == [0, 0]


def test_frame_sizes_by_hand(monkeypatch):
    """720p: 768 tokens at most (21 x 36 = 756 fit); 384 steps share 115,200 tokens, 300 each; 100 pixels grow to 128 tokens."""
    monkeypatch.setattr(qwen2_5_omni, "MIN_PIXELS", 128 * 28 * 28)
    assert frame_size(720, 1280, 20) == (20 * 28, 36 * 28)
    assert frame_size(720, 1280, 768) == (12 * 28, 23 * 28)
    assert frame_size(100, 100, 4) == (12 * 28, 12 * 28)
    with pytest.raises(UserError, match="10 x 4000 is too narrow"):
        frame_size(4000, 10, 4)
    assert token_estimate({}, 10.0) == {"text": 40, "video": 10 * 20 * 36, "audio": 250}
    assert [audio_tokens(n) for n in (0, 1, 2, 3, 100, 30_000)] == [0, 0, 0, 1, 25, 7500]


def test_a_file_is_read_as_the_model_wants_it(adapter, tmp_path):
    """A 3 s file of 10 frames a second and 112 x 168: 6 frames, resized by PIL's bicubic to what the limits say."""
    rng = np.random.default_rng(2)
    write_clip(tmp_path / "a.mp4", rng.integers(0, 255, (30, 90, 130, 3), np.uint8), 10, np.sin(np.arange(48_000) / 20) * 0.3)
    got = read_clip(tmp_path / "a.mp4", **adapter.read_options)
    whole = read_clip(tmp_path / "a.mp4", lambda n, fps, sec: sample_frames(n, fps))
    assert got.frames.shape == (6, 84, 140, 3)
    for frame, source in zip(got.frames, whole.frames, strict=True):
        assert np.array_equal(frame, np.asarray(Image.fromarray(source).resize((140, 84), Image.Resampling.BICUBIC)))
    assert torch.equal(patches(got.frames, adapter.pictures)[0], patches(whole.frames, adapter.pictures)[0])


def test_an_odd_frame_is_doubled_and_a_sound_without_a_token_is_none(adapter):
    frames = clip().frames[:5]
    assert torch.equal(patches(frames, adapter.pictures)[0], patches(np.concatenate([frames, frames[-1:]]), adapter.pictures)[0])
    short = np.zeros(300, np.float32)
    layout = prepared(adapter, clip_from_arrays(clip().frames, 2.0, short)).layout
    assert layout.single_stream and layout.count()["audio"] == 0
    with pytest.raises(UserError, match="too short"):
        prepared(adapter, clip_from_arrays(None, 0.0, short))


def test_a_question_is_text_whatever_it_spells(adapter):
    """A placeholder typed by a person must not become a media token."""
    with torch.inference_mode():
        features = adapter.encode(clip())
        layout = adapter.prepare(features, clip(), "<|VIDEO|><|im_end|>").layout
    plain = prepared(adapter, clip()).layout
    assert {k: layout.count()[k] for k in ("video", "audio")} == {k: plain.count()[k] for k in ("video", "audio")}
    assert len(layout) - len(plain) == len("<|VIDEO|><|im_end|>") - len(QUESTION)


def test_a_session_answers_streams_and_compares(folder):
    """Smoke: the whole path in the model's own dtype; the lengths are the plan's."""
    session = Session(Qwen25OmniAdapter(str(folder), device="cpu"))
    session.adapter.n_new_tokens = 3
    pruned = session.answer(clip(), QUESTION, "fastav:rule=first(80),p=30", peak=False)
    assert pruned.lengths[0] == sum(pruned.tokens_before.values()) > pruned.lengths[-1]
    assert pruned.tokens_before["video"] == 30 and pruned.tokens_before["audio"] == 125


def test_weights_that_speak_are_ignored_and_others_are_named(folder, loaded, tmp_path):
    assert loaded.ignored == ["talker.model.norm.weight", "token2wav.x.bias"]
    broken = tmp_path / "broken"
    broken.mkdir()
    for file in folder.glob("*.json"):
        (broken / file.name).write_bytes(file.read_bytes())
    tensors = load_file(folder / "model.safetensors")
    tensors["thinker.visual.odd"] = tensors.pop("thinker.model.norm.weight")
    save_file(tensors, broken / "model.safetensors")
    with pytest.raises(UserError, match=r"missing: thinker.model.norm.weight; unknown key: thinker.visual.odd"):
        Qwen25OmniAdapter(str(broken), device="cpu")
    (broken / "preprocessor_config.json").unlink()
    with pytest.raises(UserError, match="cannot read preprocessor_config.json in"):
        Qwen25OmniAdapter(str(broken), device="cpu")
    (broken / "config.json").write_text('{"model_type": "qwen2"}')
    with pytest.raises(UserError, match="has a thinker_config; this one has model_type"):
        Qwen25OmniAdapter(str(broken), device="cpu")


def test_original_undoes_rename(adapter):
    names = list(adapter.model.state_dict())
    assert [rename(original(name)) for name in names] == names


@pytest.mark.parametrize(
    "given",
    [
        {"hidden_size": "48"},
        {"num_attention_heads": 0},
        {"num_hidden_layers": "x"},
        {"hidden_act": "nope"},
        {"rms_norm_eps": "1e-6"},
        {"rope_parameters": {"rope_type": "nope", "rope_theta": 1e4}},
    ],
    ids=str,
)
def test_a_config_that_describes_no_model_is_refused(folder, tmp_path, given):
    config = json.loads((folder / "config.json").read_text())
    config["thinker_config"]["text_config"].update(given)
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="config.json does not describe Qwen2.5-Omni"):
        Qwen25OmniAdapter(str(tmp_path), device="cpu")


def test_what_is_left_out_is_told(adapter, monkeypatch):
    """Limits of 2 s of sound and of 4 frames instead of 300 s and 768; a file of 8 frames a second, of which 4 were taken."""
    monkeypatch.setattr(qwen2_5_omni, "MAX_FRAMES", 4)
    whole = clip()
    taken = replace(whole, frames=whole.frames[:4], n_source_frames=40, fps=8.0)
    video = "the video is longer than 2 s: 4 frames, evenly over it, are taken"
    assert qwen2_5_omni.left_out(taken, 32_000) == (video, "sound after 2 s is left out")
    assert qwen2_5_omni.left_out(replace(taken, n_source_frames=16, audio=whole.audio[:32_000]), 32_000) == ()
    monkeypatch.undo()
    assert prepared(adapter, clip(True, False)).notes == ()


def test_sound_at_another_rate_is_refused(adapter):
    with pytest.raises(UserError, match="must have 16000 samples per second, got 8000"):
        adapter.encode(clip_from_arrays(None, 0.0, np.ones(8000, np.float32), rate=8000))


def test_facts_say_what_this_checkpoint_says(folder):
    """The tiny checkpoint has other ids and sections and no chat template; times and sizes are the published ones."""
    found = {f.name: f for f in facts(Weights(folder), json.loads((folder / "config.json").read_text()), None)}
    assert found["positions per second"].ok and found["seconds per chunk"].ok and found["mel bins"].ok
    assert found["seconds of sound at most"].ok and found["output layer of its own"].ok
    assert found["audio placeholder id"].ok is False and found["audio placeholder id"].found == str(IDS["<|AUDIO|>"])
    assert found["default system prompt"].ok is False
    assert found["tensors of the speaking parts"].found == "2, not loaded"


def test_answers_end_where_the_chat_format_and_the_checkpoint_say(folder, adapter):
    assert prepared(adapter, clip()).generate_kwargs["eos_token_id"] == [IDS["<|im_end|>"]]
    own = folder / "generation_config.json"
    own.write_text(json.dumps({"eos_token_id": [7, 8], "repetition_penalty": 1.1, "temperature": 0.5}))
    given = prepared(Qwen25OmniAdapter(str(folder), device="cpu"), clip()).generate_kwargs
    own.unlink()
    del given["position_ids"]
    assert given == {"eos_token_id": [7, 8, IDS["<|im_end|>"]], "pad_token_id": IDS["<|endoftext|>"], "repetition_penalty": 1.1}
