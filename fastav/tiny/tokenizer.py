"""A word-level tokenizer: the words of the tiny world and of its questions."""

from __future__ import annotations

import re
from difflib import get_close_matches

from fastav.errors import UserError
from fastav.tiny.drawing import COLORS, KINDS
from fastav.tiny.questions import LETTERS, NUMBERS
from fastav.tiny.wordings import LETTER, ONE_WORD, WORDINGS, YES_NO

SPECIAL = ("<bos>", "<user>", "<assistant>", "<eos>", "none")
_ALIASES = {"colour": "color", "colours": "color", "an": "a"}
_ANSWERED = (
    "yes",
    "no",
    "left",
    "right",
    "more",
    "fewer",
    "a",
    "and",
    "is",
    "are",
    "visible",
    "heard",
    "nothing",
    ",",
    ".",
    "object",
)
_ELSEWHERE = ("last", "(", ")")  # in the lists that training asks for, and around an option's letter
# The letter of an option is a word of its own, in upper case: the article is none.
_WORD = re.compile(rf"(?P<letter>(?<![A-Za-z])[{LETTERS}](?=[.)]|$))|[A-Za-z]+|[0-9]+|[^\sA-Za-z0-9]")


def split(text: str) -> list[str]:
    return [m.group() if m["letter"] else m.group().lower() for m in _WORD.finditer(text.strip())]


def _vocabulary() -> list[str]:
    asked = [text.replace("{}", " ") for wordings in (*WORDINGS.values(), YES_NO, LETTER, ONE_WORD) for text in wordings]
    words = [w for text in asked for w in split(text)]
    return list(dict.fromkeys((*SPECIAL, *KINDS, *COLORS, *_ANSWERED, *NUMBERS, *LETTERS, *_ELSEWHERE, *words)))


class Tokenizer:
    """words: the vocabulary, by id; a checkpoint brings its own. encode splits off punctuation and lower-cases; decode spells
    an answer as a sentence.
    """

    def __init__(self, words: list[str] | None = None):
        self.words = words or _vocabulary()
        self.ids = {word: i for i, word in enumerate(self.words)}
        self.bos_id, self.user_id, self.assistant_id, self.eos_id = (self.ids[w] for w in SPECIAL[:4])

    def encode(self, text: str) -> list[int]:
        """Raises UserError naming the first unknown word and the nearest known ones."""
        words = [_ALIASES.get(w, w) for w in split(text)]
        for word in words:
            if word not in self.ids:
                known = sorted(w for w in self.words if w.isalpha())
                nearest = get_close_matches(word, known, n=3, cutoff=0.5)
                raise UserError(
                    f"FastAV-tiny does not know the word {word!r}"
                    + (f"; the nearest that it knows: {', '.join(nearest)}" if nearest else "")
                    + f". Its config.json lists all {len(known)} words; it knows the objects {', '.join(KINDS)}"
                )
        return [self.ids[w] for w in words]

    def decode(self, ids: list[int]) -> str:
        words = [self.words[i] for i in ids if self.words[i] not in SPECIAL[:4]]
        text = re.sub(r" ([.,?])", r"\1", " ".join(words))
        return text[:1].upper() + text[1:]
