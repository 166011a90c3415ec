"""What the page shows, made from the record: headline, table, thumbnails, token map. Pure: no torch, no gradio.

Layers count from 0. Positions are original positions. The page only paints what comes from here.
"""

from __future__ import annotations

import base64
import html
import io
import json
from collections import defaultdict

import numpy as np

from fastav.methods import parse
from fastav.result import Comparison, Result

THUMBNAIL_PIXELS = 160  # longest side


def headline(comparison: Comparison) -> str:
    """One sentence computed from the record: compute, first token, answer. Says "slower" or "different" where it is so."""
    v, p = comparison.vanilla, comparison.pruned
    saved = 100 - p.flops_relative_percent
    if abs(saved) < 0.5:
        compute = "Same prefill compute"
    else:
        compute = f"{abs(saved):.0f} % {'less' if saved > 0 else 'more'} prefill compute"
    ratio = v.prefill_sec / p.prefill_sec
    if 0.95 < ratio < 1.05:
        first = "first token about as soon"
    else:
        first = f"first token {max(ratio, 1 / ratio):.1f}x {'sooner' if ratio > 1 else 'later'}"
    same = v.answer.strip() == p.answer.strip()
    return f"{compute}, {first}, {'same answer' if same else 'different answer'}."


def conditions(result: Result) -> str:
    """Under which conditions the numbers were measured."""
    if result.n_repeats == 1:
        runs = "single run: times vary, Measure gives medians"
    else:
        runs = f"median of {result.n_repeats} runs, {result.n_new_tokens} forced tokens each"
    return f"{runs}; {result.device}, {result.dtype}, {result.attn}"


def table(comparison: Comparison) -> str:
    """The rows of the record as HTML, its notes, and the record itself as a link: no file is written for it."""
    rows = "".join(
        f"<tr><th scope='row'>{html.escape(what)}</th><td>{html.escape(vanilla)}</td><td>{html.escape(pruned)}</td></tr>"
        for what, vanilla, pruned in comparison.rows()
    )
    notes = "".join(f"<li>{html.escape(note)}</li>" for note in comparison.pruned.notes)
    record = base64.b64encode(json.dumps(comparison.to_dict()).encode()).decode()
    return (
        "<table><thead><tr><th scope='col'>Measured</th><th scope='col'>vanilla</th><th scope='col'>"
        f"{html.escape(parse(comparison.pruned.method).title)}</th></tr></thead>"
        f"<tbody>{rows}</tbody></table>"
        + (f"<ul class='fa-notes'>{notes}</ul>" if notes else "")
        + "<a class='fa-download' download='fastav-record.json' "
        f"href='data:application/json;base64,{record}'>Download the record (JSON)</a>"
    )


def thumbnails(frames: np.ndarray, n: int | None = None) -> list[str]:
    """`n` of the uint8 [F, h, w, 3] frames (all when None) as small JPEG data addresses, each the middle of n equal parts."""
    from PIL import Image

    n = len(frames) if n is None else n
    pictures = []
    for i in range(n if len(frames) else 0):
        picture = Image.fromarray(frames[int((i + 0.5) * len(frames) / n)])
        picture.thumbnail((THUMBNAIL_PIXELS, THUMBNAIL_PIXELS))
        buffer = io.BytesIO()
        picture.save(buffer, "JPEG", quality=80)
        pictures.append("data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode())
    return pictures


def token_map(result: Result, frames: np.ndarray) -> dict:
    """Which tokens survived, as plain data for the canvas.

    n_tokens      of the whole prompt, those that trim left out before layer 0 included.
    lengths       [L] tokens that each layer computed on.
    kinds         kind -> [L] tokens of that kind in each layer.
    frames        one per time step: rows, cols, picture (data address or None) and seen [rows * cols], the layers that computed
                  on each of its tokens, row by row; a token is there in layer l when seen > l. Time tokens are not drawn.
    audio         seen of every audio token, in prompt order.
    frames_each   decoded frames that stand behind one frame of tokens.
    """
    seen, by_step, by_kind = result.layers_seen, defaultdict(list), defaultdict(list)
    position = 0
    for kind, step, count in result.token_runs:
        run = seen[position : position + count]
        by_kind[kind] += run
        if kind == "video":
            by_step[step] += run
        position += count
    n_layers = len(result.lengths)
    pictures = thumbnails(frames, len(by_step)) or [None] * len(by_step)
    drawn = []
    for picture, (step, tokens) in zip(pictures, sorted(by_step.items()), strict=True):
        rows, cols = result.grids[step] if result.grids else (1, len(tokens))
        drawn.append({"rows": rows, "cols": cols, "picture": picture, "seen": tokens[: rows * cols]})
    return {
        "n_tokens": len(seen),
        "lengths": list(result.lengths),
        "kinds": {
            kind: [sum(s > layer for s in by_kind[kind]) for layer in range(n_layers)]
            for kind in ("video", "audio", "text")
            if by_kind[kind]
        },
        "frames": drawn,
        "audio": by_kind["audio"],
        "frames_each": len(frames) / len(drawn) if drawn else 0,
    }
