"""A word-level tokenizer: the words of the tiny world and of its questions."""

from __future__ import annotations

import re

from fastav.errors import UserError
from fastav.tiny.drawing import COLORS, KINDS
from fastav.tiny.questions import NUMBERS, WORDINGS, YES_NO

SPECIAL = ("<bos>", "<user>", "<assistant>", "<eos>", "none")
_ALIASES = {"colour": "color", "colours": "color", "an": "a"}


def split(text: str) -> list[str]:
    return re.findall(r"[a-z]+|[0-9]+|[^\sa-z0-9]", text.lower())


def _vocabulary() -> list[str]:
    asked = [w for wordings in WORDINGS.values() for text in (*wordings, YES_NO) for w in split(text.replace("{}", " "))]
    answered = [
        "yes",
        "no",
        "left",
        "right",
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
        *NUMBERS,
    ]
    return list(dict.fromkeys((*SPECIAL, *KINDS, *COLORS, *answered, *asked)))


class Tokenizer:
    """words: the vocabulary, by id. encode splits off punctuation and lower-cases; decode spells an answer as a sentence."""

    def __init__(self):
        self.words = _vocabulary()
        self.ids = {word: i for i, word in enumerate(self.words)}
        self.bos_id, self.user_id, self.assistant_id, self.eos_id = (self.ids[w] for w in SPECIAL[:4])

    def encode(self, text: str) -> list[int]:
        """Raises UserError naming the first unknown word and listing the known ones."""
        words = [_ALIASES.get(w, w) for w in split(text)]
        for word in words:
            if word not in self.ids:
                known = sorted(w for w in self.words if w.isalpha())
                raise UserError(f"FastAV-tiny does not know the word {word!r}; it knows: {', '.join(known)}")
        return [self.ids[w] for w in words]

    def decode(self, ids: list[int]) -> str:
        words = [self.words[i] for i in ids if self.words[i] not in SPECIAL[:4]]
        text = re.sub(r" ([.,?])", r"\1", " ".join(words))
        return text[:1].upper() + text[1:]
