"""The words of the yes/no reader (yes_no_reader.py): what each says, and what is rewritten before words are looked up."""

from __future__ import annotations


def _forms(stems: str) -> str:
    """Each verb with its regular endings."""
    return " ".join(f"{s} {s}s {s}es {s}ed {s}d {s}ing {s.removesuffix('e')}ing" for s in stems.split())


# kind -> words. V visible, A audible, M matching, P there (the clause tells where); + or - is what a word says without a "not".
_WORDS = {
    "V+": "visible see sees seen seeing shown",
    "V-": "invisible unseen hidden",
    "A+": "audible hear hears heard hearing",
    "A-": "inaudible unheard silent silently quiet mute muted soundless",
    "P+": "exist present find finds found "
    + _forms("show contain include feature appear depict display capture detect notice observe spot identify"),
    "P-": "absent missing",
    "M+": _forms("match correspond align agree fit suit belong relate connect correlate link synchronize synchronise coincide")
    + " fitting alignment agreement consistent consistently consistency correspondence relation relationship connection"
    " correlation synchronization synchronous coherent coherence compatible congruent related relevant same",
    "M-": _forms("mismatch contradict conflict clash differ disagree diverge")
    + " inconsistent inconsistency inconsistencies contradiction contradictory difference differences different discrepancy"
    " discrepancies incoherent incompatible incongruent incongruous irrelevant unrelated unmatched unaligned misaligned"
    " unsynchronized unsynchronised asynchronous disconnected dissimilar",
    "sound": "sound sounds noise noises",
    "bark": "sang ringing rang crying cries "
    + _forms("bark howl growl meow chirp sing speak talk shout scream laugh cry honk beep tick roar hum buzz ring chime whistle"),
    "audio": "audio soundtrack",
    "video": "video clip visual visuals scene frame frames footage image picture screen",
    "yes": "yes yeah yep yup affirmative",
    "no": "nope nah negative",
    "not": "not no nor never nothing none neither nobody nowhere without fail fails failed unable impossible",
    "verb": "is are was were am can could do does did has have had will",
    "doubt": "maybe perhaps possibly possible possibility may might if whether unless partial partially partly"
    " somewhat hardly scarcely necessarily doubt doubts doubtful depends ambiguous",
    "true": "true correct right accurate",
    "false": "false incorrect wrong untrue inaccurate",
    "this": "this that which",
    "claim": "statement answer claim assertion",
    "it": "it its they their them he his him she her both one",
    "we": "i we you",
    "other": "other another else",
    "place": "in on at near behind beside under over inside around",
    "join": ", and",
    "turn": "but although though while whereas however because so since yet as",
    # neither a subject nor a claim, and no noun that "no" could belong to
    "small": "a an the of from by to like for with into through than there here these those or also only even still"
    " always again then now too just all each every some be been being would based given what who where when",
    # likewise, but "no" may belong to it
    "vague": "any such very clear way case sign signs evidence indication trace content contents context contexts part parts side"
    " left middle throughout during beginning end quite really much more most well think believe say come comes came coming"
    " make makes made making produce produces producing",
}
KIND = {word: kind for kind, words in _WORDS.items() for word in words.split()}
_NOUNS_IN_LY = {"family", "butterfly", "fly", "belly", "jelly"}
_PLURALS = {"men": "man", "women": "woman", "people": "person", "children": "child", "mice": "mouse"}


def kind(word: str) -> str:
    """One of the keys above; "noun" for all other words, except for adverbs in -ly, which are "vague"."""
    return KIND.get(word) or ("vague" if word.endswith("ly") and word not in _NOUNS_IN_LY else "noun")


def same(a: str, b: str) -> bool:
    """Whether two nouns are one, be it in the singular or in the plural."""
    return not _numbers(a).isdisjoint(_numbers(b))


def _numbers(noun: str) -> set[str]:
    endings = (("s", ""), ("es", ""), ("ies", "y"))
    return {noun, _PLURALS.get(noun, noun)} | {noun.removesuffix(old) + new for old, new in endings if noun.endswith(old)}


