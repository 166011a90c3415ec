"""What the decoder is trained on: pairs of video and sound, the questions about them, and their tensors.

All questions of a clip share one sequence: media first, then every question with its answer, masked so that a question
sees the media and itself alone, its positions starting right after the media.
"""

from __future__ import annotations

import random
from collections import defaultdict

import torch

from fastav.tiny.drawing import COLORS, KINDS
from fastav.tiny.questions import N_TRAINING, NUMBERS, WORDINGS, YES_NO, caption, matching, place
from fastav.tiny.world import held_out_pair

N_VIDEO, N_AUDIO = 128, 200


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
