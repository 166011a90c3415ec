"""Render clips of the tiny world with questions: `python -m fastav.tiny.render DIR --questions 600`.

Writes DIR/videos/<id>.mp4 (H.264 and AAC), DIR/QA.json (AVHBench's schema and task names) and DIR/tiny_world.json (the
other families). `--questions` counts those of each family.
A record also says whether its clip is `cluttered`, whether training used its `wording` (seen or unseen), and which `fact`
it asks about: with `--paired` each is asked once in a seen and once in an unseen wording.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import multiprocessing
import signal
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np

from fastav import interrupt
from fastav.assets import ASSETS
from fastav.clip.write import write_clip
from fastav.errors import UserError
from fastav.tiny.asking import FAMILIES, FOUR_OPTIONS, Asked, Questioner
from fastav.tiny.scenes import Scene, scene

AVHBENCH = {
    "visible": "Audio-driven Video Hallucination",
    "heard": "Video-driven Audio Hallucination",
    "matching": "AV Matching",
    "caption": "AV Captioning",
}
TINY_WORLD = {
    "count": "Counting",
    "color": "Color",
    "place": "Location",
    "first": "First sound",
    "end": "Sound at the end",
    "more": "More or fewer",
    "loudest": "Loudest",
    "sounding": "Only one sounding",
    "louder": "Louder",
    "longer": "Longer",
    "heard_count": "Heard counting",
    "first_place": "Location of sound",
    "loudest_place": "Location of sound",
    FOUR_OPTIONS: "Four options",
}
FILES = {"QA": AVHBENCH, "tiny_world": TINY_WORLD}
LONG_SEC, FPS, FPS_OF_LONG = 12.0, 4, 2
WEIGHTS = ASSETS / "tiny" / "model.safetensors"


def build(
    seed: int, split: str, n: int, paired: bool = False, families: tuple[str, ...] = FAMILIES
) -> list[tuple[int, Scene, list[Asked]]]:
    """(index, scene, what is asked of it): scenes in order until `n` questions of each family are asked; those that nothing
    is asked of are left out.
    """
    ask, out, index = Questioner(seed, n, paired, families), [], 0
    while not ask.done:
        each = scene(seed, index, split)
        if asked := ask.ask(each):
            out.append((index, each, asked))
        index += 1
    return out


def write(
    folder: Path,
    chosen: list[tuple[int, Scene, list[Asked]]],
    *,
    blank: Iterable[str] = (),
    workers: int = 2,
    progress: Callable[[str], None] = lambda text: None,
) -> None:
    """Render them into `folder` (see the module); `blank`: streams to empty."""
    (folder / "videos").mkdir(parents=True, exist_ok=True)
    jobs = [(each, folder / "videos" / f"{index:05}.mp4", tuple(blank)) for index, each, _ in chosen]
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # which the workers inherit: on Ctrl-C this process ends them
    pool = multiprocessing.get_context("spawn").Pool(workers)
    signal.signal(signal.SIGINT, before)
    with pool:
        for i, _ in enumerate(pool.imap(_render, jobs, chunksize=4), 1):
            if i % 50 == 0 or i == len(jobs):
                progress(f"rendered {i} of {len(jobs)} clips")
    write_annotations(folder, chosen)


def write_annotations(folder: Path, chosen: list[tuple[int, Scene, list[Asked]]]) -> None:
    """QA.json and tiny_world.json, each if it has questions."""
    for name, tasks in FILES.items():
        rows = [
            {
                "video_id": f"{index:05}",
                "task": tasks[asked.family],
                "text": asked.text,
                "label": asked.answer.capitalize() if asked.answer in ("yes", "no") else asked.answer,
                "cluttered": each.cluttered,
                "wording": asked.wording,
                "fact": asked.fact,
            }
            for index, each, questions in chosen
            for asked in questions
            if asked.family in tasks
        ]
        if rows:
            (folder / f"{name}.json").write_text(json.dumps(rows, indent=1) + "\n")


def _render(job) -> None:
    each, path, blank = job
    fps = FPS if each.seconds <= LONG_SEC else FPS_OF_LONG
    frames, audio = each.frames(round(each.seconds * fps)).repeat(2, 1).repeat(2, 2), each.audio()
    write_clip(path, frames * ("video" not in blank), fps, audio * ("audio" not in blank))


def weights_seed(weights: Path = WEIGHTS) -> int:
    """The test split's seed, which nobody can choose: the first 8 hex digits of the sha256 of the shipped weights."""
    if not weights.is_file():
        raise UserError(f"{weights} is missing, and the test split's seed comes from it; give --seed")
    return int(hashlib.sha256(weights.read_bytes()).hexdigest()[:8], 16)


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m fastav.tiny.render", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, metavar="DIR", help="where to write")
    parser.add_argument(
        "--split", choices=("train", "test"), default="test", help="test has only unseen combinations (default: test)"
    )
    parser.add_argument("--questions", type=int, default=600, metavar="N", help="questions of each family (default: 600)")
    parser.add_argument(
        "--family",
        action="append",
        choices=FAMILIES,
        metavar="NAME",
        help=f"only this family: {', '.join(FAMILIES)}; may be repeated",
    )
    parser.add_argument("--paired", action="store_true", help="ask about each fact in a seen and in an unseen wording")
    parser.add_argument("--seed", type=int, metavar="N", help="default: first 8 hex digits of the shipped weights' sha256")
    parser.add_argument("--clips", type=int, metavar="N", help="render a random sample of N of the set's clips (default: all)")
    parser.add_argument(
        "--blank",
        action="append",
        choices=("video", "audio"),
        default=[],
        help="black frames or silence, with the same questions",
    )
    parser.add_argument("--workers", type=int, default=2, metavar="N", help="processes (default: 2)")
    options = parser.parse_args()
    try:
        for name in ("questions", "clips", "workers"):
            if (given := getattr(options, name)) is not None and given < 1:
                raise UserError(f"--{name} must be at least 1, got {given}")
        if any((options.folder / f"{name}.json").exists() for name in FILES):
            raise UserError(f"{options.folder} already holds a rendered set; give a new folder")
        seed = weights_seed() if options.seed is None else options.seed
        families = tuple(dict.fromkeys(options.family or FAMILIES))
        chosen = build(seed, options.split, options.questions, options.paired, families)
        if options.clips is not None and options.clips < len(chosen):
            picked = np.random.default_rng((seed, 3)).choice(len(chosen), options.clips, replace=False)
            chosen = [chosen[i] for i in sorted(picked.tolist())]
        write(
            options.folder,
            chosen,
            blank=options.blank,
            workers=options.workers,
            progress=lambda text: print(text, file=sys.stderr),
        )
    except UserError as error:
        print(f"fastav: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return interrupt.CODE
    return 0


if __name__ == "__main__":
    sys.exit(main())