# (pattern, what takes its place), in this order.
REWRITES = (
    # marks, echo, questions, reported speech
    (r"<[^<>]*>|[*_`#~\"“”«»{}\[\]\\]|(?<![a-z])['‘]|'(?![a-z])", " "),
    (r"\byes\s*(?:or|/)\s*no\b|\bno\s*(?:or|/)\s*yes\b", " "),
    (r"(?:^|(?<=[.!?;:\n]))[^.!?;:\n]*\?", " "),
    (r"\b(?:says|said|saying|shouts|shouting|reads|reading) (?:yes|no)\b", " "),
    (r"\bno\.? ?\d+", "number"),
    (r"[—–()]|\s-+\s", ", "),
    # short forms
    (r"\b(?:can't|cannot)\b", "can not"),
    (r"\bwon't\b", "will not"),
    (r"n't\b", " not"),
    (r"\b(it|that|there|he|she|what|here)'s\b", r"\1 is"),
    (r"'re\b", " are"),
    (r"'m\b", " am"),
    # phrases that say nothing
    (r"\b(?:(?:there is|i have) )?(?:no|without(?: a| any)?) (?:doubt|question|problem)(?: about (?:it|that))?(?: that)?\b", " "),
    (r", (?:however|in fact|indeed|of course|actually|i (?:think|believe)),|\bas far as i can \w+|\bat the same time\b", " "),
    (r"\bnot (?:only|just|merely|simply)\b", " "),
    (r"\b(?:nothing|nobody|no one) (?:but|except|other than)\b", "only"),
    (r"\b(?:seem|appear|look)(?:s|ed)? (?:to|that|as if|as though|like)\b", " "),
    # phrases that a word says as well
    (r"\bcould (?!not\b|(?:\w+ly )?(?:be )?(?:\w+ly )?(?:heard?|seen?)\b)", "might "),
    (r"\b(?:think|believe|guess) so\b", "yes"),
    (r"\bno one\b", "nobody"),
    (r"\bno longer\b", "not"),
    (r"\bor (?:any )?other\b", "or"),
    (r"\b(?:instead of|rather than)\b", ", not"),
    (r"\bwithout\b", ", without"),
    (r"\b(?:in front of|next to|close to)\b", "near"),
    (r"\bthere((?: \w+){0,2}?) (?:is|are|was|were|be)\b", r"\1 exist"),
    (r"\b(?:has|have|having) (?=(?:an?|the|no|any|some|only)\b)", "contain "),
    (r"\bexist (?:\w+ ){0,2}(?:lack|absence)(?: of)?\b", "not exist"),
    (r"\b(?:lacks?|lacking|absence)(?: of)?\b", "not contain"),
    (r"\b(?:(?:only|complete|total) )*silence\b", "no sound"),
    (r"\b(?:(?:exist|see|find) )?(?:no|not any) (?:\w+ )?(?:evidence|indication|signs?|trace) that\b", "not"),
    (r"\b(exist|sees?|hears?|shows?|contains?|includes?|features?|detect|find) (?:no|not|nothing|none|neither)\b", r"not \1"),
    (r"\b(?:mak|produc|emitt?|giv)(?:e|es|ing|s) (?:(?:an?|any|some|the|loud|out|off) )*(?:sounds?|noises?)\b", "audible"),
    (r"\b(?:in (?:perfect )?(?:sync|line|step)|go(?:es|ing)? (?:well )?(?:together|with))\b", "match"),
    (r"\bout of sync\b", "mismatch"),
    (r"\b(?:to do with|in common)\b", "related"),
    (r"\b(?:out of|off|outside)[ -]?(?:the )?(?:view|frame|sight|screen|camera)\b", "invisible"),
    (r"\b(?:in|into|on)[ -]?(?:view|frame|sight|screen|camera)\b", "visible"),
)  # fmt: skip

# A sentence that cannot tell; but "not sure what breed it is" is about something else.
_ELSE = r"(?! (?:what|which|who|where|when|why|how)\b)"
_TELL = r"(?:(?:tell|say|know|confirm|answer|judg|determin)(?:e?d?|n|ing)|said|told|verify|verified)"
UNSURE = (
    rf"\b(?:not (?:sure|certain|clear|enough)|unclear|uncertain|unsure|inconclusive)\b{_ELSE}"
    rf"|\b(?:not|way|unable|hard|difficult|impossible)(?: \w+ly)?(?: (?:to|of|be|able to|possible to))? {_TELL}\b{_ELSE}"
    r"|\b(?:not|unable to)(?: \w+ly)? (?:see|hear|view|watch|play|access|process|listen to)"
    r" (?:(?:the|this|any|your) )?(?:video|audio|clip|file)s?\b(?! of)"
)
ASSENT = r"[\s,.!]*(?:sure|certainly|absolutely|definitely|indeed|exactly|of course)[\s,.!]*"
