"""Phases 1-3 of training: render the training world, train the two encoders apart, cache their features.

Each encoder learns to put every patch's (every moment's) word into its token: cross-entropy of x . e_w over the words'
embeddings, which are fixed orthonormal vectors and later the decoder's word embeddings. So the decoder finds its words
in the media from the start.
"""

from __future__ import annotations

import multiprocessing
import time

import numpy as np
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from fastav.tiny import clutter
from fastav.tiny.drawing import COLORS, KINDS, sprite
from fastav.tiny.model import AudioEncoder, VisionEncoder, log_mel
from fastav.tiny.sampling import N_FRAMES, N_TIMES, RATE, SIDE, pick_sound
from fastav.tiny.world import (
    SHARE_CLUTTERED,
    Noise,
    Thing,
    draw,
    play,
    random_noises,
    random_seconds,
    random_things,
)

N_OBJECTS = (0.06, 0.28, 0.33, 0.33)  # share of clips with 0..3 objects
N_SOUNDS = (0.05, 0.40, 0.33, 0.22)
MIDDLE_LEVEL = 0.09
LOUDNESS = 10.0  # a token says "e times the middle level" by being this long along the vector for loudness
NONE = len(KINDS)  # label of "no object" and "no sound"; for colors it is len(COLORS)


def training_things(rng) -> list[Thing]:
    kinds = rng.choice(len(KINDS), rng.choice(4, p=N_OBJECTS), replace=False)
    return random_things(rng, kinds, held_out=False)


def training_noises(rng, seconds: float) -> list[Noise]:
    return random_noises(rng, rng.choice(len(KINDS), rng.choice(4, p=N_SOUNDS), replace=False), seconds)


