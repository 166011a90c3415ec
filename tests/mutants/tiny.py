"""fastav/tiny/: the built-in model, its world and its questions."""

from mutants import Mutant

MUTANTS = [
    Mutant(
        "tiny's mel scale is another",
        "fastav/tiny/model.py",
        "2595 * np.log10(1 + f / 700)",
        "2595 * np.log10(1 + f / 600)",
        "tests/test_tiny.py::test_mel_filters_are_those_of_transformers",
    ),
    Mutant(
        "tiny's pieces of sound begin where they end",
        "fastav/tiny/model.py",
        "(len(audio) - PIECE) * i // (N_PIECES - 1)",
        "(len(audio) - PIECE) * i // N_PIECES",
        "tests/test_tiny.py::test_pick_sound_by_hand",
    ),
    Mutant(
        "tiny's other words are not noticed",
        "fastav/tiny/model.py",
        "if words != model.tokenizer.words:",
        "if False:",
        "tests/test_tiny.py::test_a_checkpoint_of_other_words_is_refused",
    ),
    Mutant(
        "the middle of the picture is left",
        "fastav/tiny/questions.py",
        "thing.center_x < SIDE / 2",
        "thing.center_x > SIDE / 2",
        "tests/test_tiny.py::test_answers_by_hand",
    ),
    Mutant(
        "one sound that is seen is a match",
        "fastav/tiny/questions.py",
        "return all(n.kind in seen",
        "return any(n.kind in seen",
        "tests/test_tiny.py::test_answers_by_hand",
    ),
    Mutant(
        "an unknown word is left out",
        "fastav/tiny/tokenizer.py",
        "            if word not in self.ids:",
        "            if False:",
        "tests/test_tiny.py::test_tokenizer_round_trips_captions_and_names_unknown_words",
    ),
]
