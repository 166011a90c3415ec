"""What the decoder is trained on: pairs of video and sound, the questions about them, and their tensors.

All questions of a clip share one sequence: media first, then every question with its answer, masked so that a question
sees the media and itself alone, its positions starting right after the media.
"""

from __future__ import annotations

import random
from collections import defaultdict
from dataclasses import dataclass

import torch

from fastav.tiny.drawing import COLORS, KINDS
from fastav.tiny.questions import CHOICES, NUMBERS, YES_NO_FAMILIES, Fact, facts, four_options, longest, loudest, place
from fastav.tiny.wordings import LETTER, ONE_WORD, YES_NO, seen
from fastav.tiny.world import held_out_pair

N_VIDEO, N_AUDIO = 128, 200


class Pairs:
    """Draws (video, sound) pairs of the training world: about six in ten match, none is held out."""

    def __init__(self, things: list, noises: list):
        self.things, self.noises = things, noises
        self.by_sounds = defaultdict(list)
        for i, n in enumerate(noises):
            self.by_sounds[frozenset(x.kind for x in n)].append(i)

    def draw(self, rng: random.Random) -> tuple[int, int]:
        while True:
            video = rng.randrange(len(self.things))
            seen = [t.kind for t in self.things[video]]
            if rng.random() < 0.5 and seen:
                heard = frozenset(rng.sample(seen, min(len(seen), rng.choice((1, 1, 2, 2, 3)))))
            elif rng.random() < 0.5 and seen:
                heard = frozenset((rng.choice(seen), *(rng.randrange(len(KINDS)) for _ in range(rng.choice((1, 1, 2))))))
            else:
                heard = frozenset(x.kind for x in self.noises[rng.randrange(len(self.noises))])
            if self.by_sounds.get(heard) and not any(held_out_pair(s, h) for s in seen for h in heard):
                return video, rng.choice(self.by_sounds[heard])


# How often a family is asked of a clip that has such facts, and the weight of its loss.
ASKED = {
    "matching": (1.0, 2.0),
    "caption": (1.0, 0.7),
    "count": (0.8, 1.5),
    "color": (0.7, 1.0),
    "place": (0.6, 1.0),
    "first": (0.8, 1.5),
    "end": (0.5, 1.0),
    "more": (0.7, 1.5),
    "loudest": (0.7, 1.5),
    "sounding": (0.8, 1.5),
    "louder": (0.5, 1.5),
    "longer": (0.5, 1.5),
    "heard_count": (0.6, 1.0),
    "first_place": (0.7, 1.5),
    "loudest_place": (0.7, 1.5),
}


@dataclass(frozen=True)
class Example:
    """A question with its answer and weight. A list ("color? bell red car blue") has the answer in every second word, and no
    sign that the assistant begins.
    """

    family: str
    text: str
    answer: str
    weight: float
    is_list: bool = False


