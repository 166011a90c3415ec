"""Scorers and statistics. Oracles: published leaderboard rows and intervals, arithmetic by hand, a simulated coverage."""

import numpy as np
import pytest

from eval import benchmarks
from eval.scorers.baselines import text_majority, text_only_prior
from eval.scorers.caption import Caption
from eval.scorers.scorer import Score, Scorer
from eval.scorers.word import Word
from eval.scorers.yes_no import YesNo
from eval.scorers.yes_no_reader import read
from fastav import stats
from fastav.question import Question


def question(label, text="?", position=0, task="t"):
    return Question(position, str(position), "c", task, text, text, label)


def judgement(labels, said):
    """The numbers of the yes / no scorer on answers that were read as `said`."""
    scores = [Score(label == s, s) for label, s in zip(labels, said, strict=True)]
    return YesNo().metrics([question(label) for label in labels], scores).numbers


# (answer, verdict, why it is near a miss)
ANSWERS = [
    ("Yes", "Yes"),
    ("no", "No"),
    ("YES!", "Yes"),
    ("No.", "No"),
    ("  yes, it is", "Yes"),
    ("**Yes**", "Yes"),
    ("_no_", "No"),
    ("<b>yes</b>", "Yes"),
    ("“No”", "No"),
    ("'yes'", "Yes"),
    ("`No`</s>", "No"),
    ("1. No", "No"),
    ("A: yes</s>", "Yes"),
    ("Answer: no", "No"),
    ("The answer is no.", "No"),
    ("I would say yes", "Yes"),
    ("No\n\nThe dog is visible", "No"),
    ("Answer yes or no: No", "No"),
    ("Yes/No: yes", "Yes"),
    ("yes or no", "unknown"),
    ("Yes, no doubt about it", "Yes"),
    # substrings are no words
    ("Yes, I know the noise", "Yes"),
    ("I know the noise", "unknown"),
    ("eyes", "unknown"),
    ("The eyes are visible", "Yes"),
    ("yesterday", "unknown"),
    ("now", "unknown"),
    ("noon", "unknown"),
    ("north", "unknown"),
    # forms
    ("not visible", "No"),
    ("The dog isn't visible.", "No"),
    ("The dog isn’t visible.", "No"),
    ("The bell cannot be heard", "No"),
    ("There is no dog", "No"),
    ("I see no dog in it", "No"),
    ("In the clip no dog is visible.", "No"),
    ("Nothing is visible", "No"),
    ("Neither the dog nor the car is visible", "No"),
    ("There is a dog", "Yes"),
    ("The bell is clearly audible", "Yes"),
    ("They match", "Yes"),
    ("They do not match", "No"),
    ("They are mismatched", "No"),
    ("The bell makes a sound", "Yes"),
    ("The dog is visible, and no other animal is", "Yes"),
    ("There is no doubt that the dog is visible", "Yes"),
    # neither
    ("", "unknown"),
    ("dog", "unknown"),
    ("It is not clear", "unknown"),
    ("I cannot tell", "unknown"),
    ("I do not know", "unknown"),
    ("The dog is visible but not making sound", "unknown"),
    ("Maybe it is visible", "unknown"),
]


@pytest.mark.parametrize(("answer", "verdict"), ANSWERS)
def test_yes_and_no_are_words_never_substrings(answer, verdict):
    assert read(answer)[0] == verdict


def test_unknown_is_wrong_and_in_the_denominator():
    scores = [YesNo().score(question("Yes"), a) for a in ("Yes", "dog", "No", "Yes")]
    assert [s.value for s in scores] == [True, False, False, True]
    metrics = YesNo().metrics([question("Yes")] * 4, scores)
    assert metrics.numbers["unknown"] == 1 and metrics.columns["unknown"] == "1"