def patch_labels(things: list[Thing], shifts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """int64 [8, 16] object and color per patch: what covers more than 12 % of it, none below 2 %, -100 (ignored) between.
    `shifts`: the camera's, int [8, 2] (x, y).
    """
    share = np.zeros((len(things) + 1, N_FRAMES, SIDE, SIDE), np.float32)
    for i, thing in enumerate(things, 1):
        mask = sprite(KINDS[thing.kind], thing.size)[..., 0]
        mask = mask[:, ::-1] if thing.mirrored else mask
        x0, y0, x1, y1 = thing.path
        for t in range(thing.first, thing.last + 1):
            x, y = int(x0 + (x1 - x0) * t / 7), int(y0 + (y1 - y0) * t / 7)
            share[i, t, y : y + thing.size, x : x + thing.size] = mask
        share[i] = clutter.shake(share[i], shifts)
    share = share.reshape(len(share), N_FRAMES, 4, 28, 4, 28).mean((3, 5)).reshape(len(share), N_FRAMES, 16)
    best, most = share.argmax(0), share.max(0)
    kinds = np.array([NONE, *(t.kind for t in things)])[best]
    colors = np.array([len(COLORS), *(t.color for t in things)])[best]
    unsure = (most > 0.02) & (most <= 0.12)
    clear = most <= 0.02
    return (np.where(unsure, -100, np.where(clear, NONE, kinds)), np.where(unsure, -100, np.where(clear, len(COLORS), colors)))


def sound_labels(noises: list[Noise], seconds: float) -> tuple[np.ndarray, np.ndarray]:
    """int64 [100] the sound at each of the encoder's times and float32 [100] its loudness (log of level over the middle
    one, 0 where there is none), through the same choice of pieces as the sound itself.
    """
    n = int(seconds * RATE)
    track = np.full((2, n), ((NONE,), (0.0,)), np.float32)
    for noise in noises:
        track[:, int(noise.begin * n) : int(noise.end * n)] = ((noise.kind,), (np.log(noise.level / MIDDLE_LEVEL),))
    (kinds, n_sound), (loudness, _) = pick_sound(track[0]), pick_sound(track[1])
    kinds[n_sound:] = NONE
    every = slice(320, None, len(kinds) // N_TIMES)
    return kinds[every].astype(np.int64), loudness[every]


def video(seed: int):
    """One video of the training world: its things, frames uint8 [8, 112, 112, 3], object and color labels int64 [8, 16]."""
    rng = np.random.default_rng([0, seed])
    things = training_things(rng)
    frames, shifts = draw(rng, things, cluttered=rng.random() < SHARE_CLUTTERED)
    return things, frames, *patch_labels(things, shifts)


def sound(seed: int):
    """One sound track: its noises, float32 [64000] as the encoder takes it, labels int64 [100] and loudness float32 [100]."""
    rng = np.random.default_rng([1, seed])
    seconds = random_seconds(rng)
    noises = training_noises(rng, seconds)
    track = play(rng, noises, seconds, cluttered=rng.random() < SHARE_CLUTTERED)
    return noises, pick_sound(track)[0], *sound_labels(noises, seconds)


def render(what, seeds, workers: int = 2) -> list:
    """`video` or `sound` of each seed, in order."""
    with multiprocessing.get_context("fork").Pool(workers) as pool:
        return pool.map(what, seeds, chunksize=64)


def train_vision(frames, kinds, colors, words, seconds: float, log) -> VisionEncoder:
    """frames uint8 [n, 112, 112, 3], kinds and colors int64 [n, 16], words (object [13, D], color [7, D]) embeddings."""
    torch.manual_seed(0)
    encoder = VisionEncoder().to(memory_format=torch.channels_last)

    def batch():
        pick = torch.randint(len(frames), (64,))
        pixels = torch.from_numpy(frames[pick.numpy()]).permute(0, 3, 1, 2).float() / 255
        kind, color = torch.from_numpy(kinds[pick.numpy()]), torch.from_numpy(colors[pick.numpy()])
        # In half of the batch colors are mixed at random, so that shape alone must tell the object: unseen colors come later.
        half = pixels[:32]
        mix = torch.eye(3)[torch.randperm(3)] * torch.where(torch.rand(3) < 0.3, -1.0, 1.0)[:, None] + 0.15 * torch.randn(3, 3)
        pixels[:32] = torch.einsum("ij,bjhw->bihw", mix, half - 0.5).clamp(-0.5, 0.5) + 0.5
        color = color.clone()
        color[:32] = -100
        return pixels.contiguous(memory_format=torch.channels_last), ((kind, words[0], 1.0), (color, words[1], 0.5))

    return _fit(encoder, batch, 2e-3, seconds, log, "vision")


def train_audio(samples, labels, loudness, words, loud, seconds: float, log) -> AudioEncoder:
    """samples float32 [n, 64000], labels int64 and loudness float32 [n, 100], words [13, D], loud [D]: where a token says
    how loud its sound is.
    """
    torch.manual_seed(0)
    encoder = AudioEncoder()

    def batch():
        pick = torch.randint(len(samples), (16,)).numpy()
        mel = log_mel(torch.from_numpy(samples[pick]))
        label, level = (torch.from_numpy(x[pick]).repeat_interleave(2, 1) for x in (labels, loudness))
        return mel, ((label, words, 1.0),), level

    def also(out, level):
        """Of the tokens that hear a sound: squared error of the loudness."""
        sounding = level != 0
        return 2 * (out[sounding] @ loud / LOUDNESS - level[sounding]).square().mean()

    return _fit(encoder, batch, 2e-3, seconds, log, "audio", also)


def _fit(encoder: nn.Module, batch, rate: float, seconds: float, log, name: str, also=None) -> nn.Module:
    optimizer = torch.optim.AdamW(encoder.parameters(), lr=rate, weight_decay=0.02)
    began, step, last = time.time(), 0, 0.0
    while (spent := time.time() - began) < seconds:
        for group in optimizer.param_groups:
            group["lr"] = rate * min(1, step / 50) * 0.5 * (1 + np.cos(np.pi * spent / seconds)) + 1e-6
        inputs, targets, *more = batch()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            out = encoder(inputs)
        loss = sum(
            weight * cross_entropy((out.float() @ words.T).flatten(0, 1), label.flatten(), ignore_index=-100)
            for label, words, weight in targets
        )
        if also:
            loss = loss + also(out.float(), *more)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        step += 1
        if spent - last > 15:
            last = spent
            label, words, _ = targets[0]
            right = ((out.float() @ words.T).argmax(-1) == label)[label >= 0].float().mean()
            seen = (label >= 0) & (label != NONE)
            hit = ((out.float() @ words.T).argmax(-1) == label)[seen].float().mean()
            log(
                phase=name,
                seconds=round(spent),
                step=step,
                loss=round(loss.item(), 4),
                accuracy=round(right.item(), 4),
                found=round(hit.item(), 4),
            )
    return encoder.eval()
