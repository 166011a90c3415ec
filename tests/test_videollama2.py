"""VideoLLaMA2.1-AV. Oracles: golden data of the reference implementation, the masked run, the paper's table, counting."""

import json
import shutil
import wave
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import greedy, holding
from masked import masked_run
from parity import Report
from parity_videollama2 import compare
from safetensors.torch import load_file, save_file
from test_cost import QWEN2_7B

import fastav
from fastav import flops
from fastav.clip.clip import clip_from_arrays
from fastav.clip.write import write_clip
from fastav.errors import UserError
from fastav.methods import FastAV, lengths
from fastav.models import siglip
from fastav.models.videollama2 import adapter as model
from fastav.models.videollama2 import inputs, published
from fastav.models.videollama2.beats import BeatsConfig, GatedAttention
from fastav.models.videollama2.module import VideoLLaMA2, original, rename
from fastav.models.weights import Weights, empty, read_json
from fastav.session import Session

ROOT = Path(__file__).resolve().parents[1]
GOLDEN = ROOT / "tests" / "golden" / "videollama2"
SHARED = ROOT.parent / "shared" / "reference" / "videollama2"
pytestmark = pytest.mark.filterwarnings("ignore:Passing .repetition_penalty. with .inputs_embeds.")
QUESTION = "Is the dog making sound in the audio? Answer yes or no."


def adapter(folder=GOLDEN / "tiny", **options):
    return model.VideoLLaMA2Adapter(str(folder), device="cpu", **options)


@pytest.fixture(scope="module")
def tiny():
    return adapter()


@pytest.fixture(scope="module")
def golden():
    return load_file(GOLDEN / "golden_small.safetensors"), json.loads((GOLDEN / "golden_small.json").read_text())


@pytest.fixture(scope="module")
def real_counts(tmp_path_factory):
    """The small checkpoint with pictures of the published size, so that a clip has as many tokens as in the published model."""

    def enlarge(config, tensors):
        config["tiny_vision_config"]["image_size"] = 384
        key = "model.vision_tower.vision_tower.vision_model.embeddings.position_embedding.weight"
        tensors[key] = torch.randn(27 * 27, tensors[key].shape[1], generator=torch.Generator().manual_seed(0)).bfloat16()

    return Session(adapter(changed(tmp_path_factory.mktemp("c"), enlarge)))


def changed(folder, change=lambda config, tensors: None, drop=()):
    """A copy of the small checkpoint after change(config, tensors), in one file, without the files in `drop`."""
    source = GOLDEN / "tiny"
    tensors = {k: t for file in source.glob("*.safetensors") for k, t in load_file(file).items()}
    config = read_json(source, "config.json")
    change(config, tensors)
    for name in {"tokenizer.json", "tokenizer_config.json"} - set(drop):
        shutil.copy(source / name, folder)
    (folder / "config.json").write_text(json.dumps(config))
    save_file({k: t.contiguous() for k, t in tensors.items()}, folder / "model.safetensors")
    return folder


def footage(seconds=3, sound=True, picture=True):
    """(frames, fps, samples) of moving noise; None for what is left out."""
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 255, (seconds * 8, 48, 64, 3), np.uint8) if picture else None
    return frames, 8, rng.uniform(-0.3, 0.3, seconds * 16_000) if sound else None


def test_pieces_follow_the_rounding_of_the_reference():
    """7.3 s as a float is less than 7.3: its second piece begins a sample before 5.3 s / 8 (from the reference's table)."""
    assert inputs.sound_pieces(116_800)[:2] == [(0, 32_000), (10_599, 42_599)]


# --- parity


@pytest.mark.parametrize(("folder", "n_sets"), [(GOLDEN, 1), (SHARED, 4)], ids=["copy", "shared"])
def test_every_stage_equals_the_reference(folder, n_sets):
    """Golden data: stages, logits, attention of the last query, answers in all modes (see parity_videollama2.py)."""
    if not folder.is_dir():
        pytest.skip(f"{folder.name}: the shared golden data is not here")
    report = Report(quiet=True)
    compare(folder, report)
    assert report.failures == []
    assert report.n_sets == n_sets and len(report.lines) > 40 * n_sets


