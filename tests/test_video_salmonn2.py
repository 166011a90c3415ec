"""video-SALMONN 2. Oracles: data of the original code (tests/parity_video_salmonn2.py), the masked run (tests/masked.py),
transformers' own Q-Former, torch's interpolation as the original calls it, counts and FLOPs worked out by hand.
"""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from conftest import greedy, holding
from masked import masked_run
from parity import Report
from parity_video_salmonn2 import clip_of, compare
from safetensors.torch import load_file, save_file
from torch.nn.functional import interpolate
from transformers import Blip2QFormerConfig, Blip2QFormerModel

from fastav import engine
from fastav.clip.clip import clip_from_arrays
from fastav.errors import UserError
from fastav.flops import paper_flops
from fastav.layout import AUDIO, TEXT, VIDEO
from fastav.methods import lengths, parse
from fastav.models.video_salmonn2.adapter import VideoSALMONN2Adapter
from fastav.models.video_salmonn2.inputs import TRAINED_AS, Settings, time_texts
from fastav.models.video_salmonn2.module import LLM, VideoSALMONN2, llm_config, original, rename
from fastav.models.video_salmonn2.order import align
from fastav.models.video_salmonn2.published import facts, layout_estimate, token_estimate
from fastav.models.video_salmonn2.qformer import QFormer, segment_positions
from fastav.models.weights import Weights, empty, read_json
from fastav.session import Session

ROOT = Path(__file__).resolve().parents[1]
GOLDEN = ROOT / "tests" / "golden" / "video_salmonn2"
SHARED = ROOT.parent / "shared" / "reference" / "video_salmonn2"
CASES = json.loads((GOLDEN / "index.json").read_text())["cases"]
QUESTION = "What is making the sound?"


def load(folder=GOLDEN, **options):
    return VideoSALMONN2Adapter(str(folder), device="cpu", **options)


@pytest.fixture(scope="module")
def adapter():
    return load()


@pytest.fixture
def clip():
    """7 s: seven frames, 9 audio tokens after each, of 60 in the piece; the sound is longer than the video."""
    return clip_of(GOLDEN, "av_7s_uneven", CASES["av_7s_uneven"])


def checkpoint(tmp_path, config=None, tensors=None, without=()):
    """A copy of the golden checkpoint with other settings or tensors (None: that one is taken out)."""
    for file in ("config.json", "submodel_configs.json", "tokenizer.json", "model.safetensors"):
        if file not in without:
            shutil.copy(GOLDEN / file, tmp_path / file)
    if config:
        written = {k: v for k, v in (read_json(GOLDEN, "config.json") | config).items() if v is not None}
        (tmp_path / "config.json").write_text(json.dumps(written))
    if tensors:
        written = {k: v for k, v in (load_file(GOLDEN / "model.safetensors") | tensors).items() if v is not None}
        save_file(written, tmp_path / "model.safetensors")
    return tmp_path


@pytest.mark.parametrize("folder", [GOLDEN, SHARED], ids=["golden", "shared"])
def test_every_stage_is_that_of_the_original(folder):
    if not folder.is_dir():
        pytest.skip(f"{folder.relative_to(ROOT.parent)} is not on this machine")
    report = Report(quiet=True)
    compare(folder, report)
    assert report.n_sets == (4 if folder == GOLDEN else 8)
    assert report.failures == []


def test_parity_names_what_a_folder_lacks(tmp_path, capsys):
    compare(tmp_path, report := Report())
    assert report.n_sets == 0
    assert "set checkpoint: not in this folder" in capsys.readouterr().out


@pytest.mark.parametrize(
    "seconds, n_frames, n_tokens, expected", [(9, 9, 1731, 57.98), (10, 10, 1910, 57.15), (20, 20, 3730, 53.39)]
)
def test_flops_by_the_papers_formula(seconds, n_frames, n_tokens, expected):
    """Percent of vanilla at the published sizes, worked out by hand. The paper has 58, of clips of about ten seconds."""
    config = llm_config(LLM)
    layout = layout_estimate({}, seconds)
    assert (layout.step.max() + 1, len(layout)) == (n_frames, n_tokens)
    pruned = lengths(parse("fastav", config.num_hidden_layers), layout, config.num_hidden_layers)
    full = [len(layout)] * config.num_hidden_layers
    assert 100 * paper_flops(pruned, config) / paper_flops(full, config) == pytest.approx(expected, abs=0.05)


