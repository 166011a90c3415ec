"""What can be asked about a scene, and the answers: by family, the facts of a clip. Their words are in wordings.py.

A fact is the objects that fill the blanks of a wording, and the answer. A clip without video or audio (None) has no facts
about it, and facts that would hang on a small difference (of loudness, of length, of the last moment) are not asked.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from fastav.tiny.drawing import COLORS, KINDS
from fastav.tiny.sampling import SIDE
from fastav.tiny.world import Noise, Thing

NUMBERS = ("zero", "one", "two", "three")
LETTERS = "ABCD"
LOUDER, LONGER = 1.5, 1.6  # least ratio of level, and of length, that is asked about
SILENT_AT_END = 0.85  # the last sound ends before this part of the clip, or with the clip


@dataclass(frozen=True)
class Fact:
    family: str
    answer: str
    blanks: tuple[int, ...] = ()  # kinds of the objects named in the question

    def text(self, wording: str) -> str:
        return wording.format(*(KINDS[kind] for kind in self.blanks))


YES_NO_FAMILIES = ("visible", "heard", "matching", "louder", "longer")


def matching(things: list[Thing], noises: list[Noise]) -> bool:
    """Audio and video match when every sound's object is visible at some time."""
    seen = {t.kind for t in things}
    return all(n.kind in seen for n in noises)


def place(thing: Thing) -> str:
    return "left" if thing.center_x < SIDE / 2 else "right"


def loudest(noises: list[Noise]) -> Noise | None:
    """The sound that is clearly louder than every other; None where there is none, or but one sound."""
    return _most(noises, lambda n: n.level, LOUDER)


def longest(noises: list[Noise]) -> Noise | None:
    """The sound that is clearly longer than every other; None where there is none, or but one sound."""
    return _most(noises, lambda n: n.length, LONGER)


def _most(noises, size, ratio) -> Noise | None:
    *_, second, most = [None, None, *sorted(noises, key=size)]
    return most if second and size(most) >= ratio * size(second) else None


def at_end(noises: list[Noise]) -> str | None:
    """What sounds when the clip ends; None where the last sound ends shortly before."""
    last = max((n.end for n in noises), default=0.0)
    return KINDS[noises[-1].kind] if last == 1.0 else "nothing" if last < SILENT_AT_END else None


def _yes_no(yes: bool) -> str:
    return "yes" if yes else "no"


def _compared(noises, size, ratio) -> list[tuple[str, tuple[int, int]]]:
    """Of every two sounds, both ways round, whether the first has more."""
    pairs = [(a, b) for a in noises for b in noises if size(a) >= ratio * size(b)]
    return [fact for a, b in pairs for fact in (("yes", (a.kind, b.kind)), ("no", (b.kind, a.kind)))]


def _of_video(things: list[Thing]) -> dict[str, list]:
    seen = {t.kind for t in things}
    return {
        "visible": [(_yes_no(k in seen), (k,)) for k in range(len(KINDS))],
        "count": [(NUMBERS[len(things)],)],
        "color": [(COLORS[t.color], (t.kind,)) for t in things],
        "place": [(place(t), (t.kind,)) for t in things],
        "which_visible": [(KINDS[t.kind],) for t in things],
    }


def _of_audio(noises: list[Noise]) -> dict[str, list]:
    heard, most, end = {n.kind for n in noises}, loudest(noises), at_end(noises)
    return {
        "heard": [(_yes_no(k in heard), (k,)) for k in range(len(KINDS))],
        "heard_count": [(NUMBERS[len(noises)],)],
        "first": [(KINDS[noises[0].kind],)] if len(noises) > 1 else [],
        "end": [(end,)] if end else [],
        "loudest": [(KINDS[most.kind],)] if most else [],
        "louder": _compared(noises, lambda n: n.level, LOUDER),
        "longer": _compared(noises, lambda n: n.length, LONGER),
        "which_heard": [(KINDS[n.kind],) for n in noises],
    }