def test_published_sizes():
    """Parameter counts of the published parts, from its keys; all of the real configuration, on the meta device."""
    module = empty(lambda: VideoLLaMA2({**published.EXPECTED, **published.EXPECTED_SIZES}))
    counts = {name: sum(p.numel() for p in part.parameters()) for name, part in module.named_children()}
    assert counts["llm"] == 7_615_616_512
    assert counts["connector"] == 376_889_248
    assert counts["audio_projector"] == 15_604_736
    assert counts["audio"] == 90_759_295 - 527 * 769 - 11 * 320 * 12  # without the classifier and copies of a table
    assert len(module.vision.encoder.layers) == 26
    assert published.token_estimate({}, 10) == {"text": 34, "video": 676, "audio": 1496}


# --- pruning


@pytest.mark.parametrize("attn", ["sdpa", "eager"])
def test_pruned_run_equals_the_masked_run(golden, attn):
    """FastAV's default on the golden clip in float64 against tests/masked.py: kept sets, logits, 7 steps."""
    tensors, _ = golden
    own = adapter(attn="eager")
    own.module.double()
    with torch.inference_mode():
        video = own.module.encode_video(tensors["in.pixel_values"].double())
        audio = own.module.encode_audio(tensors["in.fbank"][0].double())
        prompt = own.prepare(model.Features(video, audio, len(audio)), None, QUESTION)
    llm, n_layers = own.model, own.model.config.num_hidden_layers
    cuts = FastAV().cuts(prompt.layout, n_layers)

    def rotary(n):
        return llm.model.rotary_emb(torch.zeros(1, 1, dtype=torch.float64), torch.arange(n)[None])

    kept, logits, ids = masked_run(llm.model, llm.lm_head, prompt.embeds, cuts, 7, rotary)
    fastav.install(llm)
    llm.set_attn_implementation(attn)
    cache = fastav.PrunedCache(llm.config, prompt.layout, FastAV())
    got, got_logits = greedy(llm, 7, inputs_embeds=prompt.embeds, **holding(llm, cache))
    assert cache.kept() == kept and got == ids
    assert torch.allclose(got_logits, logits, rtol=0, atol=1e-10)
    first_audio = set(range(25 + 16, 25 + 16 + 10))  # after 25 words and 16 video tokens
    assert {p for p in kept[3] if 41 <= p < 89} == first_audio and kept[2] == list(range(126))
    assert [len(k) for k in kept] == [126, 126, 126, 88, 83, 79]  # 62 words; 26, 21 and 17 others


def test_flops_of_the_papers_table_from_a_real_file(real_counts, tmp_path, monkeypatch):
    """Paper, table 4: 65 / 59 / 56 / 54 of 100, at N = 2206: the adapter's own layout and rule for an mp4 file. The two pieces
    of the prompt are 14 and 20 tokens of the published tokenizer.
    """
    write_clip(tmp_path / "clip.mp4", *footage(4))

    def tokenizer(text, **_):
        n = 14 if "system" in text else 20
        return {"input_ids": [0] * n, "offset_mapping": [(0, 0)] * n}

    monkeypatch.setattr(real_counts.adapter, "tokenizer", tokenizer)
    prompt, _ = real_counts.inputs(real_counts.read(tmp_path / "clip.mp4"), QUESTION)
    layout = prompt.layout
    assert prompt.embeds.shape[1] == len(layout) == 2206
    assert layout.runs() == [["text", -1, 14], *[["video", i, 169] for i in range(4)], ["audio", -1, 1496], ["text", -1, 20]]
    assert np.flatnonzero(layout.audio_padding).tolist() == list(range(690 + 800, 2186))
    assert np.flatnonzero(layout.rule_keep).tolist() == list(range(14, 700))
    vanilla = flops.paper_flops([2206] * 28, QWEN2_7B)
    relative = {p: 100 * flops.paper_flops(lengths(FastAV(p=p), layout, 28), QWEN2_7B) / vanilla for p in (0, 10, 20, 30)}
    assert relative == pytest.approx({0: 65.46, 10: 58.82, 20: 55.71, 30: 54.19}, abs=0.01)
    assert [round(r) for r in relative.values()] == [65, 59, 56, 54]


def test_both_methods_answer_in_every_mode(real_counts):
    """By hand: tokens of each kind; one stream alone is not globally pruned, both are."""
    want = {(True, True): (676, 1496), (True, False): (676, 0), (False, True): (0, 1496)}
    for (picture, sound), (n_video, n_audio) in want.items():
        clip = clip_from_arrays(*footage(2, sound, picture))
        vanilla, pruned = (real_counts.answer(clip, QUESTION, m, max_new_tokens=2) for m in ("vanilla", "fastav:p=0"))
        assert vanilla.tokens_before == {"text": 62, "video": n_video, "audio": n_audio}
        together = picture and sound
        assert pruned.lengths[3:] == ((62 + 676 + 10,) * 3 if together else vanilla.lengths[3:])
        assert any("single-stream mode" in note for note in pruned.notes) == (not together)
        assert vanilla.n_new_tokens == pruned.n_new_tokens == 2
        assert together or vanilla.answer == pruned.answer


