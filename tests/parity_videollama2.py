"""Parity of the videollama2.1-av adapter, stage by stage: `python -m tests.parity videollama2 DIR`. Sets that DIR may hold:

tiny/ + golden_small.*      a checkpoint and every stage of one clip, the features taken straight from its waveform
tiny384/ + golden_full.*    a checkpoint with real token counts, one clip through the whole preprocessing, stages strided
preprocess.*                frames, sound, prompts and tables at the published sizes; no checkpoint needed
real_keys.json              keys and shapes of the published checkpoint (one pattern for all layers)

The JSON beside a tensor file lists its tensors; one that is not there as listed is an excess.
Behind the encoders every stage is fed what the file says was fed, so that one rounded value does not spoil all that follows.
"""

from __future__ import annotations

import json
import re
import tempfile
import wave
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from safetensors.torch import load_file
from transformers import DynamicCache

from fastav import decoder
from fastav.clip.clip import clip_from_arrays
from fastav.clip.read import read_clip
from fastav.models import qwen2, siglip
from fastav.models.videollama2 import adapter as model
from fastav.models.videollama2 import inputs, published
from fastav.models.videollama2.beats import BeatsConfig, normalized, relative_buckets
from fastav.models.videollama2.fbank import HOP, fbank
from fastav.models.videollama2.module import VideoLLaMA2, rename
from fastav.models.weights import empty

PIXELS, PIXELS_EXACT, MEL, STAGE, LOGITS, ATTENTION = 3e-4, 2e-7, 2e-4, 5e-5, 2e-4, 5e-6
FLIPPED = 5e-4  # share of values that fall on the other side of a bfloat16 rounding border; expected about 1 in 10,000
INDEX = {"<video>": -201, "<audio>": -202}


@torch.inference_mode()
def compare(folder: Path, report) -> None:
    # The reference ran eager attention; over the long prompt sdpa is ten times as fast, and so both are compared.
    for golden, checkpoint, attn in (("golden_small", "tiny", "eager"), ("golden_full", "tiny384", "sdpa")):
        if (folder / checkpoint).is_dir() and _begun(folder, golden):
            report.found(f"{checkpoint} + {golden}")
            with report.reading(checkpoint):
                tensors, told = _golden(folder, golden, report)
                adapter = model.VideoLLaMA2Adapter(str(folder / checkpoint), dtype="float32", device="cpu", attn=attn)
                _compare_model(checkpoint, adapter, tensors, told, report)
        else:
            report.missing(f"{checkpoint} + {golden}")
    if _begun(folder, "preprocess"):
        report.found("preprocess")
        with report.reading("preprocess"):
            _compare_preprocessing(folder, *_golden(folder, "preprocess", report), report)
    else:
        report.missing("preprocess")
    if (folder / "real_keys.json").is_file():
        report.found("real_keys")
        with report.reading("real_keys"):
            _compare_keys(json.loads((folder / "real_keys.json").read_text()), report)
    else:
        report.missing("real_keys")


def _begun(folder: Path, name: str) -> bool:
    """One of a set's two files is there; without the other the set is broken, not absent."""
    return any((folder / f"{name}{suffix}").is_file() for suffix in (".safetensors", ".json"))


def _golden(folder: Path, name: str, report) -> tuple[dict, dict]:
    """(tensors, what the JSON tells), after checking that every listed tensor is there in its dtype and shape."""
    golden, told = load_file(folder / f"{name}.safetensors"), json.loads((folder / f"{name}.json").read_text())
    there = {key: [str(tensor.dtype).removeprefix("torch."), list(tensor.shape)] for key, tensor in golden.items()}
    different = sorted(key for key, listed in told["tensors"].items() if there.get(key) != listed)
    report.same(name, "tensors missing or not as listed", different, [])
    return golden, told


# --- a checkpoint