# rows of AVHBench's leaderboard, balanced sets: precision, recall -> yes %, accuracy, F1
@pytest.mark.parametrize(
    ("precision", "recall", "yes", "accuracy", "f1"),
    [(73.6, 78.7, 53.5, 75.2, 76.1), (69.4, 86.6, 62.4, 74.2, 77.1), (74.9, 84.5, 56.4, 78.1, 79.4), (50, 100, 100, 50, 66.7)],
)
def test_metrics_reproduce_the_official_leaderboard(precision, recall, yes, accuracy, f1):
    n = 10_000  # half yes; counts from recall and precision
    hits = round(n / 2 * recall / 100)
    false = round(hits * (100 / precision - 1))
    labels = ["Yes"] * (n // 2) + ["No"] * (n // 2)
    said = ["Yes"] * hits + ["No"] * (n // 2 - hits) + ["Yes"] * false + ["No"] * (n // 2 - false)
    m = judgement(labels, said)
    right = stats.share([a == b for a, b in zip(labels, said, strict=True)], range(n)).accuracy
    found = [100 * x for x in (m["precision"], m["recall"], m["yes_share"], right, m["f1"])]
    # 0.1: the published figures are themselves rounded to one decimal
    assert found == pytest.approx([precision, recall, yes, accuracy, f1], abs=0.1)


def test_zero_divisions_give_zero_and_are_named():
    m = judgement(["Yes", "No"], ["No", "unknown"])
    assert (m["precision"], m["recall"], m["f1"], m["undefined"]) == (0.0, 0.0, 0.0, ["precision", "f1"])
    assert stats.share([], []) == stats.Share(n=0, right=0, accuracy=0.0, low=0.0, high=1.0)


@pytest.mark.parametrize(
    ("answer", "label", "right"),
    [
        ("Red.", "red", True),
        ("the red", "red", True),
        ("3", "three", True),
        ("three", "3", True),
        ("13", "three", False),
        ("left\nbecause", "left", True),
        ("reddish", "red", False),
        ("red blue", "red", False),
        ("", "red", False),
    ],
)
def test_one_word_answers_match_exactly_after_normalising(answer, label, right):
    assert Word().score(question(label), answer).value is right


REFERENCE = "A red bell and a blue car are visible, and a siren is heard."


@pytest.mark.parametrize(
    ("answer", "right", "with_colors"),
    [
        (REFERENCE, True, True),
        ("a blue car and a red bell are visible , and a siren is heard .", True, True),
        ("a green bell and a blue car are visible , and a siren is heard .", True, False),
        ("I see a red bell, a blue car and hear a siren", True, True),
        ("a red bell and a red bell are visible , and a siren is heard .", False, False),
        ("a red bell and a blue car are visible , and a siren and a dog are heard .", False, False),
        ("a red bell and a blue car and a red bell are visible , and a siren is heard .", False, False),
        ("a siren and a blue car are visible , and a bell is heard .", False, False),
        ("a red bell and a blue car are visible .", False, False),
        ("", False, False),
    ],
)
def test_a_caption_names_exactly_the_objects_and_sounds(answer, right, with_colors):
    scored = Caption().score(question(REFERENCE), answer)
    metrics = Caption().metrics([question(REFERENCE)], [scored])
    assert (scored.value, metrics.numbers["right_with_colors"]) == (right, with_colors)


def test_silence_is_not_a_caption_of_an_empty_scene():
    empty = question("Nothing is visible, and nothing is heard.")
    assert Caption().score(empty, "nothing is visible , and nothing is heard .").value is True
    assert Caption().score(empty, "") == Score(False, "seen: ; heard: ", "no words")


def test_a_caption_of_real_footage_is_not_scored():
    real = question("A man plays a guitar in a red car.")
    scored = Caption().score(real, "a red car")
    assert scored == Score(None, "", "not a caption of the procedural world")
    notes = Caption().metrics([real, question(REFERENCE)], [scored, Caption().score(question(REFERENCE), REFERENCE)]).notes
    assert notes == ("1 captions not scored (real footage needs a judge)",)


@pytest.mark.parametrize(
    ("answer", "explanation"),
    [
        (REFERENCE, ""),
        ("a green bell and a blue car are visible , and a siren is heard .", "other colours"),
        ("a red bell and a blue car are visible , and a dog is heard .", "other sounds"),
        ("a red bell is visible .", "other objects, other sounds"),
    ],
)
def test_a_caption_is_explained_by_what_differs(answer, explanation):
    assert Caption().score(question(REFERENCE), answer).explanation == explanation


# --- the contract


@pytest.mark.parametrize("name", benchmarks.names())
def test_every_task_of_every_benchmark_has_a_scorer(name):
    module = benchmarks.get(name)
    for task, scorer in module.TASKS.items():
        assert isinstance(scorer, Scorer) and scorer.name, task
        asked = question((scorer.labels or ("dog",))[0], task=task)
        score = scorer.score(asked, "dog")
        assert isinstance(score, Score) and Score(**vars(score)) == score
        assert scorer.metrics([asked], [score]).columns.keys() == scorer.metrics([asked, asked], [score, score]).columns.keys()
    assert {task for tasks in module.COLUMNS.values() for task in tasks} <= module.TASKS.keys()


def test_what_each_task_of_avhbench_asks_for():
    """The same answer speaks of sight: it answers the question of sight alone."""
    tasks, answer = benchmarks.get("avhbench").TASKS, "The dog is visible."
    visible, heard, matching = (tasks[task].score(question("Yes", "Is the dog there?"), answer).said for task in list(tasks)[:3])
    assert (visible, heard, matching) == ("Yes", "unknown", "unknown")


@pytest.mark.parametrize("verdict", [(1, ""), (0.5, ""), ("Yes", "Yes"), (np.True_, ""), (True, None), (True, "", 3)])
def test_a_verdict_is_right_wrong_or_not_scored(verdict):
    with pytest.raises(TypeError, match="True, False or None"):
        Score(*verdict)


# --- the text alone


def test_the_text_only_prior_leaves_the_question_itself_out():
    qs = [
        question(label, text=t, position=i)
        for i, (t, label) in enumerate([("a", "Yes"), ("a", "Yes"), ("a", "No"), ("b", "No"), ("c", "Yes"), ("c", "No")])
    ]
    # a: Yes sees {Yes, No}, a tie, half each; No sees {Yes, Yes}, wrong. b sees nothing, half. c: each sees the other, wrong
    assert text_majority(qs) == (2 + 1 + 1) / 6
    assert text_only_prior(qs) == pytest.approx((0.5 + 0.5 + 0 + 0.5 + 0 + 0) / 6)


@pytest.mark.parametrize(
    ("right", "n", "low", "high"),
    [(40, 60, 0.5406, 0.7727), (0, 10, 0, 0.2775), (3748, 5302, 0.6945, 0.7190), (1084, 1876, 0.5553, 0.6000)],
)
def test_wilson_intervals(right, n, low, high):
    assert stats.wilson(right, n) == pytest.approx((low, high), abs=5e-5)


def test_newcombe_is_wilson_against_a_constant():
    """Against a method that is always right, the difference is share(a) - 1 and only two Wilson intervals enter."""
    low, high = stats.newcombe_paired(8, 0, 2, 0)
    wilson_low, wilson_high = stats.wilson(8, 10)
    top_low, _ = stats.wilson(10, 10)
    assert low == pytest.approx(-0.2 - (0.8 - wilson_low))
    assert high == pytest.approx(-0.2 + np.hypot(wilson_high - 0.8, 1 - top_low))


@pytest.mark.parametrize(
    ("cells", "per_clip"), [((0.90, 0.03, 0.04, 0.03), 1), ((0.6, 0.15, 0.1, 0.15), 1), ((0.8, 0.08, 0.05, 0.07), 4)]
)
def test_the_paired_interval_covers_the_truth_95_times_in_100(cells, per_clip):
    """`per_clip` copies of each question, the worst correlation there can be: only the clips carry information."""
    rng, covered, runs = np.random.default_rng(0), 0, 400
    for _ in range(runs):
        counts = rng.choice(4, 200, p=cells).repeat(per_clip)
        a, b = np.isin(counts, (0, 1)).tolist(), np.isin(counts, (0, 2)).tolist()
        d = stats.paired(a, b, np.arange(200).repeat(per_clip).tolist())
        covered += d.low <= cells[1] - cells[2] <= d.high
    # 3.3 standard errors of 400 draws below 95 %; above, a score interval may be cautious
    assert 0.914 <= covered / runs <= 0.995


def test_two_methods_that_never_differ_still_have_an_interval():
    d = stats.paired([True] * 95 + [False] * 5, [True] * 95 + [False] * 5, range(100))
    assert d.difference == 0 and d.low < -0.005 and d.high > 0.005
    assert stats.paired([], [], []).low == -1.0