def _of_both(things: list[Thing], noises: list[Noise]) -> dict[str, list]:
    by_kind = {t.kind: t for t in things}
    sounding = [t for t in things if any(n.kind == t.kind for n in noises)]
    first, most = noises[0] if len(noises) > 1 else None, loudest(noises)
    return {
        "matching": [(_yes_no(matching(things, noises)),)] if noises else [],
        "more": [("more" if len(things) > len(noises) else "fewer",)] if len(things) != len(noises) else [],
        "sounding": [(KINDS[sounding[0].kind],)] if len(sounding) == 1 and len(things) > 1 else [],
        "first_place": [(place(by_kind[first.kind]),)] if first and first.kind in by_kind else [],
        "loudest_place": [(place(by_kind[most.kind]),)] if most and most.kind in by_kind else [],
    }


def facts(things: list[Thing] | None, noises: list[Noise] | None) -> dict[str, list[Fact]]:
    """Everything that can be asked about a clip, by family. None means that the clip has no such stream."""
    found: dict[str, list] = {"caption": [(caption(things, noises),)]}
    if things is not None:
        found |= _of_video(things)
    if noises is not None:
        found |= _of_audio(noises)
    if things is not None and noises is not None:
        found |= _of_both(things, noises)
    return {family: [Fact(family, *fact) for fact in own] for family, own in found.items()}


# Families that are asked with four options, too. The other options are what the answer could be, those of the clip first.
CHOICES = ("which_visible", "which_heard", "color", "count", "first", "end", "loudest", "sounding")


def four_options(
    rng: random.Random, fact: Fact, text: str, instruction: str, seen: list[int], heard: list[int], at: int | None = None
) -> tuple[str, str]:
    """(question with its options, letter of the answer). `seen` and `heard`: kinds of the clip; `at`: place of the answer,
    at random where it is None.
    """
    if fact.family == "count":
        others = [n for n in NUMBERS if n != fact.answer]
    elif fact.family == "color":
        others = rng.sample([c for c in COLORS if c != fact.answer], 3)
    else:
        wrong = {"which_visible": seen, "which_heard": heard}.get(fact.family, [])
        near = {"which_visible": heard, "which_heard": seen, "sounding": [*seen, *heard]}.get(fact.family, heard)
        near = [k for k in near if k not in wrong and KINDS[k] != fact.answer]
        far = [k for k in range(len(KINDS)) if k not in near and k not in wrong and KINDS[k] != fact.answer]
        kinds = list(dict.fromkeys([*near, *rng.sample(far, len(far))]))
        others = [KINDS[k] for k in kinds]
        if fact.family == "end" and fact.answer != "nothing":
            others.insert(0, "nothing")  # were it an option only where it is right, it would tell
        del others[3:]
    rng.shuffle(others)
    at = rng.randrange(4) if at is None else at
    options = [*others[:at], fact.answer, *others[at:]]
    lines = [f"{letter}. {option}" for letter, option in zip(LETTERS, options, strict=True)]
    return "\n".join([text, *lines, instruction]), LETTERS[at]


def caption(things: list[Thing] | None, noises: list[Noise] | None) -> str:
    """ "A red bell and a blue car are visible, and a siren is heard.": objects from left to right, sounds in time order.

    None means that the clip has no such stream, and the caption then does not speak of it.
    """
    parts = []
    if things is not None:
        names = [f"a {COLORS[t.color]} {KINDS[t.kind]}" for t in things]
        parts.append(_listing(names, "visible"))
    if noises is not None:
        parts.append(_listing([f"a {KINDS[n.kind]}" for n in noises], "heard"))
    return (", and ".join(parts) + ".").capitalize()


def _listing(names: list[str], how: str) -> str:
    if len(names) > 2:
        names = [", ".join(names[:-1]), names[-1]]
    return f"{' and '.join(names) or 'nothing'} {'are' if len(names) > 1 else 'is'} {how}"
