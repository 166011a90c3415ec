"""Train FastAV-tiny from nothing: `python -m fastav.tiny.train --output DIR`.

Phases: render the training world and train the two encoders side by side (one thread each), cache their features of
fresh clips, train the decoder on them. Each phase leaves a file in DIR/work and is skipped when that is there, so the
same command continues after an interruption; the decoder continues from its last checkpoint. The curve goes to
DIR/train_log.jsonl, with the machine and the seconds of each phase. Training never imports the engine: the model knows
nothing of pruning.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch

from fastav import interrupt
from fastav.errors import UserError
from fastav.tiny import batches, train_decoder, train_encoders
from fastav.tiny.drawing import COLORS, KINDS
from fastav.tiny.model import WIDTH, TinyAV, log_mel, save
from fastav.tiny.tokenizer import Tokenizer

# Seconds of each phase for --scale 1, chosen on two cores with bfloat16 instructions.
VISION_SEC, AUDIO_SEC, DECODER_SEC = 440, 200, 5100
N_ENCODER_VIDEOS, N_ENCODER_SOUNDS = 10_000, 5000
N_VIDEOS, N_SOUNDS, FIRST_SEED = 14_000, 10_000, 100_000  # the decoder's clips are not the encoders'


class Log:
    """Appends one JSON line per event to a file, and shows it on stderr."""

    def __init__(self, path: Path):
        self.path = path

    def __call__(self, **event) -> None:
        line = json.dumps(event)
        with self.path.open("a") as file:
            file.write(line + "\n")
        print(line, file=sys.stderr, flush=True)


class Words:
    """Fixed orthonormal vectors: of every word [V, D], of the objects + none [13, D], of the colors + none [7, D], and one
    that no word has [D], which says how loud a sound is. D is 192, so the vocabulary has to stay below that.
    """

    def __init__(self):
        tokenizer = Tokenizer()
        vectors = torch.linalg.qr(torch.randn(WIDTH, WIDTH, generator=torch.Generator().manual_seed(7)))[0]
        self.all, self.loud = vectors[: len(tokenizer.words)], vectors[-1]
        self.objects = vectors[[tokenizer.ids[w] for w in (*KINDS, "none")]]
        self.colors = vectors[[tokenizer.ids[w] for w in (*COLORS, "none")]]


def vision_phase(path: Path, log: Log, scale: float) -> None:
    torch.set_num_threads(1)
    words = Words()
    clips = train_encoders.render(train_encoders.video, range(N_ENCODER_VIDEOS), workers=1)
    frames, kinds, shades = (np.concatenate([clip[i] for clip in clips]) for i in (1, 2, 3))
    encoder = train_encoders.train_vision(frames, kinds, shades, (words.objects, words.colors), VISION_SEC * scale, log)
    _write(encoder.state_dict(), path)


def audio_phase(path: Path, log: Log, scale: float) -> None:
    torch.set_num_threads(1)
    words = Words()
    clips = train_encoders.render(train_encoders.sound, range(N_ENCODER_SOUNDS), workers=1)
    samples, labels, loudness = (np.stack([clip[i] for clip in clips]) for i in (1, 2, 3))
    encoder = train_encoders.train_audio(samples, labels, loudness, words.objects, words.loud, AUDIO_SEC * scale, log)
    _write(encoder.state_dict(), path)


@torch.inference_mode()
def cache_phase(model: TinyAV, path: Path) -> None:
    """Float16 features of fresh clips, with what is in them."""
    seeds = range(FIRST_SEED, FIRST_SEED + N_VIDEOS)
    things, video = [], torch.empty(N_VIDEOS, batches.N_VIDEO, WIDTH, dtype=torch.float16)
    for i, (own, frames, _, _) in enumerate(train_encoders.render(train_encoders.video, seeds)):
        pixels = torch.from_numpy(frames).permute(0, 3, 1, 2).float() / 255
        video[i] = model.vision(pixels).flatten(0, 1).half()
        things.append(own)
    noises, labels, audio = [], [], torch.empty(N_SOUNDS, batches.N_AUDIO, WIDTH, dtype=torch.float16)
    for i, (own, samples, moments, _) in enumerate(train_encoders.render(train_encoders.sound, seeds[:N_SOUNDS])):
        audio[i] = model.audio(log_mel(torch.from_numpy(samples[None]).float()))[0].half()
        noises.append(own)
        labels.append(moments)
    _write({"video": video, "audio": audio, "things": things, "noises": noises, "labels": np.stack(labels)}, path)


def train(output: Path, scale: float) -> None:
    work = output / "work"
    work.mkdir(parents=True, exist_ok=True)
    log = Log(output / "train_log.jsonl")
    log(event="start", machine=f"{platform.machine()}, {os.cpu_count()} cores", torch=torch.__version__, scale=scale)
    began = time.time()

    context = multiprocessing.get_context("fork")
    jobs = []
    for phase, name in ((vision_phase, "vision"), (audio_phase, "audio")):
        if not (work / f"{name}.pt").exists():
            jobs.append(context.Process(target=phase, args=(work / f"{name}.pt", log, scale)))
            jobs[-1].start()
    for job in jobs:
        job.join()
        if job.exitcode:
            raise RuntimeError(f"an encoder phase ended with exit code {job.exitcode}; see above")
    log(event="encoders done", seconds=round(time.time() - began))

    if not (work / "cache.pt").exists():
        cache_phase(assemble(work), work / "cache.pt")
        log(event="cache done", seconds=round(time.time() - began))
    torch.multiprocessing.spawn(decoder_phase, (output, scale, f"file://{_fresh(work / 'meeting')}"), nprocs=2)
    log(event="done", seconds=round(time.time() - began))


def decoder_phase(rank: int, output: Path, scale: float, meeting: str) -> None:
    """One of two processes of one thread each: on a shared machine that is steadier and faster than one process of two
    threads.
    """
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=meeting, rank=rank, world_size=2)
    work, log = output / "work", Log(output / "train_log.jsonl")
    stored = torch.load(work / "cache.pt", weights_only=False)  # our own file, made by the phase before
    pairs = batches.Pairs(stored["things"], stored["noises"])
    cache = SimpleNamespace(video=stored["video"], audio=stored["audio"], sound_labels=stored["labels"], pairs=pairs)
    model = assemble(work)
    train_decoder.train(model, cache, DECODER_SEC * scale, log, work / "decoder.pt", lambda m: save(m, output), rank)


def assemble(work: Path) -> TinyAV:
    """The model with its trained encoders and the words' vectors; the decoder is still random, the same in every process."""
    torch.manual_seed(0)
    model = TinyAV()
    model.vision.load_state_dict(torch.load(work / "vision.pt"))
    model.audio.load_state_dict(torch.load(work / "audio.pt"))
    model.decoder.get_input_embeddings().weight.data.copy_(Words().all)
    return model.eval()


def _fresh(path: Path) -> Path:
    """A path where no file is: a meeting file left by an interrupted run would make the processes wait for each other."""
    path.unlink(missing_ok=True)
    return path.resolve()


def _write(content, path: Path) -> None:
    """All or nothing: an interrupted phase must not look finished."""
    torch.save(content, path.with_suffix(".part"))
    path.with_suffix(".part").replace(path)


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m fastav.tiny.train", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="where weights, log and unfinished work go")
    parser.add_argument(
        "--scale", type=float, default=1.0, metavar="F", help="multiplies the seconds of every phase (default: 1)"
    )
    options = parser.parse_args()
    try:
        if options.scale <= 0:
            raise UserError(f"--scale must be above 0, got {options.scale}")
        train(options.output, options.scale)
    except UserError as error:
        print(f"fastav: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    interrupt.install()
    sys.exit(main())