def test_token_estimate_counts_a_ten_second_clip():
    """14 + 16 text tokens; 10 frames of 13 rows of 13 + 1; 60 audio tokens of one piece."""
    assert token_estimate({}, 10) == {"text": 30, "video": 10 * 13 * 14, "audio": 60}


@pytest.mark.parametrize("attn", ["sdpa", "eager"])
def test_pruned_run_equals_full_run_with_removed_keys_masked(clip, attn):
    adapter = load(attn="eager")
    adapter.module.double()
    model, n_layers = adapter.model, 5
    with torch.inference_mode():
        prompt = adapter.prepare(adapter.encode(clip), clip, QUESTION)
    method = parse("fastav", n_layers)
    rotary = lambda n: model.model.rotary_emb(torch.zeros(1, 1, dtype=torch.float64), torch.arange(n)[None])  # noqa: E731
    cuts = method.cuts(prompt.layout, n_layers)
    kept, logits, new = masked_run(model.model, model.lm_head, prompt.embeds, cuts, 7, rotary)
    model.set_attn_implementation(attn)
    engine.install(model)
    cache = engine.PrunedCache(model.config, prompt.layout, method)
    got, got_logits = greedy(model, 7, inputs_embeds=prompt.embeds, **holding(model, cache))
    assert cache.kept() == kept
    assert got == new
    assert torch.allclose(got_logits, logits, rtol=0, atol=1e-10)
    text, frame = prompt.layout.kind == TEXT, prompt.layout.step
    assert kept[2] == np.flatnonzero(text | (frame >= 0) & (frame < 4)).tolist()
    assert [len(k) for k in kept[2:]] == [44 + 84, 44 + 68, 44 + 55]  # 4 frames of 12 + 9; a fifth leaves after each layer


def test_qformer_is_that_of_transformers():
    """Same weights in Blip2QFormerModel. Small values, so that the eps of the norms shows."""
    sizes = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 40}
    torch.manual_seed(0)
    own = QFormer(encoder_width=16, layer_norm_eps=1e-12, **sizes).double().eval()
    config = Blip2QFormerConfig(encoder_hidden_size=16, cross_attention_frequency=1, layer_norm_eps=1e-12, **sizes)
    theirs = Blip2QFormerModel(config).double().eval()
    renamed = {
        key.replace("embeddings.LayerNorm", "layernorm").replace("attention.self.", "attention.attention."): tensor
        for key, tensor in own.state_dict().items()
    }
    theirs.load_state_dict(renamed)
    queries, windows = 1e-4 * torch.randn(3, 2, 24).double(), torch.randn(3, 25, 16).double()
    want = theirs(query_embeds=queries, encoder_hidden_states=windows).last_hidden_state
    assert torch.allclose(own(queries, windows), want, rtol=0, atol=1e-12)


