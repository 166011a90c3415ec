"""The yes/no reader: answer text and question -> "Yes", "No" or "unknown". Pure: no model, no file.

The rules, in this order (the words are in yes_no_words.py):

1. Set aside what is no answer: markup, quotes, questions, the prompt repeated, reported speech, "no. 5", "no doubt".
2. A sentence that cannot tell ("not sure", "no way to know") says nothing. "Maybe", "might" or "if" silences its clause and
   the rest of the sentence; alone in a clause ("Yes, perhaps.") it silences the whole sentence.
3. An answer word decides (yes, yep, no, nope; after a "not" it is the other one). "No" is one where it stands by itself or
   before a function word; "no dog" and "no mismatch" hold none. Two that differ are unknown, and so is one whose
   explanation begins with the opposite ("Yes, the dog is not visible.").
4. Without one the statements decide, clause by clause: something is (not) visible, audible or there, audio and video do (not)
   match. A negation reaches to the next verb after the word that it denies, or to the end of the clause; two cancel
   ("not inaudible", "no mismatch"). A short form ("It is not.", "but the dog is", "That is false.") and a bare "no dog" mean
   what the clause before them means, or else what was asked.
5. A statement counts only for what was asked. "There is a dog" tells of sight, "there is no dog" of sight and sound, unless
   the clause names the audio, the video or a sound. Its subject must be the noun of the question (the last word of the first
   noun phrase, singular or plural), a pronoun for it, or left out ("not visible"); any other noun, "another dog", and a sound
   that is nobody's ("singing is heard") say nothing. Statements about matching need no subject.
6. Statements that agree are the answer; none, or two that contradict each other, are unknown.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import pairwise, takewhile

from eval.scorers.scorer import UNKNOWN
from eval.scorers.yes_no_words import ASSENT, REWRITES, UNSURE, kind, same

ANYTHING = "VAM"  # the letters of yes_no_words.py
OURS = "*"  # stands in an answer for the noun of the question, whatever else that word may mean
_AFTER_AN_ANSWER = {"join", "turn", "small", "verb", "it", "we", "this", "not", "yes", "no"}
_TOKEN = re.compile(r"[a-z0-9]+(?:['-][a-z0-9]+)*|,")


def read(answer: str, question: str | None = None, asked: str = ANYTHING) -> tuple[str, str]:
    """(what `answer` says, why: the words and statements that it was read from), by the rules above.

    question: its text; without it every statement counts, whatever its subject. asked: what it asks for, letters of V, A and M.
    """
    text = answer.lower().replace("’", "'")
    reader = _Reader(question, asked)
    for pattern, new in ((reader.echo, " "), *REWRITES):
        text = re.sub(" +", " ", re.sub(pattern, new, text))
    if reader.asked == "A":
        text = re.sub(r"'s\b", "", text)  # the dog's bark speaks for the dog, its tail does not
    if re.fullmatch(ASSENT, text):
        return "Yes", "assent"
    for sentence in re.split(r"[.!;:\n]", text):
        if not re.search(UNSURE, sentence):
            reader.sentence([OURS if same(word, reader.noun) else word for word in _TOKEN.findall(sentence)])
    said = reader.answers or reader.statements
    if len(set(said)) != 1 or (question is not None and reader.statements and reader.statements[0] != said[0]):
        return UNKNOWN, reader.why() or "nothing said"
    return said[0], "" if len(reader.answers) == 1 and not reader.statements else reader.why()


class _Reader:
    """What has been read of one answer."""

    def __init__(self, question: str | None, asked: str):
        self.answers: list[str] = []  # the answer words: "Yes" or "No"
        self.statements: list[str] = []  # the statements about what was asked: "Yes" or "No"
        text = question.lower() if question is not None else ""
        self.echo = re.escape(text.strip(" ?")) or r"(?!)"
        self.question = _TOKEN.findall(text)
        self.asked = asked
        self.noun = _first_noun(self.question) if self.asked in ("V", "A") else ""
        self.ours = True  # the subject spoken of is the noun of the question
        self.owned = True  # the clause at hand tells whose sound it speaks of, if it speaks of one

    def why(self) -> str:
        found = (("answer words", self.answers), ("statements", self.statements))
        return "; ".join(f"{name}: {', '.join(said)}" for name, said in found if said)

    def sentence(self, words: list[str]):
        answers, statements, before = [], [], ""
        for clause in _clauses(words):
            kinds = [kind(word) for word in clause]
            if "doubt" in kinds:
                if {*kinds} <= {"doubt", "not", "it", "we", "verb", "small", "vague"}:
                    answers, statements = [], []
                break
            if kinds[-1] in ("yes", "no"):
                answers.append(_said((kinds[-1] == "no") != _odd(kinds, "not")))
                continue
            self.subject(clause, kinds, first=not before)
            for letter, negative in _claims(clause, kinds):
                before = self.meaning(letter, negative, kinds, before)
                if self.ours and (self.owned or negative) and not {*before}.isdisjoint(self.asked):
                    statements.append(_said(negative))
        self.answers += answers
        self.statements += statements

    def subject(self, clause: list[str], kinds: list[str], first: bool):
        """Sets `ours`. A pronoun stands for the subject before it; `first` in a sentence, no subject means the question's."""
        if self.asked == "M":
            return
        named = OURS in _nouns(clause)
        claim = next((i for i, k in enumerate(kinds) if _is_predicate(k) or k == "sound"), len(kinds))
        self.owned = named or "it" in kinds or {"sound", "bark"}.isdisjoint(kinds)
        if any(k == "other" and word not in self.question for word, k in zip(clause, kinds, strict=True)):
            self.ours = False
        elif named or not self.noun:
            self.ours = True
        elif _nouns(clause[:claim]) or ("it" not in kinds and _nouns(clause[claim:])):
            self.ours = False
        elif "it" not in kinds and (first or "sound" in kinds or "nothing" in clause):
            self.ours = True

    def meaning(self, letter: str, negative: bool, kinds: list[str], before: str) -> str:
        """What a claim speaks of, as letters of V, A and M; `before` is what the one before it in the sentence spoke of."""
        if letter in "VAM":
            return letter
        places = "V" * ("video" in kinds) + "A" * ("audio" in kinds)
        if letter == "=":
            return ("" if self.asked == "M" else places) or before or ANYTHING
        if "sound" in kinds:
            return "A"
        if "bark" in kinds:
            return "A" if negative or places == "A" else "VA"
        if letter == "N":
            places = places or before
        return places or ("VA" if negative or self.question[:2] == ["is", "there"] else "V")