def examples(rng: random.Random, things, noises, hidden_kinds=frozenset()) -> list[Example]:
    """The questions that are asked of one clip. things or noises None: the clip lacks that stream. `hidden_kinds`: objects
    that only unsampled frames show; no question names them, and none is asked that they would decide.
    """
    kinds_seen = [t.kind for t in things or ()]
    kinds_heard = [n.kind for n in noises or ()]
    found, out = facts(things, noises), []
    if hidden_kinds & set(kinds_heard):
        for family in ("matching", "sounding", "first_place", "loudest_place"):
            found.pop(family, None)

    def ask(fact: Fact, weight):
        text = fact.text(rng.choice(seen(fact.family)))
        if fact.family in YES_NO_FAMILIES:
            text += rng.choice(YES_NO) if rng.random() < 0.5 else ""
        elif fact.family != "caption":
            text += rng.choice(ONE_WORD) if rng.random() < 0.15 else ""
        out.append(Example(fact.family, text, fact.answer, weight))

    def absent(present, other):
        """A kind that is not there; mostly one of the other stream, which is what hallucination would name."""
        others = [k for k in other if k not in present and k not in hidden_kinds]
        if others and rng.random() < 0.6:
            return rng.choice(others)
        return rng.choice([k for k in range(len(KINDS)) if k not in present and k not in hidden_kinds])

    def yes_and_no(family, present, other, weight):
        by_kind = {fact.blanks[0]: fact for fact in found[family]}
        ask(by_kind[rng.choice(present)], weight)
        ask(by_kind[absent(present, other)], weight)

    def list_words(head, answers: dict[str, str], weight):
        words = rng.sample(sorted(answers), len(answers))
        out.append(Example(f"list {head}", f"{head}?", " ".join(f"{w} {answers[w]}" for w in words), weight, True))

    def listing(head, answers: dict[int, str], weight):
        list_words(head, {KINDS[k]: answer for k, answer in answers.items()}, weight)

    def mixed(head, present, other, weight):
        kinds = set(present) | {absent(present, other) for _ in range(3)}
        listing(head, {k: "yes" if k in present else "no" for k in kinds}, weight)

    if kinds_seen:
        yes_and_no("visible", kinds_seen, kinds_heard, 1.5)
        listing("color", {t.kind: COLORS[t.color] for t in things}, 2.0)
        listing("left or right", {t.kind: place(t) for t in things}, 2.0)
    if kinds_heard:
        yes_and_no("heard", kinds_heard, kinds_seen, 1.5)
    if things is not None:
        mixed("visible", kinds_seen, kinds_heard, 1.0)
        count = NUMBERS[len(things)]
        list_words("how many", {n: "yes" if n == count else "no" for n in NUMBERS}, 1.0)
    if noises is not None:
        mixed("making sound", kinds_heard, kinds_seen, 1.0)
    if len(kinds_heard) > 1:
        listing("first or last", {kinds_heard[0]: "first", kinds_heard[-1]: "last"}, 2.0)
    if most := loudest(noises or []):
        listing("loudest", {n.kind: "yes" if n is most else "no" for n in noises}, 1.0)
    if most := longest(noises or []):
        listing("longer", {n.kind: "yes" if n is most else "no" for n in noises}, 1.0)
    for family, (share, weight) in ASKED.items():
        if found.get(family) and rng.random() < share:
            ask(rng.choice(found[family]), weight)
    choices = [f for f in CHOICES if found.get(f)]
    asked = rng.sample(choices, min(len(choices), 1 + (rng.random() < 0.3)))
    if "count" in choices and "count" not in asked and rng.random() < 0.3:
        asked.append("count")  # a number is harder to find among options than a name
    for family in asked:
        fact = rng.choice(found[family])
        text, letter = four_options(
            rng, fact, fact.text(rng.choice(seen(family))), rng.choice(LETTER), [*kinds_seen, *hidden_kinds], kinds_heard
        )
        out.append(Example("four options", text, letter, 1.5))
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
        texts, self.families = [], {}  # family -> its number in `family`, which is -1 where an answer ends
        for has_video, has_audio, asked in rows:
            end = 2 + N_VIDEO * has_video + N_AUDIO * has_audio
            ids, positions, segments, labels, weights, asked_of = [], [], [], [], [], []
            for segment, example in enumerate(asked):
                is_list = example.is_list
                head = tokenizer.encode(example.text) + ([] if is_list else [tokenizer.assistant_id])
                tail = tokenizer.encode(example.answer) + ([] if is_list else [tokenizer.eos_id])
                family = self.families.setdefault(example.family, len(self.families))
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
                    weights.append(example.weight * (0.3 if follows == tokenizer.eos_id else 1.0) / (2 if is_list else 1))
                    asked_of.append(family if follows != tokenizer.eos_id else -1)
            texts.append((ids, positions, segments, labels, weights, asked_of))
        n_text = max(len(t[0]) for t in texts)
        pad = lambda i, value: torch.tensor([t[i] + [value] * (n_text - len(t[i])) for t in texts])  # noqa: E731
        self.ids, text_positions, segment = pad(0, 0), pad(1, 0), pad(2, -1)
        self.labels, self.weights, self.family = pad(3, -100), pad(4, 0.0), pad(5, -1)
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
        no_media = mask.clone()
        no_media[:, n_media:, 2:n_media] = False
        self.mask, self.no_media = mask[:, None], no_media[:, None]
        self.n_media = n_media
        self.audio_columns = slice(2 + len(video_columns), n_media)
