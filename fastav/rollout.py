"""Attention rollout (eq. 2-3 of the paper) and calibration: which media positions still matter at the middle layer.

A_l [N, N] is layer l's attention averaged over heads, A'_l = alpha A_l + (1 - alpha) I, and R_l = A'_l A'_{l-1} ...
A'_0, so R_l[i, j] is how much of what token i holds after layer l came from input j. Every row of R sums to 1.

Read with care: causal attention alone, uniform and without any model, also gathers R on the first positions.
`uniform_influence` gives that curve, and no figure should be shown without it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import torch
from torch import nn
from transformers import DynamicCache

from fastav.decoder import cache_keyword, decoder_layers, rotated_query
from fastav.errors import UserError, out_of_memory
from fastav.layout import TokenLayout
from fastav.plan import STATISTICS, Plan, check_settings

QUESTION = "Describe what you see and hear."  # of clips that bring none of their own

# Which files of a folder are taken for video; whether they can be read is found out by reading them.
_SUFFIXES = set(".mp4 .m4v .mov .mkv .webm .avi .ts .mts .m2ts .mpg .mpeg .3gp .flv .wmv .ogv".split())


@torch.inference_mode()
def rollout(model: nn.Module, n_layers: int, alpha: float = 0.5, **inputs) -> torch.Tensor:
    """R after the first `n_layers` layers, float32 [N, N], of one forward of `model(**inputs)` with batch size 1.

    Streaming: heads are averaged one at a time and layers multiplied as they run, so two N x N matrices are the peak and
    the model may run under any attention kernel.
    """
    state: dict[str, torch.Tensor] = {}
    cache = DynamicCache(config=model.config)

    def after(index):
        def hook(layer, args, kwargs, output):
            keys = cache.layers[index].keys[0]
            hidden = (args[0] if args else kwargs["hidden_states"]).to(keys.device)
            queries = rotated_query(layer, hidden, kwargs["position_embeddings"])[0]
            previous = state.get("rollout")
            attention = mean_attention(queries, keys, layer.self_attn.scaling)
            state["rollout"] = step(None if previous is None else previous.to(keys.device), attention, alpha)

        return hook

    layers = decoder_layers(model)
    handles = [layers[i].register_forward_hook(after(i), with_kwargs=True) for i in range(n_layers)]
    try:
        model(**inputs, **{cache_keyword(model): cache}, use_cache=True)
    finally:
        for handle in handles:
            handle.remove()
    return state["rollout"]


def mean_attention(queries: torch.Tensor, keys: torch.Tensor, scaling: float) -> torch.Tensor:
    """Causal attention averaged over heads, float32 [N, N], from queries [H, N, E] and keys [G, N, E]; one head at a time."""
    heads, n, _ = queries.shape
    future = torch.ones(n, n, dtype=torch.bool, device=queries.device).triu_(1)
    mean = torch.zeros(n, n, device=queries.device)
    for head in range(heads):
        key = keys[head * len(keys) // heads]
        logits = queries[head].float() @ key.float().T * scaling
        mean += logits.masked_fill_(future, -torch.inf).softmax(-1)
    return mean.div_(heads)


def step(previous: torch.Tensor | None, attention: torch.Tensor, alpha: float) -> torch.Tensor:
    """R_l from R_{l-1} [N, N] (None before the first layer) and A_l [N, N]."""
    if previous is None:
        mixed = attention * alpha
        mixed.diagonal().add_(1 - alpha)
        return mixed
    return torch.addmm(previous, attention, previous, beta=1 - alpha, alpha=alpha)


def influence(matrix: torch.Tensor, statistic: str = "visible-column") -> np.ndarray:
    """float32 [N], one value per input position, from R [N, N].

    visible-column: mean over the rows that can see the column, so that late positions are not low merely for being late;
    column: mean over all rows; last-row: what the last token holds. Raises UserError for another name.
    """
    rows, divisor = _weights(len(matrix), statistic)
    return (torch.from_numpy(rows).to(matrix) @ matrix).float().cpu().numpy() / divisor.astype(np.float32)


def uniform_influence(n: int, n_layers: int, alpha: float = 0.5, statistic: str = "visible-column") -> np.ndarray:
    """float64 [n]: `influence` of a decoder whose every row attends equally to all it can see; needs no model.

    Every statistic is a row vector times R, so layer after layer passes it down and no matrix is needed. Errors as `influence`.
    """
    rows, divisor = _weights(n, statistic)
    for _ in range(n_layers):
        seen = np.cumsum((rows / np.arange(1, n + 1))[::-1])[::-1]  # row i gives 1 / (i + 1) of itself to each j <= i
        rows = alpha * seen + (1 - alpha) * rows
    return rows / divisor


def _weights(n: int, statistic: str) -> tuple[np.ndarray, np.ndarray]:
    """float64 [n] weights of R's rows, and what each column of their sum is divided by."""
    if statistic == "visible-column":
        return np.ones(n), np.arange(n, 0, -1.0)
    if statistic == "column":
        return np.ones(n), np.full(n, float(n))
    if statistic == "last-row":
        return (np.arange(n) == n - 1).astype(float), np.ones(n)
    raise UserError(f"unknown statistic {statistic!r}; allowed: {', '.join(STATISTICS)}")


