"""Four options answered by a letter. Oracle: what a careful person says of each answer."""

import pytest

from eval.scorers.letter import Letter, read
from eval.scorers.scorer import UNKNOWN
from fastav.question import Question

DOTS = "Which object is visible?\nA. bell\nB. the dog\nC. car\nD. fan\nAnswer with the option's letter."
BRACKETS = "Which object is visible?\n(A) bell\n(B) the dog\n(C) car\n(D) fan"


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ("B", "B"),
        ("A", "A"),
        (" b", "B"),
        ("(B)", "B"),
        ("B.", "B"),
        ("B)", "B"),
        ("B: the dog", "B"),
        ("B. the dog", "B"),
        ("(B) the dog.", "B"),
        ("**B**", "B"),
        ("**B.** the dog", "B"),
        ("The answer is B", "B"),
        ("Answer: B", "B"),
        ("The correct answer is (D).", "D"),
        ("Option C", "C"),
        ("I choose option C because it is red.", "C"),
        ("The correct option is A.", "A"),
        ("Dog", "B"),
        ("a dog.", "B"),
        ("Bell", "A"),
        ("A dog barks in the garden.", UNKNOWN),
        ("The answer is a dog and a car", UNKNOWN),
        ("The answer is A dog.", UNKNOWN),
        ("B. The answer is C", UNKNOWN),
        ("The dog or the car", UNKNOWN),
        ("E", UNKNOWN),
        ("", UNKNOWN),
        ("I cannot tell.", UNKNOWN),
        ("Dark colors are visible", UNKNOWN),
    ],
)
@pytest.mark.parametrize("question", [DOTS, BRACKETS])
def test_the_letter_of_an_answer(answer, said, question):
    assert read(answer, question)[0] == said


def test_a_verdict_is_right_when_the_letter_is_the_label():
    question = Question(0, "0", "clip", "Four options", DOTS, DOTS, "B")
    scores = [Letter().score(question, answer) for answer in ("B", "dog", "A", "none of them")]
    assert [(s.value, s.said) for s in scores] == [(True, "B"), (True, "B"), (False, "A"), (False, UNKNOWN)]
    assert scores[3].explanation == "no letter" and Letter().score(question, "A. Answer: C").explanation == "more than one letter"