# --- what enters


def test_arrays_are_sampled_like_a_file(tiny):
    """An array of all frames gives the features of the eight that the sampler picks; sizes do not matter."""
    frames, fps, _ = footage()
    chosen = [1, 4, 7, 10, 13, 16, 19, 22]  # (23 i + 11.5) / 8, rounded
    small = np.stack([siglip.resize(frames[i], 70) for i in chosen])
    with torch.inference_mode():
        a, b = (tiny.encode(clip_from_arrays(f, fps, None)).video for f in (frames, small))
    assert torch.equal(a, b) and a.shape == (4, 4, 64)


def test_a_sound_file_is_its_first_channel_and_first_30_seconds(tiny, tmp_path):
    left = (np.sin(np.arange(31 * 16_000) / 9) * 9000).astype("<i2")
    with wave.open(str(tmp_path / "long.wav"), "wb") as file:
        file.setparams((2, 2, 16_000, 0, "NONE", ""))
        file.writeframes(np.stack([left, left[::-1]], 1).tobytes())
    samples, n_heard = inputs.sound(Session(tiny).read(tmp_path / "long.wav"))
    assert n_heard == 480_000 and np.array_equal(samples.numpy(), left[:480_000])


def test_sound_that_is_left_out_is_told(tiny):
    """31 s of a sound file; 30 s, and a video's sound of any length, are taken as the model takes them."""
    frames, fps, _ = footage(1)
    for seconds, picture, want in ((31, None, ("sound after 30 s is left out",)), (30, None, ()), (31, frames, ())):
        clip = clip_from_arrays(picture, fps, np.zeros(seconds * 16_000))
        with torch.inference_mode():
            assert tiny.prepare(tiny.encode(clip), clip, QUESTION).notes == want


def test_a_videos_sound_is_eight_pieces_and_loud_samples_are_clipped():
    """10 s by hand: a piece of 2 s every second; 16 bits end at 32767."""
    track = np.arange(160_000) / 160_000
    track[5] = 1.5
    frames, fps, _ = footage(10)
    samples, n_heard = inputs.sound(clip_from_arrays(frames, fps, track))
    whole = np.clip(np.rint(track.astype(np.float32) * 32768), None, 32767)
    assert n_heard == 256_000 and samples[5] == 32767 and not samples[256_000:].any() and len(samples) == 480_000
    assert np.array_equal(samples[:256_000], np.concatenate([whole[16_000 * i : 16_000 * i + 32_000] for i in range(8)]))


def test_position_bias_is_not_rounded_to_16_bits():
    """The same weights in float64. Queries are zero, so that weights follow from gate times bias alone; values go through
    unchanged. 16 bits round a product of 500 by up to 1, a factor of e.
    """
    generator = torch.Generator().manual_seed(0)
    attention = GatedAttention(32, 2)
    for name, parameter in attention.named_parameters():
        unchanged = name in ("v_proj.weight", "out_proj.weight")
        parameter.data = torch.eye(32) if unchanged else torch.zeros_like(parameter)
    attention.grep_linear.bias.data = torch.randn(8, generator=generator)
    attention.grep_a.data = torch.randn(1, 2, 1, 1, generator=generator)
    attention.bfloat16()
    x = torch.randn(1, 12, 32, generator=generator).bfloat16()
    bias = (300 + 2 * torch.randn(2, 12, 12, generator=generator)).bfloat16()
    with torch.inference_mode():
        got = attention(x, bias)
        want = attention.double()(x.double(), bias.double())
    assert torch.allclose(got.double(), want, rtol=2**-8, atol=1e-4)


def test_tokens_that_hear_a_sample():
    """By hand: a mel frame begins every 160 samples, a patch every 16 frames and has 8 tokens; 187 patches fit."""
    heard = {1: 8, 16 * 160: 8, 16 * 160 + 1: 16, 256_000: 800, 480_000: 1496}
    assert {n: inputs.n_sounding(n, BeatsConfig()) for n in heard} == heard


def test_tokens_of_padding_have_no_second():
    """By hand: the middles of patches are 0.0875 + 0.16 p s, of which six lie in a track of 1 s; 8 tokens each."""
    seconds = inputs.heard_sec(16_000, False, BeatsConfig())
    np.testing.assert_allclose(seconds[:48], np.repeat(0.0875 + 0.16 * np.arange(6), 8))
    assert len(seconds) == 1496 and np.isnan(seconds[48:]).all()


