"""Phase 4 of training: the decoder learns to answer from cached features of paired videos and sounds.

All questions of a clip share one sequence: media first, then every question with its answer, masked so that a question
sees the media and itself alone, its positions starting right after the media. The loss is on answers. What makes it
learn in minutes (each found by trying):

* list questions ("visible? bell yes car no"), whose labels follow the object word at once;
* an auxiliary head that says for each audio token whether its object is visible; thrown away afterwards;
* Muon for the matrices, with weight decay;
* media tokens subsampled at first, with their original positions;
* only the upper half of the layers at first: it learns to look things up in clean media tokens. The lower half starts as the
  identity and joins later.

Late reading: a plainly trained model has read everything from the media by layer 2, and then any pruning is free. Here
text may not attend to video in the lower half, nor to audio in the upper half, in some of the steps, so that it reads
audio early and video late. The finished model is the stock decoder with no such mask.
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

from fastav.tiny.drawing import COLORS, KINDS
from fastav.tiny.model import FEATURE_SCALE, WIDTH, TinyAV
from fastav.tiny.questions import N_TRAINING, NUMBERS, WORDINGS, YES_NO, caption, matching, place
from fastav.tiny.world import held_out_pair

GROW = 0.28  # share of the time after which the lower half joins
LATE = 4  # text may read video from this layer on
N_VIDEO, N_AUDIO = 128, 200
N_ROWS = 8  # clips per process and step


class Pairs:
    """Draws (video, sound) pairs of the training world: half matching, none held out."""

    def __init__(self, things: list, noises: list):
        self.things, self.noises = things, noises
        self.by_sounds = defaultdict(list)
        for i, n in enumerate(noises):
            self.by_sounds[frozenset(x.kind for x in n)].append(i)
        self.sound_sets = list(self.by_sounds)

    def draw(self, rng: random.Random) -> tuple[int, int]:
        while True:
            video = rng.randrange(len(self.things))
            seen = [t.kind for t in self.things[video]]
            if rng.random() < 0.5 and seen:
                heard = frozenset(rng.sample(seen, min(len(seen), rng.choice((1, 1, 2)))))
            elif rng.random() < 0.5 and seen:
                heard = frozenset((rng.choice(seen), rng.randrange(len(KINDS))))
            else:
                heard = frozenset(x.kind for x in self.noises[rng.randrange(len(self.noises))])
            if self.by_sounds.get(heard) and not any(held_out_pair(s, h) for s in seen for h in heard):
                return video, rng.choice(self.by_sounds[heard])


def examples(rng: random.Random, things, noises, hidden_kinds=frozenset()) -> list[tuple[str, str, float, bool]]:
    """(question, answer, weight, is a list) of one clip. things or noises None: the clip lacks that stream.
    `hidden_kinds`: objects that only unsampled frames show; nothing is asked about them."""
    seen = None if things is None else [t.kind for t in things]
    heard = None if noises is None else [n.kind for n in noises]
    out: list[tuple[str, str, float, bool]] = []

    def ask(family, answer, weight, kind=None):
        text = rng.choice(WORDINGS[family][:N_TRAINING])
        text = text.format(KINDS[kind]) if kind is not None else text
        if answer in ("yes", "no") and rng.random() < 0.5:
            text += YES_NO
        out.append((text, answer, weight, False))

    def absent(present, other):
        """A kind that is not there; mostly one of the other stream, which is what hallucination would name."""
        others = [k for k in other or () if k not in present and k not in hidden_kinds]
        if others and rng.random() < 0.6:
            return rng.choice(others)
        return rng.choice([k for k in range(len(KINDS)) if k not in present and k not in hidden_kinds])

    def listing(head, kinds, answer, weight):
        out.append((f"{head}?", " ".join(f"{KINDS[k]} {answer(k)}" for k in kinds), weight, True))

    def mixed(present, other):
        kinds = set(present) | {absent(present, other) for _ in range(3)}
        return rng.sample(sorted(kinds), len(kinds))

    if seen:
        ask("visible", "yes", 1.5, rng.choice(seen))
        ask("visible", "no", 1.5, absent(seen, heard))
        thing = rng.choice(things)
        ask("color", COLORS[thing.color], 1.0, thing.kind)
        thing = rng.choice(things)
        ask("place", place(thing), 1.0, thing.kind)
        colors, places = {t.kind: COLORS[t.color] for t in things}, {t.kind: place(t) for t in things}
        shuffled = rng.sample(seen, len(seen))
        listing("color", shuffled, colors.get, 2.0)
        listing("left or right", shuffled, places.get, 2.0)
    if seen is not None:
        listing("visible", mixed(seen, heard), lambda k: "yes" if k in seen else "no", 1.0)
        ask("count", NUMBERS[len(seen)], 1.0)
    if heard:
        ask("heard", "yes", 1.0, rng.choice(heard))
        ask("heard", "no", 1.0, absent(heard, seen))
        if seen is not None:
            ask("matching", "yes" if matching(things, noises) else "no", 2.0)
    if heard is not None:
        listing("making sound", mixed(heard, seen), lambda k: "yes" if k in heard else "no", 1.0)
    ask("caption", caption(things, noises), 0.7)
    return out


class Batch:
    """Tensors of one step. Rows B, media columns M (2 + sampled video + sampled audio), text columns T."""

    def __init__(self, rng, cache, tokenizer, n_rows: int, frames: int, step_audio: int):
        self.frame_pick = sorted(rng.sample(range(8), frames))
        offset = rng.randrange(step_audio)
        video_columns = [16 * f + p for f in self.frame_pick for p in range(16)]
        audio_columns = list(range(offset, N_AUDIO, step_audio))
        rows, self.flags = [], []
        video, audio = [], []
        for _ in range(n_rows):
            v, a = cache.pairs.draw(rng)
            video.append(v)
            audio.append(a)
            things, noises = cache.pairs.things[v], cache.pairs.noises[a]
            shown = [t for t in things if any(t.first <= f <= t.last for f in self.frame_pick)]
            hidden = frozenset(t.kind for t in things) - {t.kind for t in shown}
            lost = rng.random()
            if hidden & {n.kind for n in noises}:
                lost = max(lost, 0.1)
            has_video, has_audio = lost >= 0.05, not 0.05 <= lost < 0.1
            asked = examples(rng, shown if has_video else None, noises if has_audio else None, hidden)
            if hidden & {n.kind for n in noises}:
                asked = [e for e in asked if e[1] not in ("yes", "no") or "match" not in e[0]]
            rows.append((has_video, has_audio, asked))
            labels = cache.sound_labels[a][[c // 2 for c in audio_columns]]
            kinds = {t.kind for t in shown}
            ok = has_video and has_audio and not hidden
            self.flags.append([(-100 if not ok else 0 if k == len(KINDS) else 1 if k in kinds else 2) for k in labels.tolist()])
        self.video = cache.video[video][:, video_columns].float()
        self.audio = cache.audio[audio][:, audio_columns].float()
        self.place = torch.tensor([c % 16 for c in video_columns]), torch.tensor([c % 2 for c in audio_columns])
        self.flags = torch.tensor(self.flags)
        self._texts(rows, tokenizer, video_columns, audio_columns)

    def _texts(self, rows, tokenizer, video_columns, audio_columns):
        n_media = 2 + len(video_columns) + len(audio_columns)
        texts = []
        for has_video, has_audio, asked in rows:
            end = 2 + N_VIDEO * has_video + N_AUDIO * has_audio
            ids, positions, segments, labels, weights = [], [], [], [], []
            for segment, (question, answer, weight, is_list) in enumerate(asked):
                head = tokenizer.encode(question) + ([] if is_list else [tokenizer.assistant_id])
                tail = tokenizer.encode(answer) + ([] if is_list else [tokenizer.eos_id])
                words = head + tail
                for i, word in enumerate(words):
                    follows = words[i + 1] if i + 1 < len(words) else -100
                    answered = i + 1 >= len(head) and follows >= 0
                    if is_list:
                        answered = i + 1 > len(head) and (i + 1 - len(head)) % 2 == 1 and follows >= 0
                    ids.append(word)
                    positions.append(end + i)
                    segments.append(segment)
                    labels.append(follows if answered else -100)
                    weights.append(weight * (0.3 if follows == tokenizer.eos_id else 1.0) / (2 if is_list else 1))
            texts.append((ids, positions, segments, labels, weights))
        n_text = max(len(t[0]) for t in texts)
        pad = lambda i, value: torch.tensor([t[i] + [value] * (n_text - len(t[i])) for t in texts])  # noqa: E731
        self.ids, text_positions, segment = pad(0, 0), pad(1, 0), pad(2, -1)
        self.labels, self.weights = pad(3, -100), pad(4, 0.0)
        has = torch.tensor([[r[0], r[1]] for r in rows])
        b = len(rows)
        media = torch.tensor([0, 1, *(2 + c for c in video_columns), *(2 + N_VIDEO + c for c in audio_columns)])
        media = media.expand(b, -1).clone()
        media[~has[:, 0], 2 + len(video_columns) :] -= N_VIDEO
        self.positions = torch.cat([media, text_positions], 1)
        visible = torch.ones(b, n_media, dtype=torch.bool)
        visible[:, 2 : 2 + len(video_columns)] = has[:, :1]
        visible[:, 2 + len(video_columns) :] = has[:, 1:]
        n = n_media + n_text
        mask = torch.ones(n, n, dtype=torch.bool).tril().expand(b, -1, -1).clone()
        mask[:, :, :n_media] &= visible[:, None]
        mask[:, n_media:, n_media:] &= segment[:, :, None] == segment[:, None]
        mask |= torch.eye(n, dtype=torch.bool)
        no_video, no_audio = mask.clone(), mask.clone()
        no_video[:, n_media:, 2 : 2 + len(video_columns)] = False
        no_audio[:, n_media:, 2 + len(video_columns) : n_media] = False
        self.mask, self.no_video, self.no_audio = mask[:, None], no_video[:, None], no_audio[:, None]
        self.n_media = n_media
        self.audio_columns = slice(2 + len(video_columns), n_media)


def forward(model: TinyAV, batch: Batch, grown: bool = True, no_video: bool = False, no_audio: bool = False):
    """(text hidden [B, T, D] before the final norm, audio hidden [B, a, D] halfway) under the batch's masks.

    Before the decoder is grown only its upper half runs. `no_video`: text may not attend to video in the lower half;
    `no_audio`: nor to audio in the upper half.
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
    lower = batch.no_video if no_video else batch.mask
    upper = batch.no_audio if no_audio else batch.mask
    for index, layer in enumerate(decoder.layers):
        if index < LATE and not grown:
            continue
        hidden = layer(hidden, attention_mask=lower if index < LATE else upper, position_embeddings=rotary)
        if index + 1 == (LATE if grown else LATE + 2):
            middle = hidden[:, batch.audio_columns]
    return hidden[:, batch.n_media :], middle


