"""Render clips of the tiny world with questions, in AVHBench's layout: `python -m fastav.tiny.scenes DIR --split test
--questions 4000`.

Writes DIR/videos/<id>.mp4 (H.264 and AAC), DIR/QA.json (AVHBench's schema and task names), DIR/tiny_world.json (the
other families) and DIR/wordings.json (question text -> seen or unseen in training). `--questions` counts the yes/no
questions of QA.json: 85 % are "visible" and "heard", 15 % matching; captions and each other family get an eighth more
of that number.

Balanced so that nothing can be had without looking and listening: per clip one yes and one no to "visible" and to
"heard", and per question text as many yes as no as the clips allow; most things asked about in vain are there in the
other stream.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import multiprocessing
import signal
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fastav import interrupt
from fastav.assets import ASSETS
from fastav.clip.clip import Clip, clip_from_arrays
from fastav.clip.write import write_clip
from fastav.errors import UserError
from fastav.tiny.drawing import COLORS, KINDS
from fastav.tiny.questions import N_TRAINING, NUMBERS, WORDINGS, caption, matching, place
from fastav.tiny.world import Noise, Thing, draw, held_out_color, held_out_pair, play, random_noises, random_things

TASKS = {
    "visible": "Audio-driven Video Hallucination",
    "heard": "Video-driven Audio Hallucination",
    "matching": "AV Matching",
    "caption": "AV Captioning",
    "count": "Counting",
    "color": "Color",
    "place": "Location",
}
FPS = 4
WEIGHTS = ASSETS / "tiny" / "model.safetensors"


@dataclass(frozen=True)
class Scene:
    """What one clip shows and plays; everything about it follows from its seed."""

    things: list[Thing]
    noises: list[Noise]
    seconds: float
    seed: tuple[int, ...]

    def frames(self, n_frames: int) -> np.ndarray:
        return draw(np.random.default_rng([*self.seed, 1]), self.things, n_frames)

    def audio(self) -> np.ndarray:
        return play(np.random.default_rng([*self.seed, 2]), self.noises, self.seconds)


def scene(seed: int, index: int, split: str) -> Scene:
    """Scene `index` of a split, both streams present: every other one matches. In "test" each has at least one
    held-out combination of color and object, or of object and sound; in "train" none has any."""
    key = (seed, index, 0 if split == "train" else 1)
    rng = np.random.default_rng(key)
    test, match = split == "test", index % 2 == 0
    while True:
        kinds = rng.choice(len(KINDS), 1 + index // 2 % 3, replace=False)
        things = random_things(rng, kinds, held_out=test and rng.random() < 0.7)
        n_sounds = int(rng.choice((1, 2), p=(0.6, 0.4)))
        if match:
            heard = rng.permutation(kinds)[:n_sounds]
        else:
            outside = rng.choice([k for k in range(len(KINDS)) if k not in kinds])
            inside = [rng.choice(kinds)] if rng.random() < 0.5 else [rng.integers(len(KINDS))]
            heard = np.array(list(dict.fromkeys([int(outside), *map(int, inside)]))[:n_sounds])
            rng.shuffle(heard)
        pairs = any(held_out_pair(int(s), int(h)) for s in kinds for h in heard)
        unseen = pairs or any(held_out_color(t.kind, t.color) for t in things)
        if unseen == test and not (pairs and not test):
            break
    seconds = 4.0 if rng.random() < 0.7 else float(rng.choice((3.0, 5.0, 6.0, 8.0)))
    return Scene(things, random_noises(rng, heard), seconds, key)


class Questioner:
    """Asks about scenes, keeping yes and no even per question text. Records are [family, text, answer]."""

    def __init__(self, seed: int):
        self.rng = np.random.default_rng((seed, 2))
        self.owed: Counter = Counter()  # question text -> yes answers given minus no answers given
        self.asked: Counter = Counter()

    def visible_and_heard(self, scene: Scene) -> list[tuple[str, str, str]]:
        seen, heard = [t.kind for t in scene.things], [n.kind for n in scene.noises]
        return [*self._yes_and_no("visible", seen, heard), *self._yes_and_no("heard", heard, seen)]

    def _yes_and_no(self, family, present, other):
        yes = self._pick(family, present, sign=-1)
        absent = [k for k in range(len(KINDS)) if k not in present]
        tempting = [k for k in absent if k in other]
        no = self._pick(family, tempting if tempting and self.rng.random() < 0.6 else absent, sign=1)
        self.owed[yes] += 1
        self.owed[no] -= 1
        return [(family, yes, "Yes"), (family, no, "No")]

    def _pick(self, family, kinds, sign):
        """The text that most needs this answer, of equals at random."""
        texts = [wording.format(KINDS[k]) for k in kinds for wording in WORDINGS[family]]
        most = max(sign * self.owed[text] for text in texts)
        return str(self.rng.choice([text for text in texts if sign * self.owed[text] == most]))

    def matching(self, scene: Scene):
        match = matching(scene.things, scene.noises)
        texts = WORDINGS["matching"]
        sign = -1 if match else 1
        most = max(sign * self.owed[text] for text in texts)
        text = str(self.rng.choice([t for t in texts if sign * self.owed[t] == most]))
        self.owed[text] += 1 if match else -1
        return ("matching", text, "Yes" if match else "No")

    def other(self, family: str, scene: Scene):
        thing = scene.things[self.rng.integers(len(scene.things))]
        answer = {
            "caption": lambda: caption(scene.things, scene.noises),
            "count": lambda: NUMBERS[len(scene.things)],
            "color": lambda: COLORS[thing.color],
            "place": lambda: place(thing),
        }[family]()
        wording = WORDINGS[family][self.asked[family] % len(WORDINGS[family])]
        self.asked[family] += 1
        return (family, wording.format(KINDS[thing.kind]), answer)


def build(seed: int, split: str, n_questions: int) -> tuple[list[Scene], list[list[tuple[str, str, str]]]]:
    """Scenes and, per scene, its (family, text, answer) records."""
    n_scenes = max(-(-n_questions * 85 // 400), 1)
    scenes = [scene(seed, i, split) for i in range(n_scenes)]
    ask = Questioner(seed)
    per_family = max(n_questions // 8, 1)
    records = []
    for i, each in enumerate(scenes):
        own = ask.visible_and_heard(each)
        if i * (n_questions * 15 // 100) // n_scenes != (i + 1) * (n_questions * 15 // 100) // n_scenes:
            own.append(ask.matching(each))
        for family in ("caption", "count", "color", "place"):
            if i * per_family // n_scenes != (i + 1) * per_family // n_scenes:
                own.append(ask.other(family, each))
        records.append(own)
    return scenes, records


def write(
    folder: Path,
    seed: int,
    split: str,
    n_questions: int,
    *,
    n_clips: int | None = None,
    blank=(),
    workers=2,
    progress=lambda text: None,
) -> None:
    """Render a set into `folder` (see the module), or a random sample of `n_clips` of its clips; `blank`: streams to empty."""
    scenes, records = build(seed, split, n_questions)
    chosen = range(len(scenes))
    if n_clips is not None:
        chosen = sorted(np.random.default_rng((seed, 3)).choice(len(scenes), min(n_clips, len(scenes)), replace=False).tolist())
    (folder / "videos").mkdir(parents=True, exist_ok=True)
    jobs = [(scenes[i], folder / "videos" / f"{i:05}.mp4", tuple(blank)) for i in chosen]
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # which the workers inherit: on Ctrl-C this process ends them
    pool = multiprocessing.get_context("spawn").Pool(workers)
    signal.signal(signal.SIGINT, before)
    with pool:
        for i, _ in enumerate(pool.imap(_render, jobs, chunksize=4), 1):
            if i % 50 == 0 or i == len(jobs):
                progress(f"rendered {i} of {len(jobs)} clips")
    write_annotations(folder, [(f"{i:05}", record) for i in chosen for record in records[i]])


def write_annotations(folder: Path, records: list[tuple[str, tuple[str, str, str]]]) -> None:
    """QA.json, tiny_world.json and wordings.json of (video id, (family, text, answer)) records."""
    rows = [
        (family, {"video_id": video, "task": TASKS[family], "text": text, "label": answer})
        for video, (family, text, answer) in records
    ]
    avhbench = [row for family, row in rows if family in ("visible", "heard", "matching", "caption")]
    others = [row for family, row in rows if family in ("count", "color", "place")]
    seen = {w.format(k) for ws in WORDINGS.values() for w in ws[:N_TRAINING] for k in KINDS}
    wordings = {row["text"]: "seen" if row["text"] in seen else "unseen" for _, row in rows}
    for name, content in (("QA", avhbench), ("tiny_world", others), ("wordings", wordings)):
        (folder / f"{name}.json").write_text(json.dumps(content, indent=1) + "\n")


def _render(job) -> None:
    each, path, blank = job
    frames, audio = each.frames(round(each.seconds * FPS)).repeat(2, 1).repeat(2, 2), each.audio()
    write_clip(path, frames * ("video" not in blank), FPS, audio * ("audio" not in blank))


def calibration_clips(n: int) -> Iterator[tuple[Clip, str]]:
    """`n` clips of the training split, from arrays, each with its first question."""
    for i in range(n):
        each = scene(0, i, "train")
        clip = clip_from_arrays(each.frames(8), 8 / each.seconds, each.audio(), name=f"calibration {i}")
        yield clip, Questioner(i).visible_and_heard(each)[i % 4][1]


def weights_seed(weights: Path = WEIGHTS) -> int:
    """The test split's seed, which nobody can choose: the first 8 hex digits of the sha256 of the shipped weights."""
    if not weights.is_file():
        raise UserError(f"{weights} is missing, and the test split's seed comes from it; give --seed")
    return int(hashlib.sha256(weights.read_bytes()).hexdigest()[:8], 16)


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m fastav.tiny.scenes", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, metavar="DIR", help="where to write")
    parser.add_argument(
        "--split", choices=("train", "test"), default="test", help="test has only unseen combinations (default: test)"
    )
    parser.add_argument("--questions", type=int, default=4000, metavar="N", help="yes/no questions (default: 4000)")
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
        if options.questions < 1:
            raise UserError(f"--questions must be at least 1, got {options.questions}")
        if (options.folder / "QA.json").exists():
            raise UserError(f"{options.folder} already holds a rendered set; give a new folder")
        seed = weights_seed() if options.seed is None else options.seed
        write(
            options.folder,
            seed,
            options.split,
            options.questions,
            n_clips=options.clips,
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