def test_a_middle_between_two_frames_is_the_later_frame():
    """As the reference's 1e-6 has it. By hand: eight parts of 9 frames are 1 long, with middles 0.5, 1.5, ..."""
    assert inputs.Middles(8)(9) == [1, 2, 3, 4, 5, 6, 7, 8]
    assert inputs.Middles(2)(1) == [0, 0]


@pytest.mark.parametrize("placeholder", ["<video>", "<audio>", "<image>"])
def test_a_question_with_a_placeholder_is_refused(tiny, placeholder):
    with pytest.raises(UserError, match=f"question contains {placeholder}"):
        tiny.prepare(model.Features(torch.zeros(4, 4, 64), None), None, f"What is {placeholder} here?")


def test_sound_at_another_rate_is_refused(tiny):
    with pytest.raises(UserError, match="must have 16000 samples per second, got 8000"):
        tiny.encode(clip_from_arrays(None, 1, np.ones(8000), rate=8000))


# --- what a checkpoint folder may hold


def test_generation_config_counts(golden, tmp_path):
    """Golden ids of the reference with that penalty; stops are the file's and the tokenizer's."""
    tensors, told = golden
    folder = changed(tmp_path)
    settings = {"repetition_penalty": 1.3, "eos_token_id": [304, 306], "temperature": 0.7}
    (folder / "generation_config.json").write_text(json.dumps(settings))
    own = adapter(folder)
    assert own.generate_kwargs == {"eos_token_id": [304, 306], "pad_token_id": 306, "repetition_penalty": 1.3}
    with torch.inference_mode():
        video = own.module.encode_video(tensors["in.pixel_values"].float())
        prompt = own.prepare(model.Features(video, own.module.encode_audio(tensors["in.fbank"][0])), None, told["question"])
        out = own.model.generate(inputs_embeds=prompt.embeds, max_new_tokens=12, do_sample=False, **prompt.generate_kwargs)
    assert out[0].tolist() == told["greedy_ids_repetition_penalty_1_3"]


@pytest.mark.parametrize("copies", [(2,), (1, 2)])
def test_one_copy_of_the_distance_table_is_enough(golden, tmp_path, copies):
    """Golden features; of several copies the lowest layer's counts, and the classifier may be missing."""
    tensors, _ = golden
    key = "model.audio_tower.encoder.layers.{}.self_attn.relative_attention_bias.weight"

    def change(config, tensors):
        table = tensors.pop(key.format(0))
        for layer in (1, 2):
            tensors[key.format(layer)] = table if layer == copies[0] else table * 0
        for layer in {1, 2} - set(copies):
            del tensors[key.format(layer)]
        del tensors["model.audio_tower.predictor.weight"], tensors["model.audio_tower.predictor.bias"]

    with torch.inference_mode():
        audio = adapter(changed(tmp_path, change)).module.encode_audio(tensors["in.fbank"][0])
    assert torch.allclose(audio, tensors["audio.projected"][0], rtol=0, atol=5e-5)


def test_parts_may_lie_on_disk_or_in_16_bits(tiny, tmp_path):
    """Features of everything in memory in float32."""
    clip = clip_from_arrays(*footage(2))
    with torch.inference_mode():
        want = tiny.encode(clip)
        offloaded = {"llm": "cpu", "vision": "disk", "connector": "disk", "audio": "disk", "audio_projector": "cpu"}
        for options, tolerance in (({"device_map": offloaded}, 1e-6), ({"dtype": "bfloat16"}, 0.05)):
            own = adapter(**options)
            got = own.encode(clip)
            for stream in ("video", "audio"):
                exact = getattr(want, stream)
                assert (getattr(got, stream) - exact).norm() <= tolerance * exact.norm(), stream
            prompt = own.prepare(got, clip, QUESTION)
            assert own.model(inputs_embeds=prompt.embeds, logits_to_keep=1).logits.isfinite().all()


@pytest.mark.parametrize(
    ("change", "drop", "message"),
    [
        (lambda config, tensors: config.pop("rope_theta"), (), "config.json lacks rope_theta; give a folder"),
        (lambda config, tensors: None, ("tokenizer.json",), "holds no tokenizer; expected tokenizer.json"),
        (lambda config, tensors: tensors.pop("model.norm.weight"), (), r"missing: model.norm.weight$"),
        (lambda config, tensors: tensors.update({"model.extra": torch.ones(1)}), (), "unknown key: model.extra"),
        (
            lambda config, tensors: config["tiny_vision_config"].update(num_hidden_layers=5),
            (),
            "missing: model.vision_tower.vision_tower.vision_model.encoder.layers.3",
        ),
    ],
)
def test_an_unfit_folder_is_refused(tmp_path, change, drop, message):
    with pytest.raises(UserError, match=message):
        adapter(changed(tmp_path, change, drop))


