"""Phase 4 of training: the decoder learns to answer from cached features of paired videos and sounds.

The loss is on answers (batches.py). What makes it learn in minutes (each found by trying):

* list questions ("visible? bell yes car no"), whose labels follow the object word at once;
* an auxiliary head that says for each audio token whether its object is visible; thrown away afterwards;
* Muon for the matrices, with weight decay;
* media tokens subsampled at first, with their original positions;
* only the upper half of the layers at first: it learns to look things up in clean media tokens. The lower half starts as the
  identity and joins later.

Late reading: a plainly trained model has read everything from the media by layer 2, and then any pruning is free. Here
text may not attend to video and audio in the lower half: in all steps at first, in half of them at the end. What audio
learns of video there stays open. The finished model is the stock decoder with no such mask.
"""

from __future__ import annotations

import random
import time
from collections import defaultdict
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from fastav.tiny.batches import Batch
from fastav.tiny.model import FEATURE_SCALE, WIDTH, TinyAV

GROW = 0.12  # share of the time after which the lower half joins
LATE = 4  # text may read video and audio from this layer on
BLOCKED = 0.75  # share of the time up to which that holds in all steps, then in half of them
SLOW = 0.35  # last share of the time, over which the learning rate falls to 0
# Frames taken and stride of the audio tokens: before the decoder grows, and after with these shares.
FEW = (4, 8)
SAMPLES, SHARES = (FEW, (5, 4), (8, 3), (8, 1)), (0.3, 0.3, 0.2, 0.2)
N_ROWS = 8  # clips per process and step


def forward(model: TinyAV, batch: Batch, grown: bool = True, blocked: bool = False):
    """(text hidden [B, T, D] before the final norm, audio hidden [B, a, D] halfway) under the batch's masks.

    Before the decoder is grown only its upper half runs. `blocked`: text may not attend to the media in the lower half.
    """
    decoder = model.decoder.model
    words = decoder.embed_tokens
    start = words(torch.tensor([model.tokenizer.bos_id, model.tokenizer.user_id])).expand(len(batch.ids), -1, -1)
    media = []
    for features, projector, places in zip(
        (batch.video, batch.audio), (model.vision_projector, model.audio_projector), batch.place, strict=True
    ):
        media.append(projector.linear(features / FEATURE_SCALE) + projector.place[places])
    hidden = torch.cat([start, *media, words(batch.ids)], 1)
    rotary = decoder.rotary_emb(hidden, batch.positions)
    middle = None
    lower = batch.no_media if blocked else batch.mask
    for index, layer in enumerate(decoder.layers):
        if index < LATE and not grown:
            continue
        hidden = layer(hidden, attention_mask=lower if index < LATE else batch.mask, position_embeddings=rotary)
        if index + 1 == (LATE if grown else LATE + 2):
            middle = hidden[:, batch.audio_columns]
    return hidden[:, batch.n_media :], middle


def loss_of(model: TinyAV, batch: Batch, head: nn.Linear, **masks):
    """(loss, bool [n] of the words of answers: was it right, their places in `batch`)."""
    with torch.autocast("cpu", dtype=torch.bfloat16):
        text, middle = forward(model, batch, **masks)
        flags = head(middle)
    where = batch.labels >= 0
    out = model.decoder.model.norm(text[where].float()) @ model.decoder.model.embed_tokens.weight.T
    target, weight = batch.labels[where], batch.weights[where]
    loss = (cross_entropy(out, target, reduction="none") * weight).sum() / weight.sum()
    valid = batch.flags >= 0
    if valid.any():
        scale = torch.tensor([0.2, 1.0, 1.0])
        loss = loss + 0.3 * cross_entropy(flags.float()[valid], batch.flags[valid], weight=scale)
    return loss, out.argmax(-1) == target, where


class Muon:
    """Momentum whose matrix updates are orthogonalised by 5 Newton-Schulz steps (Jordan et al. 2024), same shapes batched.

    Weight decay keeps the residual stream small: without it, its norm grows from 10 to
    1,000 in the first layer, and the words in the media tokens drown.
    """

    DECAY = 0.3

    def __init__(self, parameters, momentum=0.95):
        self.groups = defaultdict(list)
        for p in parameters:
            self.groups[tuple(p.shape)].append(p)
        self.momentum = momentum
        self.buffers = {shape: torch.zeros(len(ps), *shape) for shape, ps in self.groups.items()}

    @torch.no_grad()
    def step(self, rate: float) -> None:
        for shape, ps in self.groups.items():
            gradient = torch.stack([p.grad for p in ps])
            buffer = self.buffers[shape].lerp_(gradient, 1 - self.momentum)
            x = gradient.lerp(buffer, self.momentum)
            tall = shape[0] > shape[1]
            x = x.mT if tall else x
            x = (x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)).bfloat16()
            for _ in range(5):
                gram = x @ x.mT
                x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
            x = (x.mT if tall else x).float()
            for p, update in zip(ps, x, strict=True):
                p.mul_(1 - self.DECAY * rate)
                p.add_(update, alpha=-rate * max(1, shape[0] / shape[1]) ** 0.5)