def loss_of(model: TinyAV, batch: Batch, head: nn.Linear, **masks):
    """(loss, accuracy counts by answer kind)."""
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
    return loss, (out.argmax(-1) == target), weight, target


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
        rate = min(1.0, (step + 1) / 30) * min(1.0, (1 - part) / 0.35)
        grown = part >= GROW
        shared, own = random.Random(step), random.Random(f"{step} {rank}")
        frames, stride = (3, 8) if part < GROW else shared.choices(((3, 8), (5, 4), (8, 3), (8, 1)), (0.35, 0.25, 0.2, 0.2))[0]
        masks = {
            "grown": grown,
            "no_video": shared.random() < (1.0 if part < 0.75 else 0.4),
            "no_audio": shared.random() < 0.8,
        }
        batch = Batch(own, cache, model.tokenizer, N_ROWS, frames, stride)
        loss, right, weight, target = loss_of(model, batch, head, **masks)
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
        _count(tally, right, weight, target, model.tokenizer.words)
        tally["loss"].append(loss.item())
        if rank == 0 and spent - last_log > 20:
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


def _count(tally, right, weight, target, words):
    """Accuracy by weight and answer word: tells visible (1.5), matching (2.0), heard (1.0) and the lists apart well
    enough to watch.
    """
    answer = [words[t] for t in target.tolist()]
    for ok, w, word in zip(right.tolist(), weight.tolist(), answer, strict=True):
        if word in ("yes", "no"):
            name = {1.5: "V", 2.0: "M", 1.0: "A", 0.5: "list"}.get(round(w, 2), "?")
        elif word in COLORS:
            name = "color" if w == 1.0 else "color list/caption"
        elif word in ("left", "right"):
            name = "place" if w == 1.0 else "place list"
        elif word in NUMBERS:
            name = "count"
        elif word in KINDS:
            name = "caption kinds"
        else:
            continue
        tally[name].append(ok)
