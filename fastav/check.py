"""A report about one checkpoint, to paste into an issue: `python -m fastav check --model M --checkpoint P`.

It compares the folder with what the adapter was written from, since published files may say otherwise, and then answers one
bundled clip by vanilla and FastAV. Every line begins with ok, differs or info.
"""

from __future__ import annotations

import json
import platform
import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import torch

from fastav import models, session
from fastav.assets import ASSETS
from fastav.errors import UserError
from fastav.models.adapter import Published
from fastav.models.estimate import estimate
from fastav.models.qwen2 import read_generation_config
from fastav.models.weights import Weights, describes, locate, read_json
from fastav.session import Session

CLIP = ASSETS / "examples" / "dog_car.mp4"
QUESTION = "Is the dog making sound in the audio? Answer yes or no."


@dataclass(frozen=True)
class Line:
    """One line of the report; `passed` is None for what is told and not judged."""

    name: str
    text: str
    passed: bool | None = None

    def __str__(self) -> str:
        word = {True: "ok", False: "differs", None: "info"}[self.passed]
        return f"{word:<8}{self.name:<36}{self.text}"


def check(name: str, checkpoint: str | None = None, *, clip: Path = CLIP, **options) -> Iterator[Line]:
    """The lines of the report, as they become known; `options` as in models.load_model.

    What stops one part is a line of it, and the others go on. Raises UserError for an unknown model or a folder that is none.
    """
    published = models.adapter_class(name).published
    found = [f"{package} {version(package)}" for package in ("torch", "transformers")]
    yield Line("versions", ", ".join([*found, f"python {platform.python_version()}"]))
    if published is None:
        yield Line("weights", f"{name} is built in: nothing to compare with a published checkpoint")
        yield from _run(name, checkpoint, clip, options)
        return
    folder = locate(checkpoint, published.hub_id, options.get("revision"))
    config, weights = read_json(folder, "config.json"), Weights(folder)
    yield Line("files", f"{len(weights.files)} with {len(weights.shapes)} tensors, {_dtypes(weights)}")
    yield from _keys(published, weights)
    yield from _attempted("facts", lambda: _facts(published, folder, weights, config))
    given = {k: options.get(k) for k in ("revision", "device", "dtype", "device_map")}
    yield from _attempted("estimate", lambda: iter([Line("estimate", str(estimate(name, checkpoint, **given)))]))
    yield from _run(name, checkpoint, clip, options)


def _attempted(part: str, lines: Callable[[], Iterator[Line]]) -> Iterator[Line]:
    """The lines of one part; what stops it becomes its last line."""
    try:
        yield from lines()
    except UserError as error:
        yield Line(part, str(error), False)


def _facts(published: Published, folder: Path, weights: Weights, config: dict) -> Iterator[Line]:
    with describes(folder, "this model"):
        facts = published.facts(weights, config, read_generation_config(folder))
    for fact in facts:
        expected = f" (expected {fact.expected})" if fact.ok is not True and fact.expected else ""
        yield Line(fact.name, fact.found + expected, fact.ok)


def _dtypes(weights: Weights) -> str:
    counts = Counter(str(dtype).removeprefix("torch.") for dtype in weights.dtypes.values())
    return ", ".join(f"{n} {dtype}" for dtype, n in counts.most_common())


def _keys(published: Published, weights: Weights) -> Iterator[Line]:
    """Keys against the table of the published model; shapes and counts too where the width is the published one.

    Keys that the adapter does not need are not counted.
    """
    if published.keys is None:
        yield Line("keys", "there is no table for this model; loading compares them with transformers' own")
        return
    table, rename = json.loads(published.keys.read_text()), published.rename
    needed = {pattern for pattern in table if _copies(pattern, table[pattern]["n"], rename) == table[pattern]["n"]}
    found = Counter(_pattern(key) for key in weights.shapes)
    missing, unknown = sorted(needed - set(found)), sorted(set(found) - set(table))
    yield Line("keys that the table lacks", ", ".join(unknown) or "none", not unknown)
    yield Line("keys that the checkpoint lacks", ", ".join(missing) or "none", not missing)
    width = "model.norm.weight"
    if list(weights.shapes.get(width, ())) != table[width]["shape"]:
        yield Line("shapes", f"width {weights.shapes.get(width)} is not the published {table[width]['shape']}: not compared")
        return
    wrong = [
        f"{key} {list(shape)}, expected {table[_pattern(key)]['shape']}"
        for key, shape in weights.shapes.items()
        if _pattern(key) in table and list(shape) != table[_pattern(key)]["shape"]
    ]
    counts = [f"{k} {found[k]} times, expected {table[k]['n']}" for k in sorted(needed & set(found)) if found[k] != table[k]["n"]]
    yield Line("shapes", "; ".join(wrong) or "all as in the table", not wrong)
    yield Line("numbers of layers", "; ".join(counts) or "all as in the table", not counts)


def _copies(pattern: str, n: int, rename: Callable[[str], str | None]) -> int:
    """How many of the n layers' tensors of a pattern the model uses."""
    return sum(rename(pattern.replace("{i}", str(i))) is not None for i in range(n))


def _pattern(key: str) -> str:
    return re.sub(r"\b(layers?)\.\d+\.", r"\1.{i}.", key)


def _run(name: str, checkpoint: str | None, clip: Path, options: dict) -> Iterator[Line]:
    """Load, look at one prompt's logits, answer twice."""
    try:
        loaded = session.load(name, checkpoint, **options)
        ignored = loaded.adapter.ignored
        yield Line("loading", f"every key used, {len(ignored)} ignored on purpose" + _patterns(ignored), True)
        decoded = loaded.read(clip)
        yield _finite(loaded, decoded)
        comparison = loaded.compare(decoded, QUESTION)
    except UserError as error:
        yield Line("run", str(error), False)
        return
    vanilla, pruned = comparison.vanilla, comparison.pruned
    yield Line("clip", f"{vanilla.clip_name}, {vanilla.clip_duration_sec:.1f} s, tokens {vanilla.tokens_before}")
    for result in (vanilla, pruned):
        cost = f"prefill {result.prefill_sec:.3f} s, KV cache {result.kv_bytes / 1e6:.2f} MB"
        yield Line(result.method.partition(":")[0], f"{result.answer!r}, {cost}")
    formula = f"{pruned.flops_paper_relative_percent:.1f} by the paper's formula"
    yield Line("FLOPs, vanilla = 100", f"{pruned.flops_relative_percent:.1f}, {formula}; {pruned.method}")


def _patterns(keys: list[str]) -> str:
    patterns = sorted({_pattern(key) for key in keys})
    return f": {', '.join(patterns)}" if patterns else ""


@torch.inference_mode()
def _finite(loaded: Session, clip) -> Line:
    """Whether the last logits of the bundled clip's prompt are finite in this dtype and attention."""
    inputs, _ = loaded.inputs(clip, QUESTION)
    extra = {k: v for k, v in inputs.generate_kwargs.items() if k == "position_ids"}
    logits = loaded.model(inputs_embeds=inputs.embeds, logits_to_keep=1, **extra).logits
    bad = int((~logits.isfinite()).sum())
    text = f"largest {logits.abs().max().item():.3g}, all finite" if not bad else f"{bad} of {logits.numel()} are NaN or infinite"
    return Line("logits", text, not bad)