def _compare_model(case: str, adapter, golden: dict, told: dict, report) -> None:
    pixels, mel = _compare_inputs(case, adapter, golden, told, report)
    n_heard = inputs.n_sounding(len(golden["in.waveform_int16"]), adapter.audio_sizes)
    if "fbank_first_all_padding_frame" in told:
        n_heard = inputs.n_sounding(told["fbank_first_all_padding_frame"] * HOP, adapter.audio_sizes)
    features, found = _encode(adapter.module, pixels, mel, n_heard)
    found |= _decode(adapter, features, golden, told, report, case)
    for name, want in golden.items():
        if name in found:
            tolerance = ATTENTION if "attn" in name else LOGITS if re.search("logits|hidden", name) else STAGE
            want = want.mean(1) if name == "llm.attn_last_query" else want
            own = found[name]
            own = own.reshape(want.shape) if own.numel() == want.numel() else own  # with or without a batch of one
            report.close(case, name, own, want, tolerance)
        elif not name.startswith("in."):
            report.same(case, name, "not computed", "computed")
    _compare_answers(case, adapter, features, told, report)
    if "in.fbank_rows" in golden:  # the set with the whole preprocessing
        track = golden["in.waveform_int16"].numpy() / np.float32(32768)
        clip = clip_from_arrays(golden["in.source_frames"].numpy(), told["fps"], track)
        prompt = adapter.prepare(adapter.encode(clip), clip, told["question"])
        report.same(case, "greedy ids from the clip", _generate(adapter, prompt, told["greedy_ids"])[0], told["greedy_ids"])