def test_segment_positions_one_by_one():
    """Row 0 is zero, row s is the sinusoid of s - 1: sines on even channels, cosines on odd ones."""
    table = segment_positions(4, 6)
    for s in range(4):
        for channel in range(6):
            angle = (s - 1) / 10_000 ** (channel // 2 * 2 / 6)
            value = 0 if s == 0 else np.cos(angle) if channel % 2 else np.sin(angle)
            assert table[s, channel].item() == pytest.approx(value, abs=1e-6)


@pytest.mark.parametrize("n_audio, n_frames", [(60, 10), (60, 7), (60, 43), (60, 53), (60, 58), (120, 110), (60, 110)])
def test_alignment_is_torchs_nearest_interpolation(n_audio, n_frames):
    """Of the embeddings, as the original does it; for 43, 53 and 58 frames exact integers would differ."""
    tokens = torch.randn(n_audio, 3)
    groups, tail = align(n_audio, n_frames, float(n_frames))
    n = -(-n_audio // n_frames) * n_frames
    want = interpolate(tokens.T[None], size=n, mode="nearest")[0].T.view(n_frames, -1, 3)
    assert torch.equal(tokens[groups], want)
    assert len(tail) == 0
    exact = [i * n_audio // n for i in range(n)]
    assert (groups.flatten().tolist() == exact) == (n_frames not in (43, 53, 58))


@pytest.mark.parametrize("case", CASES)
def test_padding_marks_windows_after_the_sound(adapter, case):
    """Audio token j of the source hears half a second from j / 2 on; the original's own list says where it went."""
    clip = clip_of(GOLDEN, case, CASES[case])
    heard_sec = min(len(clip.audio) / 16_000, CASES[case]["real_time"])
    with torch.inference_mode():
        layout = adapter.prepare(adapter.encode(clip), clip, QUESTION).layout
    n_front, n_raw = CASES[case]["audio_tokens_front"], CASES[case]["audio_tokens_raw"]
    source = [*CASES[case]["nearest_source_index"], *range(n_front, n_raw)]
    assert layout.audio_padding[layout.kind == AUDIO].tolist() == [j / 2 >= heard_sec for j in source]
    assert not layout.audio_padding[layout.kind != AUDIO].any()


def test_ten_seconds_of_sound_lie_in_the_first_four_frames():
    """60 tokens for 30 padded seconds, 6 per frame: the 20 that hear something end in frame 3."""
    layout = layout_estimate({}, 10)
    sounding = (layout.kind == AUDIO) & ~layout.audio_padding
    assert np.bincount(layout.step[sounding]).tolist() == [6, 6, 6, 2]


def test_a_tail_goes_with_the_last_frame(adapter):
    """1.1 s, two frames: 5 of 60 audio tokens follow the last frame's 28, and belong to it."""
    clip = clip_of(GOLDEN, "av_1s_tail", CASES["av_1s_tail"])
    with torch.inference_mode():
        layout = adapter.prepare(adapter.encode(clip), clip, QUESTION).layout
    frames = ["video", 0, 12], ["audio", 0, 28], ["video", 1, 12], ["audio", 1, 28 + 5]
    assert layout.runs() == [["text", -1, 26], *frames, ["text", -1, 18]]


def test_video_without_sound_is_single_stream_with_time_tokens(adapter, clip):
    """Seven frames of 12 visual tokens and 3 of time ("1.0"): nothing leaves by the rule, a fifth after each layer does."""
    silent = clip_from_arrays(clip.frames, 1.0, None)
    result = Session(adapter).answer(silent, QUESTION, max_new_tokens=3)
    assert result.tokens_before == {"text": 44, "video": 7 * 15, "audio": 0}
    assert result.lengths == (149, 149, 149, 149 - 21, 149 - 21 - 16)
    assert any("video only" in note for note in result.notes)


def test_sound_without_video_is_single_stream(adapter, clip):
    """The whole piece: 60 tokens, those after 3.2 s padding; nothing leaves by the rule."""
    sound = clip_from_arrays(None, 0, clip.audio[: round(3.2 * 16_000)])
    session = Session(adapter)
    result = session.answer(sound, QUESTION, max_new_tokens=3)
    assert result.tokens_before == {"text": 44, "video": 0, "audio": 60}
    assert result.lengths == (104, 104, 104, 104 - 12, 104 - 12 - 9)
    assert any("audio only" in note for note in result.notes)
    assert session.inputs(sound, QUESTION)[0].layout.audio_padding.sum() == 60 - 7


def test_sound_without_video_ends_at_the_limit(adapter, clip, monkeypatch):
    monkeypatch.setattr(adapter, "settings", replace(adapter.settings, max_time_sec=2))
    sound = clip_from_arrays(None, 0, clip.audio)
    with torch.inference_mode():
        features = adapter.encode(sound)
        assert torch.equal(features.audio, adapter.encode(clip_from_arrays(None, 0, clip.audio[:32_000])).audio)
        assert adapter.prepare(features, sound, QUESTION).notes == ("sound after 2 s is left out",)
    assert features.n_sounding == 4


def test_arrays_at_their_own_rate_are_sampled(adapter, clip):
    """At 30 frames per second every 30th is seen, as if it had been read from a file."""
    whole = clip_from_arrays(np.repeat(clip.frames, 30, axis=0), 30.0, clip.audio)
    sampled = clip_from_arrays(clip.frames, 1.0, clip.audio)
    with torch.inference_mode():
        got, want = adapter.encode(whole), adapter.encode(sampled)
    assert torch.equal(got.visual, want.visual)
    assert torch.equal(got.audio, want.audio)


def test_the_same_sound_in_a_second_piece_differs_by_its_position(adapter, clip):
    """Row 1 of the table is 0, 1, 0, 1 ... on all tokens of the second 30 s."""
    half_minute = np.resize(clip.audio, 30 * 16_000)
    with torch.inference_mode():
        audio = adapter.encode(clip_from_arrays(None, 0, np.tile(half_minute, 2))).audio
    row = torch.tensor([0.0, 1.0]).repeat(32)
    assert torch.allclose(audio[60:] - audio[:60], row.expand(60, -1), rtol=0, atol=1e-5)


def test_time_tokens_are_embedded_text_with_zeros_after_the_shorter_ones(adapter, clip):
    """Ten frames at 1 per second: "1.0" is one token shorter than "10.0"."""
    with torch.inference_mode():
        frames = np.resize(clip.frames, (10, *clip.frames.shape[1:]))
        times = adapter.encode(clip_from_arrays(frames, 1.0, None)).visual[:, 12:]
    table = adapter.model.get_input_embeddings().weight
    assert torch.equal(times[9], table[adapter.tokenize("10.0")])
    assert torch.equal(times[0, :3], table[adapter.tokenize("1.0")])
    assert (times[:9, 3] == 0).all()


def test_times_have_one_decimal():
    """262 frames at 24 per second, eleven of them seen."""
    assert time_texts(11, 262 / 24) == "1.0 2.0 3.0 4.0 5.0 6.0 6.9 7.9 8.9 9.9 10.9".split()


def test_the_first_channel_is_heard(adapter):
    """The golden file's channels differ."""
    read = Session(adapter).read(GOLDEN / "av_7s_uneven.flac").audio
    channels = soundfile.read(GOLDEN / "av_7s_uneven.flac", dtype="float32")[0]
    assert np.array_equal(read, channels[:, 0]) and not np.array_equal(read, channels.mean(1))


def test_a_file_is_read_as_the_model_wants_it(adapter, monkeypatch):
    """Smoke: one frame per second at the tower's size, and both methods answer."""
    monkeypatch.setattr(adapter, "n_new_tokens", 3)
    session = Session(adapter)
    clip = session.read(ROOT / "assets" / "examples" / "dog_car.mp4")
    assert clip.frames.shape == (len(adapter.settings.sampler(clip.n_source_frames, clip.fps, 0)), 98, 98, 3)
    comparison = session.compare(clip, QUESTION, fvcore=False, peak=False)
    assert comparison.pruned.tokens_before["video"] == len(clip.frames) * 12


def test_bfloat16_computes(clip):
    """Smoke: every part takes the dtype; scores and logits stay finite."""
    session = Session(load(dtype="bfloat16"))
    prompt, _ = session.inputs(clip, QUESTION)
    assert prompt.embeds.dtype == torch.bfloat16
    assert session.model(inputs_embeds=prompt.embeds).logits.isfinite().all()
    assert len(session.answer(clip, QUESTION, max_new_tokens=3).lengths) == 5


def test_encoders_on_disk_compute_the_same(adapter, clip):
    mapped = load(device_map={"llm": "cpu", "vision": "disk", "speech": "disk"})
    assert mapped.module.vision.newline.is_meta
    with torch.inference_mode():
        got, want = (a.prepare(a.encode(clip), clip, QUESTION).embeds for a in (mapped, adapter))
    assert torch.equal(got, want)


def test_the_answer_ends_before_the_stop_token(adapter):
    ids = adapter.tokenize("Yes")
    assert adapter.decode([*ids, *adapter.tokenize("<|im_end|>")]) == adapter.decode(ids) == "Yes"
    assert adapter.generate_kwargs == {"eos_token_id": [319], "pad_token_id": 317}


def test_generation_follows_the_checkpoints_own_file(tmp_path):
    folder = checkpoint(tmp_path)
    (folder / "generation_config.json").write_text(
        json.dumps({"repetition_penalty": 1.05, "eos_token_id": [319, 317], "top_k": 20})
    )
    assert load(folder).generate_kwargs == {"eos_token_id": [317, 319], "pad_token_id": 317, "repetition_penalty": 1.05}


def test_the_decoder_is_what_config_json_says_but_for_cache_and_scaling():
    """Training leaves use_cache false, without which nothing can be pruned; the original forces rope scaling off."""
    given = {
        "rms_norm_eps": 1e-5,
        "max_position_embeddings": 99,
        "use_cache": False,
        "rope_scaling": {"type": "linear", "factor": 2},
    }
    config = llm_config(LLM | given)
    assert (config.rms_norm_eps, config.max_position_embeddings, config.use_cache) == (1e-5, 99, True)
    assert config.rope_parameters == {"rope_type": "default", "rope_theta": 1e6}
    newer = {k: v for k, v in LLM.items() if k != "rope_theta"} | {"rope_parameters": {"rope_theta": 5e5}}
    assert llm_config(newer).rope_parameters["rope_theta"] == 5e5


def test_settings_come_from_model_args():
    given = {"fps": 2, "second_per_window": 0.4, "second_stride": 0.2, "add_time_token": False}
    settings = Settings.of({"model_args": given, "tokenizer_model_max_length": 4096})
    assert settings == Settings(fps=2, second_per_window=0.4, second_stride=0.2, add_time_token=False, max_tokens=4096)
    assert (settings.window, settings.stride) == (20, 10)
    assert settings.n_audio(16_000) == (149, 5)  # 1500 positions: (1500 - 20) / 10 + 1 windows; those at 0, 0.2 ... 0.8 s hear
    assert settings.sampler(60, 30.0, 2.0) == [0, 15, 30, 45]
    assert Settings.of({"add_time_token": False}) == Settings(add_time_token=False)


@pytest.mark.parametrize("name", TRAINED_AS)
def test_a_checkpoint_trained_otherwise_is_refused(name):
    """The top level may hold leftovers of the model it was built on: they are told by `facts` and not followed."""
    with pytest.raises(UserError, match=f"model_args.{name} = 'other'"):
        Settings.of({"model_args": {name: "other"}})
    assert Settings.of({name: "other"}) == Settings()
    config = read_json(GOLDEN, "config.json") | {name: "other"}
    assert {fact.name for fact in facts(Weights(GOLDEN), config, None) if fact.ok is False} == {name}


@pytest.mark.parametrize(
    "config, message",
    [
        ({"model_args": {"fps": 0}}, "{'fps': 0}; allowed: numbers above 0"),
        ({"model_args": {"second_per_window": "x"}}, "{'second_per_window': 'x'}; allowed"),
        ({"model_args": {"second_stride": 0.001}}, "every 0.001 s; allowed: 0.02 s or more"),
        ({"model_args": {"second_per_window": 31}}, "windows of 31 s every 0.5 s"),
        ({"add_time_token": "no"}, "{'add_time_token': 'no'}"),
        ({"tokenizer_model_max_length": "x"}, "{'max_tokens': 'x'}"),
    ],
)
def test_settings_that_are_none_are_refused(config, message):
    with pytest.raises(UserError, match=message):
        Settings.of(config)


@pytest.mark.parametrize(
    "given",
    [
        {"hidden_size": "64"},
        {"num_attention_heads": 0},
        {"num_hidden_layers": "x"},
        {"hidden_act": "nope"},
        {"rope_theta": "x"},
        {"rms_norm_eps": "1e-6"},
        {"model_args": "x"},
    ],
    ids=str,
)
def test_a_config_that_describes_no_model_is_refused(tmp_path, given):
    with pytest.raises(UserError, match=r"config.json does not describe video-SALMONN 2 \(with submodel_configs.json\)"):
        load(checkpoint(tmp_path, config=given))


@pytest.mark.parametrize("text, message", [("null", "submodel_configs.json"), ('{"whisper_config": null}', "does not describe")])
def test_submodel_configs_that_are_none_are_refused(tmp_path, text, message):
    (checkpoint(tmp_path) / "submodel_configs.json").write_text(text)
    with pytest.raises(UserError, match=message):
        load(tmp_path)


def test_original_undoes_rename():
    """Every place of the published model, by its key."""
    names = list(empty(lambda: VideoSALMONN2(LLM, {}, Settings())).state_dict())
    assert [rename(original(name)) for name in names] == names


def test_what_the_vision_tower_does_not_need_may_be_there_or_not(tmp_path, adapter, clip):
    """The golden checkpoint has a post_layernorm, which nothing reads; others keep the last layer and the head."""
    tower = "model.vision_tower.vision_tower.vision_model."
    more = {f"{tower}encoder.layers.3.layer_norm1.weight": torch.ones(48), f"{tower}head.probe": torch.ones(1, 1, 48)}
    without = {f"{tower}post_layernorm.weight": None, f"{tower}post_layernorm.bias": None}
    own = load(checkpoint(tmp_path, tensors=more | without))
    assert own.ignored == sorted([*more, "speech_Qformer.bert.embeddings.position_ids"])
    with torch.inference_mode():
        assert torch.equal(own.encode(clip).visual, adapter.encode(clip).visual)


def test_the_kernel_of_attention_is_that_of_every_stock_part():
    own = load(attn="eager")
    parts = own.model, own.module.vision.tower, own.module.speech.encoder
    assert {part.config._attn_implementation for part in parts} == {"eager"}


@pytest.mark.parametrize("seconds, notes", [(7.05, ()), (7.2, ("sound after 7 s is left out",))])
def test_sound_after_the_video_is_told(adapter, clip, seconds, notes):
    """Seven frames at one per second."""
    longer = clip_from_arrays(clip.frames, 1.0, np.resize(clip.audio, round(seconds * 16_000)))
    with torch.inference_mode():
        assert adapter.prepare(adapter.encode(longer), longer, QUESTION).notes == notes


def test_facts_judge_settings_but_not_sizes():
    config = read_json(GOLDEN, "config.json")
    told = {fact.name: fact for fact in facts(Weights(GOLDEN), config, None)}
    assert not [name for name, fact in told.items() if fact.ok is False]
    assert told["hidden_size"].ok is None and told["rope_theta"].ok
    assert told["mm_vision_tower"].ok is None and told["mm_vision_select_layer"].ok and told["mm_newline_position"].ok
    changed = {
        "architectures": ["Other"],
        "rope_theta": 1e4,
        "rope_scaling": {"type": "yarn"},
        "rope_parameters": {"rope_type": "yarn"},
        "mm_patch_merge_type": "flat",
        "tokenizer_model_max_length": 4096,
    }
    args = {"mm_spatial_pool_mode": "average", "max_time": 30, "model_max_length": 2048}
    told = {
        fact.name: fact for fact in facts(Weights(GOLDEN), config | changed | {"model_args": args}, {"repetition_penalty": 1.05})
    }
    wrong = {*changed, *(f"model_args.{name}" for name in args), "rope_parameters.rope_type"} - {"rope_parameters"}
    assert {name for name, fact in told.items() if fact.ok is False} == wrong
    assert "second_per_window" in told["settings that config.json lacks"].found
    assert "1.05" in told["generation_config.json"].found


@pytest.mark.parametrize(
    "change, message",
    [
        ({"config": {"model_type": "video_SALMONN2_plus"}}, "2\\+ is another model"),
        ({"config": {"num_key_value_heads": None, "rope_theta": None}}, "config.json lacks num_key_value_heads, rope_theta"),
        ({"tensors": {"final_linear.2.bias": None}}, "missing: final_linear.2.bias"),
        ({"tensors": {"model.image_newline": torch.zeros(32)}}, r"model.image_newline is \(32,\), expected \(64,\)"),
        ({"tensors": {"model.layers.0.lora_A": torch.zeros(2)}}, "unknown key: model.layers.0.lora_A"),
        ({"without": ["tokenizer.json"]}, "holds no tokenizer"),
        ({"without": ["config.json"]}, "config.json"),
    ],
    ids=["plus", "config", "missing", "shape", "unknown", "no tokenizer", "no config"],
)
def test_a_folder_that_does_not_fit_is_named(tmp_path, change, message):
    with pytest.raises(UserError, match=message):
        load(checkpoint(tmp_path, **change))


def test_a_missing_vision_tower_says_where_to_get_it(tmp_path):
    keys = [key for key in load_file(GOLDEN / "model.safetensors") if ".vision_tower." in key]
    with pytest.raises(UserError, match="without its vision tower.*google/siglip-so400m-patch14-384"):
        load(checkpoint(tmp_path, tensors=dict.fromkeys(keys)))


def test_a_tokenizer_of_another_model_is_refused(tmp_path):
    folder = checkpoint(tmp_path)
    text = (folder / "tokenizer.json").read_text().replace("<|im_end|>", "<|other|>")
    (folder / "tokenizer.json").write_text(text)
    with pytest.raises(UserError, match="does not know <.im_end.>"):
        load(folder)


def test_vocab_and_merges_are_as_good_as_a_tokenizer_json(tmp_path, adapter):
    """As older checkpoints have them."""
    folder = checkpoint(tmp_path, without=["tokenizer.json"])
    whole = json.loads((GOLDEN / "tokenizer.json").read_text())
    (folder / "vocab.json").write_text(json.dumps(whole["model"]["vocab"]))
    merges = (merge if isinstance(merge, str) else " ".join(merge) for merge in whole["model"]["merges"])
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]))
    (folder / "added_tokens.json").write_text(json.dumps({t["content"]: t["id"] for t in whole["added_tokens"]}))
    text = "<|im_start|>user\n\nIs it 10.9 s?<|im_end|>"
    assert load(folder).tokenize(text) == adapter.tokenize(text)


