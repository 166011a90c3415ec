"""Calibration (section 2.3 of the paper): attention rollout over clips -> the plan that says which media tokens stay."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np

from fastav import __version__, rollout
from fastav.clip.clip import Clip
from fastav.errors import UserError, out_of_memory
from fastav.layout import TokenLayout
from fastav.plan import Plan, check_settings
from fastav.session import Session

QUESTION = "Describe what you see and hear."  # of clips that bring none of their own

# Which files of a folder are taken for video; whether they can be read is found out by reading them.
_SUFFIXES = set(".mp4 .m4v .mov .mkv .webm .avi .ts .mts .m2ts .mpg .mpeg .3gp .flv .wmv .ogv".split())


def calibrate(
    session: Session,
    n_clips: int,
    clips: Iterable[Path | Clip] | None = None,
    *,
    question: str = QUESTION,
    keep: float = 0.42,
    alpha: float = 0.5,
    statistic: str = "visible-column",
    progress: Callable[[str], None] = lambda text: None,
) -> Plan:
    """A plan for the session's model at its middle layer, from `n_clips` clips with both streams (section 2.3 of the paper).

    The first of `clips` (files, or decoded) that can be used are asked `question`; None: clips that the model brings, with a
    question each. What is done, and every clip that is left out, is told to `progress`.
    Raises UserError for impossible settings, when no clip can be used, and for a model that brings none.
    """
    check_settings(keep, alpha, statistic, n_clips)
    start = session.n_layers // 2
    if clips is None:
        asked = session.adapter.calibration_clips(n_clips)
    else:
        asked = ((clip if isinstance(clip, Clip) else Path(clip), question) for clip in clips)

    def sample(clip: Path | Clip, text: str) -> tuple[str, TokenLayout, np.ndarray]:
        clip = clip if isinstance(clip, Clip) else session.read(clip)
        inputs, _ = session.inputs(clip, text)
        if inputs.layout.single_stream:
            raise UserError("it has no sound" if inputs.layout.count()["video"] else "it has no picture")
        positions = {name: value for name, value in inputs.generate_kwargs.items() if name == "position_ids"}
        matrix = rollout.rollout(session.model, start, alpha, inputs_embeds=inputs.embeds, logits_to_keep=1, **positions)
        return clip.sha256, inputs.layout, rollout.influence(matrix, statistic)

    with session.lock:
        names, layouts, values = zip(*first_usable(asked, sample, n_clips, progress), strict=True)
    settings = {"keep": keep, "alpha": alpha, "statistic": statistic}
    return replace(
        plan_of(zip(layouts, values, strict=True), model=session.model_name, start=start, **settings),
        n_layers=session.n_layers,
        checkpoint=session.checkpoint,
        question="" if clips is None else question,
        clips_sha256=hashlib.sha256("\n".join(sorted(names)).encode()).hexdigest(),
        fastav_version=__version__,
    )


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


def plan_of(
    samples: Iterable[tuple[TokenLayout, np.ndarray]],
    *,
    model: str,
    start: int,
    keep: float = 0.42,
    statistic: str = "visible-column",
    alpha: float = 0.5,
) -> Plan:
    """The plan from (layout, influence [N]) of calibration clips, as `influence(rollout(...))` gives them.

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
        uniform = rollout.uniform_influence(len(layout), start, alpha, statistic)
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
