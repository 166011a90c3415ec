"""video-SALMONN 2 against data made by running the original code: stage by stage, then the greedy ids.

A folder may hold
  model.safetensors (or shards), config.json, submodel_configs.json, tokenizer.json   a checkpoint of any size; cases need it
  index.json                   per case: question, frames that were sampled, prompt ids, counts, greedy ids; all keys with shapes
  CASE.safetensors, CASE.flac  of each case: sampled frames, tensors of the stages; its sound
                               Without any complete case the checkpoint alone is no set
  real_parameters.json         what only the published sizes show: keys, prompts, frame sampling, token counts, digests of the
                               cases at 128 mels and 384 pixels
Both sides compute in float32; 1e-4 is some twenty times what two correct implementations were seen to differ by.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import soundfile
import torch
from safetensors.torch import load_file
from torch import nn
from transformers import DynamicCache, WhisperFeatureExtractor

from fastav import decoder
from fastav.clip.clip import Clip
from fastav.layout import KINDS
from fastav.models import qwen2, siglip
from fastav.models.video_salmonn2 import inputs, order
from fastav.models.video_salmonn2.adapter import VideoSALMONN2Adapter
from fastav.models.video_salmonn2.module import LLM, VideoSALMONN2, rename
from fastav.models.video_salmonn2.published import layout_estimate
from fastav.models.weights import empty

STAGE, LOGITS = 1e-4, 1e-3

# What the tensor file of a case holds: of every case, of one with video, of one with sound, and of the one told in most detail.
ALWAYS = "inputs_embeds token_modality token_frame hidden_states logits last_query_importance".split()
SEEN = "frames_uint8 vision_features projected_full pooled_visual".split()
HEARD = "whisper_out qformer_out speech_proj final_linear speech_tokens".split()
IN_DETAIL = {"av_10s": ["pixel_values_first3", "input_features", "last_query_attention_per_head"]}


def compare(folder: Path, report) -> None:
    """Everything in `folder` that there is to compare; `report` as in tests/parity.py."""
    if any(folder.glob("*model*.safetensors")):
        with report.reading("checkpoint"):
            _compare_checkpoint(folder, json.loads((folder / "index.json").read_text()), report)
    else:
        report.missing("checkpoint")
    if (folder / "real_parameters.json").is_file():
        report.found("real_parameters")
        with report.reading("real_parameters"):
            real = json.loads((folder / "real_parameters.json").read_text())
            _compare_real_sizes(folder, real, report)
            _compare_digests(folder, real, report)
    else:
        report.missing("real_parameters")


def _compare_checkpoint(folder: Path, index: dict, report) -> None:
    complete = {name: case for name, case in index["cases"].items() if _is_complete(folder, name, case)}
    if complete:
        report.found("checkpoint")
    adapter = VideoSALMONN2Adapter(str(folder), device="cpu", dtype="float32")
    with report.reading("keys"):
        _compare_keys(adapter.module, index["state_dict"], report)
    for name, case in index["cases"].items():
        if name not in complete:
            report.missing(name)
            continue
        report.found(name)
        with report.reading(name):
            golden = load_file(folder / f"{name}.safetensors")
            _compare_case(adapter, name, case, golden, clip_of(folder, name, case), index, report)


def _is_complete(folder: Path, name: str, case: dict) -> bool:
    """The files are there; what is missing inside them is an excess."""
    return (folder / f"{name}.safetensors").is_file() and (case["modality"] == "video" or (folder / f"{name}.flac").is_file())


def _compare_case(adapter, name: str, case: dict, golden: dict, clip: Clip, index: dict, report) -> None:
    wanted = ALWAYS + SEEN * clip.has_video + HEARD * clip.has_audio + IN_DETAIL.get(name, [])
    report.same(name, "tensors that are missing", sorted(set(wanted) - set(golden)), [])
    adapter.settings = replace(adapter.settings, fps=case["video_fps"], max_time_sec=case["max_time"])
    if clip.has_video:
        report.same(name, "sampled frames", adapter.settings.sampler(clip.n_source_frames, clip.fps, 0), case["frame_idx"])
        report.close(name, "real time", clip.n_source_frames / clip.fps, case["real_time"], 1e-9)
    before, after = inputs.prompt_ids(adapter.tokenize, case["question"])
    report.same(name, "prompt ids", [*before, -200, *after], case["input_ids"])
    with _recorded(adapter.module) as seen, torch.inference_mode():
        features = adapter.encode(clip)
        prompt = adapter.prepare(features, clip, case["question"])
    _compare_encoders(name, case, golden, seen, features, report)
    _compare_layout(adapter, name, case, golden, prompt.layout, features, index["modality_codes"], report)
    if clip.has_video:
        n_visual = seen["visual_tokens"].shape[1]
        report.same(name, "visual tokens per frame", n_visual, case["visual_per_frame"])
        n_times = features.visual.shape[1] - n_visual
        report.same(name, "time tokens per frame", n_times, case.get("time_slots_per_frame", 0))
    report.close(name, "inputs_embeds", prompt.embeds[0], golden["inputs_embeds"], STAGE)
    _compare_decoder(adapter.model, name, golden, prompt, report)

    n = len(case["generated_ids"])
    out = adapter.model.generate(
        inputs_embeds=prompt.embeds,
        attention_mask=torch.ones(prompt.embeds.shape[:2], dtype=torch.long),
        do_sample=False,
        max_new_tokens=n,
        output_logits=True,
        return_dict_in_generate=True,
        **prompt.generate_kwargs,
    )
    report.same(name, "greedy ids", out.sequences[0].tolist(), case["generated_ids"])
    best = torch.stack(out.logits)[:, 0].topk(2).values
    report.close(name, "greedy margins", best[:, 0] - best[:, 1], torch.tensor(case["greedy_margins"]), LOGITS)


def _compare_encoders(name: str, case: dict, golden: dict, seen: dict, features, report) -> None:
    """Pixels and vision of the first frames, the Whisper positions that were kept, the Q-Former and what follows it."""
    if "pixel_values" in seen:
        _compare_digest(name, "pixels", seen["pixel_values"], case["pixel_values_stats"], report)
        if "pixel_values_first3" in golden:
            report.close(name, "pixels, whole", seen["pixel_values"][:3], golden["pixel_values_first3"], STAGE)
        for stage, key in (("vision_features", "vision_features"), ("projected", "projected_full")):
            report.close(name, stage, seen[stage][: len(golden[key])], golden[key], STAGE)
        frames, pooled = seen["visual_tokens"], golden["pooled_visual"]
        side = round(pooled.shape[1] ** 0.5)
        rows = frames.view(len(frames), side, side + 1, -1)
        report.close(name, "pooled visual", rows[:, :, :-1].flatten(1, 2), pooled, STAGE)
    if "input_features" in seen:
        _compare_digest(name, "log-mels", seen["input_features"], case["input_features_stats"], report)
        if "input_features" in golden:
            report.close(name, "log-mels, whole", seen["input_features"], golden["input_features"], STAGE)
        whisper, kept = seen["whisper_out"], golden["whisper_out"]
        report.close(name, "whisper", whisper[:, :: whisper.shape[1] // kept.shape[1]], kept, STAGE)
        for stage in ("qformer_out", "speech_proj", "final_linear"):
            report.close(name, stage, seen[stage], golden[stage], STAGE)
        report.close(name, "speech tokens, with position", features.audio, golden["speech_tokens"], STAGE)


def _compare_layout(adapter, name: str, case: dict, golden: dict, layout, features, codes: dict, report) -> None:
    for key, kind in (("prefix_text", layout.kind[: case["prefix_text"]]), ("suffix_text", layout.kind[-case["suffix_text"] :])):
        report.same(name, key, (kind == 0).sum().item(), case[key])
    report.same(name, "prompt tokens", len(layout), case["n_tokens"])
    report.same(name, "media tokens", int(layout.media.sum()), case["media_tokens"])
    kinds = {int(code): _kind(text) for code, text in codes.items()}
    want = np.array([KINDS.index(kinds[code]) for code in golden["token_modality"].tolist()])
    report.same(name, "kind of every token", (layout.kind == want).all().item(), True)
    frame, n_frames = golden["token_frame"].numpy(), len(features.visual)
    after_last = (layout.kind == KINDS.index("audio")) & (frame < 0) & (n_frames > 0)  # the golden counts the tail to no frame
    report.same(name, "frame of every token", (layout.step == np.where(after_last, n_frames - 1, frame)).all().item(), True)
    if "audio_tokens_raw" in case:
        report.same(name, "audio tokens", len(features.audio), case["audio_tokens_raw"])
    if "nearest_source_index" in case:
        groups, tail = order.align(len(features.audio), n_frames, features.real_time_sec)
        n_front = len(features.audio) - len(tail)
        report.same(name, "audio tokens before the tail", n_front, case["audio_tokens_front"])
        report.same(name, "audio tokens after alignment", groups.numel(), case["audio_tokens_after_nearest"])
        report.same(name, "audio tokens per frame", list(groups.shape), [n_frames, case["audio_per_frame"]])
        report.same(name, "audio tokens of the tail", len(tail), case["tail_audio"])
        report.same(name, "alignment", groups.flatten().tolist() == case["nearest_source_index"], True)
    if "time_strings" in case:
        texts = inputs.time_texts(n_frames, features.real_time_sec)
        report.same(name, "time texts", texts, case["time_strings"])
        report.same(name, "time ids", [adapter.tokenize(text) for text in texts], case["time_token_ids"])


def _kind(text: str) -> str:
    return text if text == "text" else "audio" if text.startswith("audio") else "video"


def _compare_decoder(llm, name: str, golden: dict, prompt, report) -> None:
    """One unpruned forward: hidden states, logits, and the engine's own last-query score of every layer."""
    scores, heads, cache = [], [], DynamicCache(config=llm.config)

    def score(layer, args, kwargs, output):
        entered, rotary = args[0] if args else kwargs["hidden_states"], kwargs["position_embeddings"]
        keys = cache.layers[len(scores)].keys
        scores.append(decoder.last_query_score(layer, entered, rotary, keys)[0])
        query = decoder.rotated_query(layer, entered[:, -1:], tuple(t[..., -1:, :] for t in rotary))  # [1, H, 1, E]
        keys = keys.repeat_interleave(query.shape[1] // keys.shape[1], 1)
        heads.append((query @ keys.transpose(-1, -2) * layer.self_attn.scaling).softmax(-1)[0, :, 0])

    handles = [layer.register_forward_hook(score, with_kwargs=True) for layer in llm.model.layers]
    try:
        with torch.inference_mode():
            out = llm(inputs_embeds=prompt.embeds, **{decoder.cache_keyword(llm): cache}, output_hidden_states=True)
    finally:
        for handle in handles:
            handle.remove()
    hidden = torch.stack(out.hidden_states)[:, 0]
    report.close(name, "hidden states", hidden[:, -golden["hidden_states"].shape[1] :], golden["hidden_states"], STAGE)
    report.close(name, "logits", out.logits[0, -len(golden["logits"]) :], golden["logits"], LOGITS)
    report.close(name, "last-query score", torch.stack(scores), golden["last_query_importance"], STAGE)
    if "last_query_attention_per_head" in golden:
        report.close(name, "last-query score per head", torch.stack(heads), golden["last_query_attention_per_head"], STAGE)


@contextmanager
def _recorded(module) -> Iterator[dict[str, torch.Tensor]]:
    """What goes into and comes out of the parts of a VideoSALMONN2, all chunks together, once the block is left."""
    vision, speech = module.vision, module.speech
    parts = {
        "vision_features": vision.tower.encoder,
        "projected": vision.projector,
        "visual_tokens": vision,
        "whisper_out": speech.encoder,
        "qformer_out": speech.qformer,
        "speech_proj": speech.project,
        "final_linear": speech.final,
    }
    chunks: dict[str, list] = {}

    def keep(name: str, value) -> None:
        chunks.setdefault(name, []).append(value if isinstance(value, torch.Tensor) else value.last_hidden_state)

    handles = [part.register_forward_hook(lambda m, args, out, name=name: keep(name, out)) for name, part in parts.items()]
    handles.append(vision.register_forward_pre_hook(lambda m, args: keep("pixel_values", args[0])))
    handles.append(speech.register_forward_pre_hook(lambda m, args: keep("input_features", args[0])))
    seen: dict[str, torch.Tensor] = {}
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()
        seen.update({name: torch.cat(values) for name, values in chunks.items()})


def _compare_keys(module: nn.Module, shapes: dict[str, list[int]], report) -> None:
    """Every key of a checkpoint has its place in the module, of that shape, and the module wants no other."""
    expected = {name: list(tensor.shape) for name, tensor in module.state_dict().items()}
    names = {key: rename(key, module.vision.tower.config.num_hidden_layers) for key in shapes}
    found = {names[key]: list(shape) for key, shape in shapes.items() if names[key] is not None}
    unused = [key for key in shapes if key.endswith("embeddings.position_ids") or ".post_layernorm." in key]
    report.same("keys", "ignored", [key for key in shapes if names[key] is None], unused)
    different = sorted(name for name in found.keys() | expected.keys() if found.get(name) != expected.get(name))
    report.same("keys", "not of the module, or otherwise", different, [])


def _compare_real_sizes(folder: Path, real: dict, report) -> None:
    """Keys, prompts, times as text, frame sampling and token counts at the published sizes."""
    shapes = {}
    for pattern, entry in real["real_state_dict_patterns"].items():
        first, last = entry.get("layers", (0, 0))
        shapes |= {pattern.replace("{i}", str(i)): entry["shape"] for i in range(first, last + 1)}
    report.same("real sizes", "tensors", len(shapes), real["real_num_tensors"])
    report.same("real sizes", "elements", sum(map(math.prod, shapes.values())), real["real_num_elements"])
    _compare_keys(empty(lambda: VideoSALMONN2(LLM, {}, inputs.Settings())), shapes, report)
    for prompt in real["prompts"]:
        ids, n_before = prompt["input_ids"], prompt["prefix_len"]
        table = {  # all that is known here of the published vocabulary
            "\n": [198],
            "<|im_start|>system": [151644, 8948],
            inputs.SYSTEM: [2610, 525, 264, 10950, 17847, 13],
            "<|im_end|>": [151645],
            "<|im_start|>user": [151644, 872],
            "<|im_start|>assistant": [151644, 77091],
            f"\n{prompt['question']}": ids[n_before + 2 : -5],
        }
        before, after = inputs.prompt_ids(table.__getitem__, prompt["question"])
        report.same("real prompt", prompt["question"], [*before, -200, *after], ids)
        report.same("real prompt", "tokens before and after", [len(before), len(after)], [n_before, prompt["suffix_len"]])
    # The ids are of the published vocabulary, which is not known here. What any vocabulary shows: the text of a time, and that
    # Qwen2's tokenizer gives every digit and the point a token of its own.
    tokenizer = qwen2.read_tokenizer(folder) if (folder / "tokenizer.json").is_file() else None
    for text, ids in real["time_string_ids"].items():
        report.same("time texts", text, inputs.time_texts(1, float(text)), [text])
        if tokenizer:
            n_tokens = len(tokenizer(text, add_special_tokens=False)["input_ids"])
            report.same("time texts", f"{text}, tokens", n_tokens, len(ids))
    for row in real["frame_sampling"]:
        settings = inputs.Settings(fps=row["video_fps"], max_time_sec=row["max_time"])
        n, fps = row["total_frames"], row["source_fps"]
        indices = settings.sampler(n, fps, n / fps)
        if "error" in row:  # the original refuses the clip after sampling
            report.same("frame sampling", f"{n} at {fps}", len(indices), 1)
        elif "timestamps" not in row:
            report.same("frame sampling", f"{n} at {fps}", indices, row["frame_idx"])
    for row in real["token_counts_real_geometry"]["rows"]:
        layout = layout_estimate({}, row["duration_s"], row["text_prefix"], row["text_suffix"])
        n_frames, kept = int(layout.step.max()) + 1, np.flatnonzero(layout.rule_keep)
        got = {
            "frames": n_frames,
            "visual_per_frame": layout.count()["video"] // n_frames,
            "N": len(layout),
            "audio": layout.count()["audio"],
            "first_4_frames_media": len(kept) if n_frames >= 4 else None,
            "end_position_of_frame_4": int(kept[-1]) + 1 if n_frames >= 4 else None,
        }
        want = {**row, "audio": row["frames"] * row["audio_per_frame"] + row["tail_audio"]}
        report.same("token counts", f"{row['duration_s']} s", got, {key: want[key] for key in got})


def _compare_digests(folder: Path, real: dict, report) -> None:
    """Log-mels and pixels of the cases at the published sizes; the sizes are those of the digests."""
    cases = _json(folder / "index.json").get("cases", {})
    for name, digest in real["log_mel_real"].items():
        if name in cases and (folder / f"{name}.flac").is_file():
            case = cases[name]
            seconds = case["max_time"] if case["modality"] == "audio" else case["real_time"]
            sound = _sound(folder / f"{name}.flac")[: round(16_000 * seconds)]
            mels = inputs.log_mels(sound, WhisperFeatureExtractor(feature_size=digest["shape"][1]))
            _compare_digest(name, "log-mels at real size", mels, digest, report)
            report.close(name, "mean of each mel", mels[0].mean(1), torch.tensor(digest["per_mel_mean_segment0"]), STAGE)
    for name, digest in real["siglip_384_real"].items():
        if (folder / f"{name}.safetensors").is_file():
            frames = load_file(folder / f"{name}.safetensors")["frames_uint8"][: digest["first_frames"]].numpy()
            pixels = siglip.pixel_values(np.stack([siglip.resize(frame, digest["shape"][-1]) for frame in frames]))
            _compare_digest(name, "pixels at real size", pixels, digest, report)


def _compare_digest(name: str, stage: str, got: torch.Tensor, digest: dict, report) -> None:
    report.same(name, f"{stage}, shape", list(got.shape), digest["shape"])
    sampled = got.flatten()[digest["sample_flat_index"]]
    report.close(name, f"{stage}, samples", sampled, torch.tensor(digest["sample_value"]), STAGE)
    got = got.double()
    moments = [got.mean(), got.std(correction=0), got.min(), got.max()]
    want = [digest[key] for key in ("mean", "std", "min", "max")]
    report.close(name, f"{stage}, moments", torch.stack(moments), torch.tensor(want), STAGE)


def clip_of(folder: Path, name: str, case: dict) -> Clip:
    """The case as read_clip would give it: frames sampled, the sound whole."""
    has_video, has_audio = case["modality"] != "audio", case["modality"] != "video"
    frames, audio = np.zeros((0, 0, 0, 3), np.uint8), np.zeros(0, np.float32)
    if has_video:
        frames = load_file(folder / f"{name}.safetensors")["frames_uint8"].numpy()
    if has_audio:
        audio = _sound(folder / f"{name}.flac")
    return Clip(
        name=name,
        frames=frames,
        frame_times_sec=np.zeros(len(frames)),
        audio=audio,
        audio_rate=16_000,
        duration_sec=case["real_time"],
        has_video=has_video,
        has_audio=has_audio,
        sha256=name,
        n_source_frames=case.get("total_frames", 0),
        fps=case.get("source_fps", 0.0),
        sampler=inputs.PerSecond(case["video_fps"], case["max_time"]),
    )


def _sound(path: Path) -> np.ndarray:
    """float32 [S], the first channel."""
    return soundfile.read(path, dtype="float32", always_2d=True)[0][:, 0]


def _json(path: Path) -> dict:
    return json.loads(path.read_text()) if path.is_file() else {}