def test_a_video_of_one_frame_is_refused(adapter, clip):
    short = clip_from_arrays(np.repeat(clip.frames[:1], 29, axis=0), 30.0, None, name="short.mp4")
    with pytest.raises(UserError, match="short.mp4: a video of 0.97 s gives 1 frame at 1 per second.*at least 2"):
        adapter.encode(short)


def test_sound_at_another_rate_is_refused(adapter):
    with pytest.raises(UserError, match="16000 samples per second, got 44100"):
        adapter.encode(clip_from_arrays(None, 0, np.zeros(44_100, np.float32), rate=44_100))


def test_a_prompt_beyond_the_models_length_is_refused(adapter, clip, monkeypatch):
    """The original would cut the question off."""
    with torch.inference_mode():
        features = adapter.encode(clip)
        n = len(adapter.prepare(features, clip, QUESTION).layout)
    monkeypatch.setattr(adapter, "settings", replace(adapter.settings, max_tokens=n))
    adapter.prepare(features, clip, QUESTION)
    monkeypatch.setattr(adapter, "settings", replace(adapter.settings, max_tokens=n - 1))
    with pytest.raises(UserError, match=f"a prompt of {n} tokens, and the model reads at most {n - 1}"):
        adapter.prepare(features, clip, QUESTION)


def test_frames_and_newlines_are_video(adapter, clip):
    """3 rows of 3 + 1 in every frame of the small tower."""
    with torch.inference_mode():
        prompt = adapter.prepare(adapter.encode(clip), clip, QUESTION)
    newline = (prompt.embeds[0] == adapter.module.vision.newline).all(-1).numpy()
    assert newline.sum() == 7 * 3
    assert (prompt.layout.kind[newline] == VIDEO).all()