def _clauses(words: list[str]) -> list[list[str]]:
    """The clauses of a sentence. Parts of a list ("a man, a cat and a dog are visible") are one: only one of them claims."""
    clauses: list[tuple[bool, list[str]]] = []
    for listed, part in _parts(words):
        if listed and _is_open(clauses[-1][1]):
            clauses[-1][1].extend(part[part[0] == "nor" :])
        else:
            clauses.append((listed, part))
    for (_, before), (listed, part) in pairwise(clauses):
        if listed and _is_open(part):
            before.extend(part)
            part.clear()
    return [clause for _, clause in clauses if clause]


def _parts(words: list[str]) -> Iterator[tuple[bool, list[str]]]:
    """(may go on a list, words): a sentence cut at commas, "and", "nor", "but" and the like, and after an answer word."""
    listed, part = False, []
    for word, after in pairwise([*words, ",", ","]):
        if word == "no" and kind(after) in _AFTER_AN_ANSWER:
            word = "nope"
        k = kind(word)
        if k in ("join", "turn") or word == "nor":
            if part:
                yield listed and (part[0] == "nor" or kind(part[0]) != "not"), part
            listed, part = (bool(part) or listed) and k != "turn", ["nor"] if word == "nor" else []
        elif k in ("yes", "no"):
            yield False, [*part, word]
            listed, part = False, []
        else:
            part.append(word)


def _is_open(clause: list[str]) -> bool:
    """Whether a clause claims nothing yet."""
    kinds = [kind(word) for word in clause]
    claims = any(map(_is_predicate, kinds[kinds[0] == "bark" :])) or ("sound" in kinds and "not" in kinds) or _is_short(kinds)
    return not claims and "doubt" not in kinds and kinds[-1] not in ("yes", "no")


def _is_short(kinds: list[str]) -> bool:
    """Whether a clause leaves its predicate out: "not really", "that is correct", "it is", "the cat does not"."""
    core = [k for k in kinds if k not in ("small", "vague")]
    inside, last = {*core[:-1]}, core[-1:]
    return (
        {*core} == {"not"}
        or (not {"true", "false"}.isdisjoint(core) and {*core} <= {"true", "false", "verb", "not", "it", "we", "this", "claim"})
        or core[-2:] == ["verb", "not"]
        or (last == ["verb"] and bool(inside) and inside <= {"it", "we", "noun", "not", "other", "verb"})
    )


def _claims(clause: list[str], kinds: list[str]) -> list[tuple[str, bool]]:
    """(what it says, denied) for each claim: "V", "A", "M", "P" there, "N" a bare "no dog", "=" a short form."""
    claims, sounds = [], []
    denied = used = held = False
    for word, k in zip(clause, kinds, strict=True):
        if k == "not":
            denied = not denied
        elif word == "that":
            held = used  # "I see no sign that it is ..."
        elif k == "verb" and used and not held:
            denied = used = False
        elif _is_predicate(k):
            (sounds if k == "bark" else claims).append((k[0], denied != k.endswith("-")))
            used = used or k != "bark"
    if any(letter == "M" for letter, _ in claims):
        claims = [claim for claim in claims if claim[0] != "P"]  # "there is no mismatch" tells of no thing
    if {letter for letter, _ in claims} <= {"V"}:
        claims += [("A", no) for _, no in sounds]
    if not claims and "sound" in kinds:
        claims = [("A", denied)]
    elif not claims and _is_short(kinds):
        claims = [("=", denied)]
    elif not claims and kinds[0] == "not" and "claim" not in kinds:
        claims = [("N", denied)]
    return [(letter, no != _odd(kinds, "false")) for letter, no in claims]


def _is_predicate(k: str) -> bool:
    return k.endswith(("+", "-")) or k == "bark"


def _nouns(words: list[str]) -> list[str]:
    """The nouns, without those that only tell a place ("near the dog")."""
    nouns, place = [], False
    for word in words:
        k = kind(word)
        place = k == "place" or (place and k in ("small", "vague", "noun"))
        if k == "noun" and not place:
            nouns.append(word)
    return nouns


def _first_noun(words: list[str]) -> str:
    """The last word of a question's first noun phrase. After an article any word is a noun ("the whistle")."""
    articles = {"the", "a", "an"}
    start = next((i + (w in articles) for i, w in enumerate(words) if w in articles or kind(w) == "noun"), len(words))
    phrase = [word for word in words[start:] if kind(word) != "other"]
    more = takewhile(lambda word: kind(word) == "noun", phrase[1:])
    return [*phrase[:1], *more][-1] if phrase else ""


def _odd(kinds: list[str], k: str) -> bool:
    return kinds.count(k) % 2 == 1


def _said(no: bool) -> str:
    return "No" if no else "Yes"