def _compare_inputs(case, adapter, golden: dict, told: dict, report) -> tuple[torch.Tensor, torch.Tensor]:
    """(pixels as fed, log-mel frames as fed), after comparing our own with them."""
    indices = inputs.Middles(told["num_frames"])(told["src_frames"])
    report.same(case, "frame indices", indices, told["frame_indices"])
    size = adapter.module.vision.config.image_size
    frames = golden["in.source_frames"].numpy()[told["frame_indices"]]
    own = siglip.pixel_values(np.stack([siglip.resize(frame, size) for frame in frames]))
    if "in.pixel_values" in golden:
        report.close(case, "pixel values", own, golden["in.pixel_values"], PIXELS)
    else:
        report.close(case, "pixel values, strided", own[..., ::8, ::8], golden["in.pixel_values_strided"], PIXELS)
        _compare_statistics(case, own, told["pixel_values_mean_per_frame"], told["pixel_values_std_per_frame"], report)
    pixels = golden.get("in.pixel_values", own.half()).float()

    track = golden["in.waveform_int16"]
    if "in.fbank" in golden:
        report.close(case, "log-mel frames, float32", fbank(track), golden["in.fbank_fp32"][0], MEL)
        mel = golden["in.fbank"][0]
        own = inputs.log_mel(track)
    else:
        rows = golden["in.fbank_rows"]
        mel = torch.cat([rows, rows[-1:].expand(told["fbank_shape"][1] - len(rows), -1)])
        own, n_samples = _heard(track, with_video=True)
        report.same(case, "first all-padding frame", -(-n_samples // HOP), told["fbank_first_all_padding_frame"])
    _compare_bfloat16(case, "log-mel frames", own, mel, report)
    return pixels, mel


def _encode(module, pixels: torch.Tensor, mel: torch.Tensor, n_heard: int):
    """(features, golden name -> tensor) of both encoders."""
    audio, connector = module.audio, module.connector
    stages = {
        "connector.s1": connector.s1,
        "connector.sampler": connector.sampler,
        "connector.s2": connector.s2,
        "connector.out": connector,
        "audio.patch_embedding": audio.patch_embedding,
        "audio.patch_normed": audio.layer_norm,
        "audio.encoder_input": audio.post_extract_proj,
        "audio.pos_conv": audio.encoder.pos_conv,
        "audio.encoder_normed": audio.encoder.layer_norm,
        "audio.out": audio,
        "audio.projected": module.audio_projector,
    }
    stages |= {f"audio.layer{i}": layer for i, layer in enumerate(audio.encoder.layers)}
    with _recorded(stages) as found:
        features = model.Features(module.encode_video(pixels), module.encode_audio(mel), n_heard)
    bias = audio.encoder.position_bias(len(features.audio), "cpu")
    seen = module.vision(pixels).last_hidden_state
    found |= {"vision.selected": seen, "vision.selected_strided": seen[:, ::9], "audio.posbias0": bias}
    found |= {"audio.posbias0_row0": bias[:, 0], "audio.posbias0_lastrow": bias[:, -1]}
    found["audio.projected_strided"] = features.audio[::11]
    return features, found


def _decode(adapter, features, golden: dict, told: dict, report, case: str) -> dict[str, torch.Tensor]:
    """Golden name -> tensor of the language model, fed our own features."""
    report.same(case, "prompt", [inputs.prompt(told["question"])], [told["prompt"]])
    own_ids = _prompt_ids(adapter, told["question"])
    report.same(case, "prompt ids", own_ids, told["input_ids"])
    report.same(case, "in.input_ids", [own_ids], golden["in.input_ids"].tolist())
    report.same(case, "stop ids", adapter.generate_kwargs["eos_token_id"], [told["eos_token_id"]])
    # The tokenizer's; generate was given the stop id to pad with, which a single sequence never does.
    report.same(case, "padding id of the tokenizer", adapter.tokenizer.pad_token_id, told["pad_token_id"])
    prompt = adapter.prepare(features, None, told["question"])
    runs = [[kind, sum(n for k, _, n in prompt.layout.runs() if k == kind)] for kind in ("video", "audio")]
    report.same(case, "media tokens", runs, [["video", told["n_video"]], ["audio", told["n_audio"]]])
    ends = [prompt.layout.runs()[i][2] for i in (0, -1)] + [len(prompt.layout)]
    report.same(case, "prefix, suffix and all tokens", ends, [told["n_prefix"], told["n_suffix"], told["N"]])

    llm, cache, scores = adapter.model, DynamicCache(config=adapter.model.config), []

    def score(layer, args, kwargs, output):
        scores.append(decoder.last_query_score(layer, args[0], kwargs["position_embeddings"], cache.layers[len(scores)].keys)[0])

    handles = [layer.register_forward_hook(score, with_kwargs=True) for layer in llm.model.layers]
    out = llm(inputs_embeds=prompt.embeds, **{decoder.cache_keyword(llm): cache}, output_hidden_states=True)
    for handle in handles:
        handle.remove()
    hidden = torch.cat(out.hidden_states)
    steps = _generate(adapter, prompt, told["greedy_ids"])[1]
    best = steps.topk(2).values
    report.close(case, "greedy margins", best[:, 0] - best[:, 1], torch.tensor(told["greedy_margins"]), LOGITS)
    alone = {
        "video": model.Features(features.video, None),
        "audio": model.Features(None, features.audio, features.n_sounding),
    }
    first = {
        f"gen.{stream}_only_first_logits": _generate(adapter, adapter.prepare(own, None, told["question"]), [0])[1][0]
        for stream, own in alone.items()
    }
    return first | {
        "llm.inputs_embeds": prompt.embeds,
        "llm.hidden_states": hidden,
        "llm.hidden_states_strided": hidden[:, ::23],
        "llm.hidden_states_last24": hidden[:, -24:],
        "llm.logits": out.logits[0],
        "llm.last_logits": out.logits[0, -1],
        "llm.attn_last_query": torch.stack(scores),
        "gen.step_logits": steps,
    }


def _compare_answers(case, adapter, features, told: dict, report) -> None:
    """Token ids of every mode, of stop ids and repetition penalties, of more questions."""

    def same(stage, features, question, want, **options):
        prompt = adapter.prepare(features, None, question)
        report.same(case, stage, _generate(adapter, prompt, want, **options)[0], want)

    question = told["question"]
    same("greedy ids", features, question, told["greedy_ids"])
    report.same(case, "greedy text", [adapter.decode(told["greedy_ids"])], [told["greedy_text"].strip()])
    for name, ids in told.items():
        if penalty := re.fullmatch(r"greedy_ids_repetition_penalty_(\d+)_(\d+)", name):
            factor = ".".join(penalty.groups())
            same(f"repetition penalty {factor}", features, question, ids, repetition_penalty=float(factor))
    if "greedy_ids_extra_eos" in told:
        stop = told["greedy_ids_extra_eos"]
        n_new_tokens = len(told["greedy_ids"])
        same("greedy ids, one more stop id", features, question, stop["ids"], eos_token_id=stop["eos_token_id"], n=n_new_tokens)
    same("video only", model.Features(features.video, None), question, told["video_only_greedy_ids"])
    same("audio only", model.Features(None, features.audio), question, told["audio_only_greedy_ids"])
    report.same(case, "audio only, prompt ids", _prompt_ids(adapter, question, "<audio>"), told["audio_prompt_ids"])
    for i, more in enumerate(told.get("more_questions", ())):
        report.same(case, f"question {i}, prompt ids", _prompt_ids(adapter, more["question"]), more["input_ids"])
        same(f"question {i}, greedy ids", features, more["question"], more["greedy_ids"])
        report.same(case, f"question {i}, text", [adapter.decode(more["greedy_ids"])], [more["text"].strip()])


def _generate(adapter, prompt, want: list, n: int | None = None, **options) -> tuple[list[int], torch.Tensor]:
    """(new ids, logits [n, V]) of as many tokens as are wanted, or of n."""
    out = adapter.model.generate(
        inputs_embeds=prompt.embeds,
        attention_mask=torch.ones(prompt.embeds.shape[:2], dtype=torch.long),
        max_new_tokens=n or len(want),
        do_sample=False,
        output_logits=True,
        return_dict_in_generate=True,
        **{**prompt.generate_kwargs, **options},
    )
    return out.sequences[0].tolist(), torch.cat(out.logits)


def _prompt_ids(adapter, question: str, placeholder: str = "<video>") -> list[int]:
    """With the reference's index where the features go."""
    pieces = inputs.prompt(question, placeholder).split(placeholder)
    prefix, suffix = (adapter.tokenizer(piece, add_special_tokens=False)["input_ids"] for piece in pieces)
    return [*prefix, INDEX[placeholder], *suffix]


@contextmanager
def _recorded(modules: dict):
    """Name -> output of a module, while it runs."""
    found = {}
    hooks = [m.register_forward_hook(lambda *args, name=name: found.update({name: args[-1]})) for name, m in modules.items()]
    yield found
    for hook in hooks:
        hook.remove()


# --- preprocessing


def _compare_preprocessing(folder: Path, golden: dict, told: dict, report) -> None:
    case = "preprocess"
    track = golden["fbank.waveform_int16"]
    report.close(case, "log-mel frames", fbank(track), golden["fbank.out_fp32"], MEL)
    report.close(case, "log-mel frames, normalized", normalized(fbank(track)), golden["fbank.normalized_fp32"], MEL)
    silence = fbank(torch.zeros(inputs.N_SAMPLES))
    report.close(case, "log-mel frames of silence", silence, torch.full_like(silence, told["fbank_silence_value"]), MEL)
    empty_track = told["no_audio_stream"]
    report.same(case, "silence, rounded", silence.bfloat16().unique().tolist(), [empty_track["value"]])
    report.same(case, "silence, shape", [1, *silence.shape], empty_track["shape"])
    for va in told["va_cases"]:
        name = f"va{va['index']}"
        own, _ = _heard(golden[f"{name}.waveform_int16"], with_video=True)
        _compare_bfloat16(case, f"{name}, log-mel frames", own[::8], golden[f"{name}.fbank_bf16_every_8th_frame"], report)
    _compare_bfloat16(
        case, "sound file", _of_file(golden["file.stereo_int16"]), golden["file.fbank_bf16_every_8th_frame"], report
    )
    for name in sorted({key.split(".")[0] for key in golden if key.startswith("img")}):
        _compare_picture(name, golden, told[name], report)

    table = next(key for key in golden if key.startswith("beats.rel_bucket_for_distance"))
    low, high = map(int, re.search(r"_(-?\d+)_to_(-?\d+)", table).groups())
    sizes = BeatsConfig()
    own = relative_buckets(torch.arange(low, high + 1), sizes.num_buckets, sizes.max_distance)
    report.close(case, "BEATs buckets of distances", own, golden[table], 0)
    for row in told["clip_table"]:
        n, pieces = row["samples"], [list(piece) for piece in inputs.sound_pieces(row["samples"])]
        total = sum(last - first for first, last in pieces)
        own = pieces, total, inputs.N_SAMPLES, inputs.N_MEL_FRAMES, sizes.n_tokens(inputs.N_MEL_FRAMES), -(-total // HOP)
        want = ("clips", "total_samples", "padded_to", "frames", "tokens", "first_frame_only_padding", "tokens_touching_signal")
        report.same(case, f"pieces of {n} samples", [*own, inputs.n_sounding(total, sizes)], [row[key] for key in want])
    for row in told["frame_sample"]:
        own = inputs.Middles(row["num_frames"])(row["total"])
        report.same(case, f"{row['num_frames']} of {row['total']} frames", own, row["indices"])

    tokens = published.token_estimate({}, 0)
    tokenizer = qwen2.read_tokenizer(folder / "tiny384") if (folder / "tiny384").is_dir() else None
    for i, row in enumerate(told["prompts"]):
        report.same(case, f"prompt {i}", [inputs.prompt(row["question"])], [row["prompt"]])
        own = tokens["video"], tokens["audio"], row["n_prefix"] + tokens["video"] + tokens["audio"] + row["n_suffix"]
        report.same(case, f"prompt {i}, tokens", own, (row["n_video"], row["n_audio"], row["N"]))
        if tokenizer:
            ids = _prompt_ids(SimpleNamespace(tokenizer=tokenizer), row["question"])
            report.same(case, f"prompt {i}, ids of tiny384", ids, row["tiny_input_ids"])


def _compare_picture(name: str, golden: dict, told: dict, report) -> None:
    frames, size = golden[f"{name}.frames_uint8"].numpy(), told["shape"][-1]
    own = siglip.pixel_values(np.stack([siglip.resize(frame, size) for frame in frames]))
    report.close(name, "pixel rows", own[:, :, told["rows"]], golden[f"{name}.pixel_rows_fp32"], PIXELS_EXACT)
    rows, columns = (slice(int(a), None, int(b)) for a, b in re.findall(r"(\d+)::(\d+)", told["stride"]))
    report.close(name, "pixels, strided", own[..., rows, columns], golden[f"{name}.pixel_strided_fp16"], PIXELS)
    n = len(frames)  # what follows is the reference's filling of a list of pictures; a clip's frames repeat instead
    _compare_statistics(name, own, told["mean"][:n], told["std"][:n], report)


def _compare_statistics(case, pixels: torch.Tensor, mean, std, report) -> None:
    report.close(case, "pixels, mean per frame", pixels.mean((1, 2, 3)), torch.tensor(mean), PIXELS)
    report.close(case, "pixels, deviation per frame", pixels.std((1, 2, 3)), torch.tensor(std), PIXELS)


def _compare_bfloat16(case, stage, own: torch.Tensor, want: torch.Tensor, report) -> None:
    """Same shape, and hardly a value on the other side of a rounding border."""
    report.same(case, f"{stage}, shape", list(own.shape), list(want.shape))
    if own.shape == want.shape:
        beyond = (own.float() - want.float()).abs() - torch.exp2(torch.floor(torch.log2(want.float().abs())) - 7)
        report.close(case, f"{stage}, beyond one bfloat16 step", beyond.clamp(min=0), torch.zeros(want.shape), MEL)
        report.close(case, f"{stage}, share of others", (own != want).float().mean(), 0.0, FLIPPED)


def _heard(track: torch.Tensor, with_video: bool) -> tuple[torch.Tensor, int]:
    """(log-mel frames, samples before the padding) of an int16 track."""
    frames = np.zeros((1, 2, 2, 3), np.uint8) if with_video else None
    samples, n_samples = inputs.sound(clip_from_arrays(frames, 1, track.numpy() / np.float32(32768)))
    return inputs.log_mel(samples), n_samples


def _of_file(stereo: torch.Tensor) -> torch.Tensor:
    """Every 8th log-mel frame of a 16 kHz wav file with these samples."""
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "sound.wav"
        with wave.open(str(path), "wb") as file:
            file.setparams((stereo.shape[1], 2, 16_000, 0, "NONE", ""))
            file.writeframes(stereo.numpy().astype("<i2").tobytes())
        samples, _ = inputs.sound(read_clip(path, channels=model.CHANNELS))
    return inputs.log_mel(samples)[::8]


# --- keys


def _compare_keys(patterns: dict, report) -> None:
    """Every key of the published checkpoint has a place of its shape, and every place has a key."""
    shapes = {}
    for pattern, told in patterns.items():
        for layer in range(told["layers"]) if "{i}" in pattern else [""]:
            shapes[pattern.replace("{i}", str(layer))] = tuple(told["shape"])
    module = empty(lambda: VideoLLaMA2({**published.EXPECTED, **published.EXPECTED_SIZES}))
    found = {rename(key): shape for key, shape in shapes.items() if rename(key) is not None}
    want = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
    report.same("real_keys", "keys or shapes that do not fit", sorted({*found.items()} ^ {*want.items()}), [])
