"""Which questions a rendered set asks of its scenes.

Balanced so that nothing can be had without looking and listening: as many of each answer where the answers are few, and for
"visible" and "heard" as many yes as no to the same words as the clips allow. Most things asked about in vain are there in
the other stream.
"""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass

from fastav.tiny.questions import CHOICES, LETTERS, NUMBERS, YES_NO_FAMILIES, Fact, facts, four_options
from fastav.tiny.scenes import Scene
from fastav.tiny.wordings import LETTER, seen, unseen

FOUR_OPTIONS = "four_options"
BOTH = (("seen", seen), ("unseen", unseen))
# Family -> its answers where they are few, each asked equally often.
ANSWERS = {
    **dict.fromkeys(YES_NO_FAMILIES, ("yes", "no")),
    **dict.fromkeys(("place", "first_place", "loudest_place"), ("left", "right")),
    **dict.fromkeys(("count", "heard_count"), NUMBERS[1:]),
    "more": ("more", "fewer"),
}
OTHERS = ("caption", "color", "first", "end", "loudest", "sounding", FOUR_OPTIONS)
FAMILIES = (*ANSWERS, *OTHERS)
HALVES = ("first_place", "loudest_place")  # two families that share one task


@dataclass(frozen=True)
class Asked:
    """`fact` is the same for the same fact of the same clip in another wording."""

    family: str
    text: str
    answer: str
    wording: str  # seen or unseen in training
    fact: str


class Questioner:
    """Asks `n` questions of each of the families. With `paired`, each fact is asked in a seen and in an unseen wording."""

    def __init__(self, seed: int, n: int, paired: bool = False, families: tuple[str, ...] = FAMILIES):
        self.rng, self.paired = random.Random(f"questions {seed}"), paired
        self.left: Counter = Counter()  # (family, answer or None) -> facts still to ask
        for family in families:
            total = -(-n // 2) if family in HALVES else n
            answers = ANSWERS.get(family, (None,))
            self.left.update({(family, answer): -(-total // len(answers)) for answer in answers})
        self.owed: Counter = Counter()  # question text -> yes answers given minus no answers given
        self.letters = 0

    @property
    def done(self) -> bool:
        return not +self.left

    def ask(self, scene: Scene) -> list[Asked]:
        """What is asked of this scene."""
        found, out = facts(scene.things, scene.noises), []
        for family, answer in list(+self.left):
            if family == FOUR_OPTIONS:
                own = self._with_options(scene, found)
            else:
                fitting = [fact for fact in found.get(family, []) if answer in (None, fact.answer)]
                own = self._once(scene, family, fitting) if fitting else []
            if own:
                self.left[family, answer] -= 1
                out += own
        return out

    def _once(self, scene, family, fitting: list[Fact]) -> list[Asked]:
        fitting = self._tempting(scene, family, fitting)
        if self.paired:
            fact = self.rng.choice(fitting)
            texts = [(how, fact.text(self.rng.choice(of(family)))) for how, of in BOTH]
        else:
            sign = {"yes": 1, "no": -1}.get(fitting[0].answer, 0)
            ways = [(how, fact, fact.text(wording)) for fact in fitting for how, of in BOTH for wording in of(family)]
            least = min(sign * self.owed[text] for _, _, text in ways)
            how, fact, text = self.rng.choice([way for way in ways if sign * self.owed[way[2]] == least])
            self.owed[text] += sign
            texts = [(how, text)]
        name = "-".join([family, *map(str, fact.blanks)])
        return [Asked(family, text, fact.answer, how, name) for how, text in texts]

    def _tempting(self, scene, family, fitting: list[Fact]) -> list[Fact]:
        """Six times in ten, of the objects that are not there those of the other stream."""
        other = {x.kind for x in {"visible": scene.noises, "heard": scene.things}.get(family, ())}
        near = [fact for fact in fitting if fact.answer == "no" and other.issuperset(fact.blanks)]
        return near if other and near and self.rng.random() < 0.6 else fitting

    def _with_options(self, scene, found) -> list[Asked]:
        family = self.rng.choice([family for family in CHOICES if found.get(family)])
        fact, at = self.rng.choice(found[family]), self.letters % len(LETTERS)
        self.letters += 1
        if self.paired:
            stems = [(how, self.rng.choice(of(family))) for how, of in BOTH]
        else:
            stems = [self.rng.choice([(how, wording) for how, of in BOTH for wording in of(family)])]
        seen_kinds, heard_kinds = [t.kind for t in scene.things], [n.kind for n in scene.noises]
        instruction, options, out = self.rng.choice(LETTER), self.rng.random(), []
        for how, wording in stems:
            stem = fact.text(wording)
            same = random.Random(options)  # the same options in both wordings
            text, letter = four_options(same, fact, stem, instruction, seen_kinds, heard_kinds, at)
            out.append(Asked(FOUR_OPTIONS, text, letter, how, f"{FOUR_OPTIONS}-{family}"))
        return out