def train(model: TinyAV, cache, seconds: float, log, checkpoint: Path, save, rank: int = 0) -> None:
    """Train decoder and projectors for `seconds` in all, whatever interrupts it. Run it once per process of the
    process group: each draws its own rows, gradients are averaged.

    `cache`: features video [n, 128, D] and audio [m, 200, D], sound_labels [m, 100] and `pairs`. Every two minutes the
    whole state goes to `checkpoint` and `save(model)` exports the model.
    """
    matrices = [p for _, p in model.decoder.model.layers.named_parameters() if p.dim() == 2]
    ids = {id(p) for p in matrices}
    torch.manual_seed(0)
    head = nn.Linear(WIDTH, 3)
    model.vision.requires_grad_(False)
    model.audio.requires_grad_(False)
    for layer in model.decoder.model.layers[:LATE]:
        for matrix in (layer.self_attn.o_proj, layer.mlp.down_proj):
            nn.init.zeros_(matrix.weight)  # so that growing changes nothing at first
    others = [p for p in (*model.parameters(), *head.parameters()) if p.requires_grad and id(p) not in ids]
    muon, adam = Muon(matrices), torch.optim.AdamW(others, lr=2e-3, betas=(0.9, 0.95), weight_decay=0.0)
    step, spent = 0, 0.0
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=False)  # our own file
        model.load_state_dict(state["model"])
        head.load_state_dict(state["head"])
        adam.load_state_dict(state["adam"])
        muon.buffers, step, spent = state["muon"], state["step"], state["seconds"]
    began, last_log, last_save = time.time() - spent, spent, spent
    tally = defaultdict(list)

    def store():
        state = {"model": model.state_dict(), "head": head.state_dict(), "adam": adam.state_dict(), "muon": muon.buffers}
        torch.save({**state, "step": step, "seconds": spent}, checkpoint.with_suffix(".part"))
        checkpoint.with_suffix(".part").replace(checkpoint)
        save(model)

    while spent < seconds:
        part = spent / seconds
        rate = min(1.0, (step + 1) / 30) * min(1.0, (1 - part) / SLOW)
        grown = part >= GROW
        shared, own = random.Random(step), random.Random(f"{step} {rank}")
        frames, stride = shared.choices(SAMPLES, SHARES)[0] if grown else FEW
        blocked = part < BLOCKED or shared.random() < 0.5
        batch = Batch(own, cache, model.tokenizer, N_ROWS, frames, stride)
        loss, right, where = loss_of(model, batch, head, grown=grown, blocked=blocked)
        for p in (*others, *matrices):
            p.grad = torch.zeros_like(p)  # the lower half has no gradient before the decoder is grown
        loss.backward()
        spent = _average_gradients((*others, *matrices), time.time() - began)
        nn.utils.clip_grad_norm_(others, 1.0)
        for group in adam.param_groups:
            group["lr"] = 2e-3 * rate
        adam.step()
        muon.step(0.02 * rate)
        step += 1
        _count(tally, right, batch.family[where], batch.families)
        tally["loss"].append(loss.item())
        if rank == 0 and spent - last_log > 30:
            last_log = spent
            log(
                phase="decoder",
                seconds=round(spent),
                step=step,
                **{k: round(float(np.mean(v)), 3) for k, v in sorted(tally.items())},
            )
            tally.clear()
        if rank == 0 and spent - last_save > 120:
            last_save = spent
            store()
    if rank == 0:
        store()


def _average_gradients(parameters, spent: float) -> float:
    """Average gradients over the processes, in one message; also the clock, so that all follow the same schedule."""
    if not torch.distributed.is_initialized():
        return spent
    flat = torch.cat([torch.tensor([spent]), *(p.grad.flatten() for p in parameters)])
    torch.distributed.all_reduce(flat)
    flat /= torch.distributed.get_world_size()
    for p, gradient in zip(parameters, flat[1:].split([p.numel() for p in parameters]), strict=True):
        p.grad = gradient.view_as(p)
    return float(flat[0])


def _count(tally, right, family, families) -> None:
    """Right or not, for each word of an answer, under the name of its family."""
    names = {number: name for name, number in families.items()}
    for ok, number in zip(right.tolist(), family.tolist(), strict=True):
        if number >= 0:
            tally[names[number]].append(ok)