def video_files(folder: str | Path, n: int) -> list[Path]:
    """The video files in `folder` and the folders below it, by their suffix; hidden ones are left out.

    `n` or fewer are sorted by path. More are in an order drawn from that by a fixed seed, so that the first n are a sample.
    Raises UserError for what is no folder, or one without video.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder; give one that holds video files (how many of them to use is -n)")
    inside = sorted(path.relative_to(folder) for path in folder.rglob("*") if path.suffix.lower() in _SUFFIXES)
    files = [folder / path for path in inside if not any(part.startswith(".") for part in path.parts)]
    if not files:
        raise UserError(f"{folder} holds no video file; looked for {', '.join(sorted(_SUFFIXES))}")
    return files if len(files) <= n else [files[i] for i in np.random.default_rng(0).permutation(len(files))]


def first_usable(clips: Iterable[tuple], sample: Callable, n: int, progress: Callable[[str], None]) -> list:
    """What sample(clip, question) gives for the first `n` (clip, question) that it can be made of, each told to `progress`.

    A clip that raises UserError, or needs more memory than there is, is left out. Raises UserError when no clip is left.
    """
    found, left_out = [], []
    for clip, question in clips:
        try:
            found.append(sample(clip, question))
            progress(f"clip {len(found)} of {n}")
        except Exception as error:
            if not isinstance(error, UserError) and not out_of_memory(error):
                raise
            reason = str(error) if isinstance(error, UserError) else "there is not enough memory for it"
            where = clip if isinstance(clip, Path) else clip.name
            left_out.append(f"{where}: {reason.removeprefix(f'{clip.name}: ')}")
            progress(f"left out: {left_out[-1]}")
        if len(found) == n:
            return found
    if not found:
        raise UserError(f"none of {len(left_out)} clips can be used to calibrate; the first is {''.join(left_out[:1])}")
    progress(f"{len(found)} clips can be used, fewer than the {n} asked for")
    return found


def calibrate(
    samples: Iterable[tuple[TokenLayout, np.ndarray]],
    *,
    model: str,
    start: int,
    keep: float = 0.42,
    statistic: str = "visible-column",
    alpha: float = 0.5,
) -> Plan:
    """A plan from (layout, influence [N]) of calibration clips, as `influence(rollout(...))` gives them.

    The curve is the mean per media offset; the threshold lets the fraction `keep` of all media tokens of these clips pass.
    Raises UserError without samples, for values that are not finite and as `check_settings` does.
    """
    check_settings(keep, alpha, statistic)
    total, count = np.zeros(0), np.zeros(0)
    uniform_total, offsets, n_clips = np.zeros(0), [], 0
    for layout, values in samples:
        where = layout.media_offset
        media = where >= 0
        if not np.isfinite(values).all():
            raise UserError("the model's attention to a clip is not finite; give --dtype bfloat16 or float32")
        grown = max(len(total), int(where.max()) + 1)
        total, count, uniform_total = (np.pad(a, (0, grown - len(a))) for a in (total, count, uniform_total))
        uniform = uniform_influence(len(layout), start, alpha, statistic)
        np.add.at(total, where[media], values[media])
        np.add.at(uniform_total, where[media], uniform[media])
        np.add.at(count, where[media], 1)
        offsets.append(where[media])
        n_clips += 1
    if not n_clips:
        raise UserError("calibration needs at least one clip with audio or video")
    curve, uniform = (a / np.maximum(count, 1) for a in (total, uniform_total))
    curve = curve.astype(np.float32)
    values = np.sort(curve[np.concatenate(offsets)])[::-1]
    threshold = float(values[max(round(keep * len(values)), 1) - 1])
    return Plan(
        model=model,
        start=start,
        statistic=statistic,
        alpha=alpha,
        n_clips=n_clips,
        keep=keep,
        threshold=threshold,
        curve=tuple(float(v) for v in curve),
        uniform=tuple(float(v) for v in uniform),
    )
