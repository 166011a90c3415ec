"""Four options, answered by a letter. Oracle: what a careful person says of each answer."""

import pytest

from eval.scorers.letter import Letter
from eval.scorers.scorer import UNKNOWN, Score
from fastav.question import Question

LINES = "Which is heard first?\nA. dog\nB. a red bell\nC. 2 cars\nD. vitamin B\nAnswer with the option's letter."
NONE, MORE = "no letter", "more than one letter"


def score(answer, text=LINES, label="B"):
    return Letter().score(Question(0, "0", "c", "Four options", text, text, label), answer)


ANSWERS = [
    # the letter alone
    ("B", "B"),
    ("b", "B"),
    (" B\n", "B"),
    ("B.", "B"),
    ("(B)", "B"),
    ("(b).", "B"),
    ("B)", "B"),
    ("**B**", "B"),
    ("**(B)**", "B"),
    ("__B__", "B"),
    ("`B`</s>", "B"),
    ("“B”", "B"),
    ("A", "A"),
    ("a", "A"),
    ("A.", "A"),
    ("(a)", "A"),
    ("D!", "D"),
    # with the option or an explanation
    ("B) dog", "B"),
    ("B. dog", "B"),
    ("B: a red bell", "B"),
    ("B - a red bell", "B"),
    ("(B) a red bell", "B"),
    ("**B. a red bell**", "B"),
    ("B a red bell", "B"),
    ("A. dog", "A"),
    ("A) A dog barks", "A"),
    ("A, because a dog barks first", "A"),
    ("A because it barks", "A"),
    ("A is right.", "A"),
    ("B\n\nA dog is not heard.", "B"),
    ("A dog barks, then a bell rings.\nB", "B"),
    ("B. It is B.", "B"),
    # after a word that announces it
    ("Answer: B", "B"),
    ("answer: (b)", "B"),
    ("**Answer:** B", "B"),
    ("Answer: **B. a red bell**", "B"),
    ("Answer:\nB", "B"),
    ("Answer - B", "B"),
    ("The answer is B", "B"),
    ("The answer is: B.", "B"),
    ("The correct answer is (B) a red bell.", "B"),
    ("I think that the answer is b because it rings", "B"),
    ("The answer is A.", "A"),
    ("The answer is option B.", "B"),
    ("Option B", "B"),
    ("option b is right", "B"),
    ("It is option A.", "A"),
    ("Option A seems right", "A"),
    ("The right choice is D", "D"),
    ("The option's letter is C", "C"),
    ("Answer with the option's letter: C", "C"),
    ("The answer would be C", "C"),
    # the option's text, and nothing else
    ("dog", "A"),
    ("A dog.", "A"),
    ("The dog", "A"),
    ("**Red bell**", "B"),
    ("two cars", "C"),
    ("Vitamin B.", "D"),
    # what is denied is not said
    ("B, not A", "B"),
    ("The answer is not A but B", NONE),
    ("It is not option B.", NONE),
    ("Option A is wrong. The answer is B.", "B"),
    ("Option A is not right, option C is", "C"),
    ("A isn't heard", NONE),
    # none
    ("", NONE),
    ("?", NONE),
    ("E", NONE),
    ("cat", NONE),
    ("dog bell", NONE),
    ("A dog barks", NONE),
    ("a bell", NONE),
    ("A 'bell' rings", NONE),
    ('A "bell" rings', NONE),
    ("(a bell)", NONE),
    ("The answer is a dog barking", NONE),
    ("Answer: a bell", NONE),
    ("I hear a bell", NONE),
    ("Bell", NONE),
    ("Dogs", NONE),
    ("C'est la vie", NONE),
    ("B-flat", NONE),
    ("A-ha", NONE),
    ("A 4 second bark", NONE),
    ("The bell is in plan B here", NONE),
    ("I'd say so", NONE),
    ("the answers vary", NONE),
    # more than one
    ("A or B", MORE),
    ("A and B", MORE),
    ("A, B", MORE),
    ("A/B", MORE),
    ("A B", MORE),
    ("(A) (B)", MORE),
    ("A\nB", MORE),
    ("A: B", MORE),
    ("B. The answer is C.", MORE),
    ("Option A or option C", MORE),
    ("options B and C", MORE),
    ("The answer is B or C", MORE),
    ("A. dog\nB. a red bell\nC. 2 cars\nD. vitamin B\nAnswer: B", MORE),
    ("B, B, B", "B"),
]


@pytest.mark.parametrize(("answer", "said"), ANSWERS)
def test_a_letter_is_what_a_person_takes_for_the_answer(answer, said):
    found = score(answer)
    if said in (NONE, MORE):
        assert found == Score(False, UNKNOWN, said)
    else:
        assert found == Score(said == "B", said, found.explanation)


@pytest.mark.parametrize(
    "text",
    [
        "Which?\nA. dog\nB. bell\nC. car\nD. drum\nAnswer with the option's letter.",
        "Which?\n(A) dog\n(B) bell\n(C) car\n(D) drum\nAnswer with the option's letter.",
        "Which? (A) dog (B) bell (C) car (D) drum Answer with the option's letter.",
        "Which? A. dog, B. bell, C. car, D. drum. Answer with the option's letter.",
        "Which?\r\nA) dog\r\nB) bell\r\nC) car\r\nD) drum",
        "Which vitamin, A or B?\nA: dog\nB: bell\nC: car\nD: drum",
    ],
)
def test_an_options_text_is_its_letter_however_the_options_are_written(text):
    assert [score(answer, text).said for answer in ("a dog", "Bell.", "car", "DRUM", "cat")] == ["A", "B", "C", "D", UNKNOWN]
    assert score("Bell", text) == Score(True, "B", "the option's text")


def test_two_options_of_one_text_are_told_apart_by_their_letters_alone():
    text = "Which?\nA. dog\nB. The dog\nC. car\nD. drum"
    assert score("B", text).said == "B" and score("dog", text) == Score(False, UNKNOWN, MORE)


def test_a_question_that_names_no_options_is_answered_by_a_letter_alone():
    assert score("B", "Which?").value is True and score("dog", "Which?") == Score(False, UNKNOWN, NONE)


def test_a_label_is_a_letter_and_unread_answers_are_counted():
    scores = [score(answer) for answer in ("B", "C", "cat", "A or B")]
    metrics = Letter().metrics([Question(0, "0", "c", "t", LINES, LINES, "B")] * 4, scores)
    assert Letter.labels == ("A", "B", "C", "D") and [s.value for s in scores] == [True, False, False, False]
    assert metrics.numbers == {"unknown": 2} and metrics.columns == {"unknown": "2"}
