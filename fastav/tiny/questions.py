"""Questions about a scene, their wordings and answers. Each family has ten wordings for training and two that only tests use."""

from __future__ import annotations

from fastav.tiny.drawing import COLORS, KINDS
from fastav.tiny.world import SIDE, Noise, Thing

WORDINGS = {
    "visible": (
        "Is the {} visible in the video?",
        "Can you see the {}?",
        "Does the {} appear in the video?",
        "Is there a {} in the video?",
        "Do you see a {} in the video?",
        "Is a {} shown in the video?",
        "Is the {} visible?",
        "Can you see a {}?",
        "Do you see the {} in the video?",
        "Is there a {} visible in the video?",
        "Can you see a {} in the video?",
        "Is the {} shown?",
    ),
    "heard": (
        "Is the {} making sound in the audio?",
        "Can you hear the {}?",
        "Does the {} make a sound in the audio?",
        "Is there a {} in the audio?",
        "Do you hear a {} in the audio?",
        "Is a {} heard in the audio?",
        "Is the {} heard in the audio?",
        "Can you hear a {}?",
        "Do you hear the {}?",
        "Is the {} making a sound?",
        "Can you hear a {} in the audio?",
        "Is the {} heard?",
    ),
    "matching": (
        "Are the contexts of audio and visual content matching?",
        "Do the audio and the video match?",
        "Does the audio match the video?",
        "Is the audio matching the visual content?",
        "Do the sound and the video match?",
        "Are the audio and the video matching?",
        "Do the video and the audio match?",
        "Is the visual content matching the audio?",
        "Are the sound and the video matching?",
        "Does the video match the audio?",
        "Does the sound match the video?",
        "Is the audio matching the video?",
    ),
    "caption": (
        "Describe what you see and hear in a single sentence.",
        "Describe the video and the audio.",
        "What do you see and hear?",
        "Describe what is visible and heard in a sentence.",
        "What can you see and hear in the video?",
        "Describe the video in a single sentence.",
        "Describe what is visible and what is heard.",
        "What is visible and what is heard?",
        "Describe the audio and the video in a sentence.",
        "What do you see and what do you hear?",
        "Describe what you see and hear.",
        "What do you see and hear in the video?",
    ),
    "count": (
        "How many objects are visible?",
        "How many objects are in the video?",
        "How many objects can you see?",
        "How many objects do you see in the video?",
        "How many objects are shown?",
        "How many objects appear in the video?",
        "How many objects do you see?",
        "How many objects are there?",
        "How many objects are visible in the video?",
        "How many objects appear?",
        "How many objects are shown in the video?",
        "How many objects can you see in the video?",
    ),
    "color": (
        "What color is the {}?",
        "Which color is the {}?",
        "What is the color of the {}?",
        "What color does the {} have?",
        "Which color does the {} have in the video?",
        "What color is the {} in the video?",
        "What is the color of the {} in the video?",
        "Which color does the {} have?",
        "What color is the {} shown in the video?",
        "Which is the color of the {}?",
        "Which color is the {} in the video?",
        "What color does the {} have in the video?",
    ),
    "place": (
        "Is the {} on the left or on the right?",
        "Where is the {}?",
        "On which side is the {}?",
        "Is the {} left or right?",
        "Which side is the {} on?",
        "Where is the {} in the video?",
        "Is the {} on the left or the right?",
        "Where in the video is the {}?",
        "On which side of the video is the {}?",
        "Is the {} on the left side or on the right side?",
        "On which side is the {} in the video?",
        "Which side is the {} on in the video?",
    ),
}
N_TRAINING = 10
YES_NO = " Answer yes or no."
NUMBERS = ("zero", "one", "two", "three")


def matching(things: list[Thing], noises: list[Noise]) -> bool:
    """Audio and video match when every sound's object is visible at some time."""
    seen = {t.kind for t in things}
    return all(n.kind in seen for n in noises)


def place(thing: Thing) -> str:
    return "left" if thing.center_x < SIDE / 2 else "right"


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