@pytest.mark.parametrize(
    "given",
    [
        {"hidden_size": "64"},
        {"num_attention_heads": 0},
        {"num_hidden_layers": "x"},
        {"mm_vision_select_layer": -99},
        {"hidden_act": "nope"},
        {"rope_theta": "x"},
        {"rms_norm_eps": "1e-6"},
        {"rope_scaling": {"type": "nope", "factor": 2}},
        {"tiny_vision_config": {}},
        {"tiny_vision_config": None},
        {"tiny_beats_config": {"max_distance": 0}},
    ],
    ids=str,
)
def test_a_config_that_describes_no_model_is_refused(tmp_path, given):
    with pytest.raises(UserError, match="config.json does not describe VideoLLaMA2.1-AV"):
        adapter(changed(tmp_path, lambda config, tensors: config.update(given)))


@pytest.mark.parametrize("given", [0, 1, "8", None, 8.0])
def test_a_number_of_frames_that_is_none_is_refused(tmp_path, given):
    with pytest.raises(UserError, match=f"num_frames = {given!r}; allowed: a whole number of 2 or more"):
        adapter(changed(tmp_path, lambda config, tensors: config.update(num_frames=given)))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"repetition_penalty": "1.05"}', "generation_config.json has repetition_penalty '1.05'; allowed: a number above 0"),
        ('{"repetition_penalty": 0}', "has repetition_penalty 0;"),
        ('{"repetition_penalty": NaN}', "has repetition_penalty nan;"),
        ('{"eos_token_id": ["x"]}', r"generation_config.json has eos_token_id \['x'\]; allowed: whole numbers"),
    ],
)
def test_a_generation_config_that_generate_could_not_use_is_refused(tmp_path, text, message):
    (changed(tmp_path) / "generation_config.json").write_text(text)
    with pytest.raises(UserError, match=message):
        adapter(tmp_path)


@pytest.mark.parametrize("file", ["tokenizer.json", "vocab.json"])
def test_a_broken_tokenizer_is_refused(tmp_path, file):
    """A tokenizer.json that is cut; a vocab.json without its merges.txt."""
    folder = changed(tmp_path, drop=("tokenizer.json",))
    (folder / file).write_text('{"a": 0' if file == "tokenizer.json" else '{"a": 0}')
    with pytest.raises(UserError, match="the tokenizer in"):
        adapter(folder)


def test_original_undoes_rename():
    """Every place of the published model, by its key."""
    module = empty(lambda: VideoLLaMA2({**published.EXPECTED, **published.EXPECTED_SIZES}))
    names = list(module.state_dict())
    assert [rename(original(name)) for name in names] == names


def test_the_kernel_of_attention_is_that_of_every_stock_part():
    own = adapter(attn="eager")
    assert {part.config._attn_implementation for part in (own.model, own.module.vision)} == {"eager"}


def test_facts_tell_what_differs(tmp_path):
    weights, config = Weights(GOLDEN / "tiny"), read_json(GOLDEN / "tiny", "config.json")
    facts = {fact.name: fact for fact in published.facts(weights, config, None)}
    assert not any(fact.ok is False for fact in facts.values())
    assert facts["hidden_size"].ok is None and facts["hidden_size"].found == "64"
    assert facts["generation_config.json"].found == "no file"
    told = {"architectures": True, "image_aspect_ratio": True, "rope_scaling": True, "tokenizer_padding_side": None}
    assert {name: facts[name].ok for name in told} == told and facts["mm_projector_lr"].found == "None"
    assert facts["copies of BEATs' distance table"].found == "3"
    other = {**config, "num_frames": 16, "rope_scaling": {"type": "yarn"}, "image_aspect_ratio": "square"}
    facts = {fact.name: fact for fact in published.facts(weights, other, {"repetition_penalty": 1.05})}
    wrong = {name for name, fact in facts.items() if fact.ok is False}
    assert wrong == {"num_frames", "rope_scaling", "image_aspect_ratio"}
    assert facts["generation_config.json"].found == "{'repetition_penalty': 1.05}"
    assert published.token_estimate({**config, "num_frames": 16}, 3)["video"] == 32
