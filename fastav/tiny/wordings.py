"""How the families of questions are put into words: a line each, blanks for objects. The last two of each family are never
used in training; all of their words are known from other questions. Some are templates of MUSIC-AVQA (Li et al., CVPR 2022)."""

from __future__ import annotations

N_UNSEEN = 2


def _lines(text: str) -> tuple[str, ...]:
    return tuple(line.strip() for line in text.strip().splitlines())


WORDINGS: dict[str, tuple[str, ...]] = {
    "visible": _lines("""
        Is the {} visible in the video?
        Can you see the {}?
        Does the {} appear in the video?
        Is there a {} in the video?
        Do you see a {} in the video?
        Is a {} shown in the video?
        Is the {} visible?
        Can you see a {}?
        Do you see the {} in the video?
        Is there a {} visible in the video?
        Is there a {} in the entire video?
        Can you see a {} in the video?
        Is the {} shown?
    """),
    "heard": _lines("""
        Is the {} making sound in the audio?
        Can you hear the {}?
        Does the {} make a sound in the audio?
        Is there a {} in the audio?
        Do you hear a {} in the audio?
        Is a {} heard in the audio?
        Is the {} heard in the audio?
        Can you hear a {}?
        Do you hear the {}?
        Is the {} making a sound?
        Is there a {} sound?
        Can you hear a {} in the audio?
        Is the {} heard?
    """),
    "matching": _lines("""
        Are the contexts of audio and visual content matching?
        Do the audio and the video match?
        Does the audio match the video?
        Is the audio matching the visual content?
        Do the sound and the video match?
        Are the audio and the video matching?
        Do the video and the audio match?
        Is the visual content matching the audio?
        Are the sound and the video matching?
        Does the video match the audio?
        Does the sound match the video?
        Is the audio matching the video?
    """),
    "caption": _lines("""
        Describe what you see and hear in a single sentence.
        Describe the video and the audio.
        What do you see and hear?
        Describe what is visible and heard in a sentence.
        What can you see and hear in the video?
        Describe the video in a single sentence.
        Describe what is visible and what is heard.
        What is visible and what is heard?
        Describe the audio and the video in a sentence.
        What do you see and what do you hear?
        Describe what you see and hear.
        What do you see and hear in the video?
    """),
    "count": _lines("""
        How many objects are visible?
        How many objects are in the video?
        How many objects can you see?
        How many objects do you see in the video?
        How many objects are shown?
        How many objects appear in the video?
        How many objects do you see?
        How many objects are there?
        How many objects are visible in the video?
        How many types of musical instruments appeared in the entire video?
        How many objects are shown in the video?
        How many objects can you see in the video?
    """),
    "color": _lines("""
        What color is the {}?
        Which color is the {}?
        What is the color of the {}?
        What color does the {} have?
        Which color does the {} have in the video?
        What color is the {} in the video?
        What is the color of the {} in the video?
        Which color does the {} have?
        What color is the {} shown in the video?
        Which is the color of the {}?
        Which color is the {} in the video?
        What color does the {} have in the video?
    """),
    "place": _lines("""
        Is the {} on the left or on the right?
        Where is the {}?
        On which side is the {}?
        Is the {} left or right?
        Which side is the {} on?
        Where is the {} in the video?
        Is the {} on the left or the right?
        Where in the video is the {}?
        On which side of the video is the {}?
        Is the {} on the left side or on the right side?
        On which side is the {} in the video?
        Which side is the {} on in the video?
    """),
    "first": _lines("""
        Which sound comes first?
        What is heard first?
        Which object makes the first sound?
        What do you hear first?
        Which object is heard first?
        Which is the first sound in the audio?
        What is the first instrument that comes in?
        Which object makes sound first?
        Which sound is the first one?
        What makes the first sound in the audio?
        Which sound is heard first?
        What do you hear first in the audio?
    """),
    "end": _lines("""
        What is heard at the end?
        Which sound is heard at the end?
        What do you hear at the end?
        Which object makes sound at the end?
        What is heard at the end of the audio?
        Which object is heard at the end?
        What do you hear at the end of the video?
        What makes sound at the end?
        Which sound is there at the end?
        What makes sound at the end of the video?
        Which sound do you hear at the end?
        What is heard at the end of the video?
    """),
    "more": _lines("""
        Are there more or fewer objects than sounds?
        Are more or fewer objects visible than heard?
        Do you see more or fewer objects than you hear?
        Are there more or fewer objects in the video than sounds in the audio?
        Are there more objects than sounds or fewer?
        Do you see more objects than you hear or fewer?
        Can you see more or fewer objects than you can hear?
        Are more objects visible than heard or fewer?
        Are there more or fewer visible objects than sounds?
        Does the video have more or fewer objects than the audio?
        Are there more or fewer objects in the video than sounds?
        Can you see more objects than you hear or fewer?
    """),
    "loudest": _lines("""
        Which sound is the loudest?
        What is the loudest sound?
        Which object makes the loudest sound?
        Which object is the loudest?
        What is heard the loudest?
        What is the loudest sound in the audio?
        Which is the loudest object?
        Which instrument is the loudest?
        Which is the loudest sound?
        What makes the loudest sound?
        Which sound is the loudest in the audio?
        Which object makes the loudest sound in the audio?
    """),
    "sounding": _lines("""
        Which of the visible objects makes a sound?
        Which visible object is heard?
        Which visible object makes sound?
        Which of the objects in the video is heard?
        Which of the objects you see makes a sound?
        Which of the objects that you see can you hear?
        Which object in the video is making sound?
        Which of the visible objects can you hear?
        Which object that you see is making a sound?
        Which instrument in the video makes a sound?
        Which of the visible objects is heard?
        Which object in the video is making a sound?
    """),
    "louder": _lines("""
        Is the {} louder than the {}?
        Is the sound of the {} louder than the {}?
        Does the {} sound louder than the {}?
        Is the {} heard louder than the {}?
        Is the {} making a louder sound than the {}?
        Do you hear the {} louder than the {}?
        Is the {} louder in the audio than the {}?
        Can you hear the {} louder than the {}?
        Is the {} sound louder than the {} sound?
        Does the {} make a louder sound than the {}?
        Is the sound of the {} louder than the sound of the {}?
        Do you hear a louder {} than {}?
    """),
    "longer": _lines("""
        Is the {} playing longer than the {}?
        Is the {} heard longer than the {}?
        Does the {} sound longer than the {}?
        Is the sound of the {} longer than the {}?
        Do you hear the {} longer than the {}?
        Is the {} making sound longer than the {}?
        Can you hear the {} longer than the {}?
        Is the {} longer in the audio than the {}?
        Is the {} sound longer than the {} sound?
        Does the {} make a longer sound than the {}?
        Is the sound of the {} longer than the sound of the {}?
        Do you hear a longer {} than {}?
    """),
    "heard_count": _lines("""
        How many sounds are heard?
        How many sounds are in the audio?
        How many sounds can you hear?
        How many sounds do you hear?
        How many objects are heard?
        How many objects make sound?
        How many objects can you hear?
        How many sounds are there?
        How many musical instruments were heard throughout the video?
        How many objects are making a sound?
        How many sounds are heard in the audio?
        How many objects do you hear?
    """),
    "first_place": _lines("""
        Where is the first sounding instrument?
        Where is the object that sounds first?
        On which side is the object that makes the first sound?
        Is the object that sounds first on the left or on the right?
        Where is the object that is heard first?
        On which side is the object that is heard first?
        Where is the first sounding object?
        Where in the video is the object that makes the first sound?
        On which side is the first sounding object?
        Is the first sounding object on the left or on the right?
        Where in the video is the first sounding object?
        On which side is the object that sounds first?
    """),
    "loudest_place": _lines("""
        Where is the loudest instrument?
        Where is the loudest object?
        On which side is the loudest object?
        Is the loudest object on the left or on the right?
        Where is the object that makes the loudest sound?
        On which side is the object that makes the loudest sound?
        Where in the video is the loudest object?
        Is the loudest instrument on the left or on the right?
        On which side is the loudest instrument?
        Where is the object that is the loudest?
        Where is the loudest object in the video?
        Where in the video is the loudest instrument?
    """),
    # Asked with four options only: without them, more than one answer may be right.
    "which_visible": _lines("""
        Which object is visible?
        Which object is visible in the video?
        Which object can you see?
        Which object appears in the video?
        Which object do you see?
        What is visible in the video?
        Which object is shown?
        Which of the objects is in the video?
        What can you see?
        Which of these objects is visible?
        Which object do you see in the video?
        What is shown in the video?
    """),
    "which_heard": _lines("""
        Which object is heard?
        Which sound is in the audio?
        Which object can you hear?
        Which object makes a sound in the audio?
        Which object do you hear?
        What is heard in the audio?
        Which sound can you hear?
        Which of the sounds is in the audio?
        What can you hear?
        Which of these objects is heard?
        Which object do you hear in the audio?
        Which sound is heard in the audio?
    """),
}
YES_NO = (" Answer yes or no.",)
LETTER = (
    "Answer with the option's letter.",
    "Answer with the option's letter from the given choices directly.",
    "Respond with only the letter of the correct option.",
)
ONE_WORD = (" Answer with one word.", " Answer the question using a single word.")


def seen(family: str) -> tuple[str, ...]:
    """The wordings of training."""
    return WORDINGS[family][:-N_UNSEEN]


def unseen(family: str) -> tuple[str, ...]:
    return WORDINGS[family][-N_UNSEEN:]
