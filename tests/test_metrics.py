"""Scores against hand-computed values and against the official implementations."""

from __future__ import annotations

import math
import random
from functools import partial

import pytest
from sklearn.metrics import f1_score

from proper_model.errors import MetricError
from proper_model.evaluation.intervals import summarize
from proper_model.evaluation.metrics import (
    Prediction,
    is_unusable,
    read_label,
    read_rating,
    rouge,
    score,
    share_changed,
)
from proper_model.tasks.records import Query, User
from proper_model.tasks.task import load_task

RATING = load_task("LaMP_3")
CITATION = load_task("LaMP_1", template="lamp")
TAG = load_task("LaMP_2M")
HEADLINE = load_task("LaMP_4")
STARS = ("1", "2", "3", "4", "5")


def scored(task, pairs, *, lenient=False, **numbers):
    """Score (gold, output) pairs of one user."""
    queries = tuple(Query(str(i), "x", gold) for i, (gold, _) in enumerate(pairs))
    values = {"nll": 1.0, "answer_tokens": 1} | numbers
    predictions = [Prediction("u", str(i), out, **values) for i, (_, out) in enumerate(pairs)]
    return score(task, [User("u", (), queries)], predictions, lenient=lenient)


def mean(result, metric):
    return summarize(result, metric).mean


@pytest.mark.parametrize(
    ("output", "right"),
    [("[1]", 1), (" [1]\n", 1), ("[1].", 0), ("1", 0), ("[2]", 0), ("", 0), ("[1] [1]", 0)],
)
def test_strict_reading_strips_and_does_nothing_else(output, right):
    assert scored(CITATION, [("[1]", output)]).values["accuracy"] == (right,)


def test_strict_labels_keep_their_case():
    result = scored(TAG, [("comedy", "Comedy"), ("comedy", "comedy")])
    assert result.values["accuracy"] == (0.0, 1.0)
    assert result.values["parse_failure_rate"] == (1.0, 0.0)


@pytest.mark.parametrize(
    ("output", "label"),
    [
        ("I say Comedy, not action", "comedy"),
        ("dark comedy", "dark comedy"),
        ("a comedy\naction", "comedy"),
        ("\n\n action \nx", "action"),
        ("reaction", None),
        ("none\ncomedy", None),
    ],
)
def test_lenient_reading_takes_the_first_whole_label_of_the_first_line(output, label):
    assert read_label(output, TAG.labels, lenient=True) == label


@pytest.mark.parametrize(
    ("output", "label"),
    [("4 stars", "4"), ("4.0", "4"), ("score: 2 of 5", "2"), ("4.5", None), ("45", None)],
)
def test_lenient_ratings_are_the_first_number(output, label):
    assert read_label(output, STARS, "ordinal", lenient=True) == label
    assert read_label(output, STARS, "ordinal") is None


@pytest.mark.parametrize(
    ("gold", "output", "rating"),
    [
        ("4", "5", 5.0),
        ("4", " 2.5 ", 2.5),
        ("4", "45", 45.0),
        ("4", "1e1", 10.0),
        ("4", "bad", 1.0),
        ("5", "", 1.0),
        ("3", "bad", 5.0),
        ("2", "5 stars", 5.0),
        ("1", "[5]", 5.0),
    ],
)
def test_unreadable_ratings_are_the_extreme_farther_from_gold(gold, output, rating):
    assert read_rating(output, gold, STARS) == rating


def test_lenient_ratings_are_read_out_of_text():
    assert read_rating("5 stars", "2", STARS, lenient=True) == 5.0
    assert read_rating("I gave\n4", "4", STARS, lenient=True) == 1.0


def test_rating_errors_by_hand():
    # errors: 0, 2, 3 (unreadable, gold 4 -> 1), 41 (no clipping)
    result = scored(RATING, [("5", "5"), ("1", "3"), ("4", "four"), ("4", "45")])
    assert result.values["mae"] == (0.0, 2.0, 3.0, 41.0)
    assert mean(result, "mae") == pytest.approx(46 / 4)
    assert mean(result, "rmse") == pytest.approx(math.sqrt((0 + 4 + 9 + 1681) / 4))
    assert mean(result, "accuracy") == 0.25
    assert mean(result, "parse_failure_rate") == 0.5
    assert result.non_finite_outputs == 0


@pytest.mark.parametrize("output", ["nan", "inf", "-Infinity"])
def test_a_rating_that_is_not_finite_poisons_the_mean_and_is_flagged(output):
    result = scored(RATING, [("5", "5"), ("4", output)])
    assert result.non_finite_outputs == 1
    assert math.isnan(mean(result, "mae"))
    assert math.isnan(mean(result, "rmse"))
    assert mean(result, "accuracy") == 0.5


@pytest.mark.parametrize(
    ("output", "flagged"),
    # The largest 32-bit float is 3.4e38, whose root is 1.8e19.
    [("1e39", 1), ("-1e39", 1), ("1e400", 1), ("9" * 5000, 1), ("1e200", 1), ("2e19", 1)]
    + [("1e19", 0), ("45", 0), ("-0", 0), ("1e-400", 0)],
)
def test_a_rating_that_only_some_numbers_hold_is_flagged(output, flagged):
    result = scored(RATING, [("5", "5"), ("4", output)])
    assert result.non_finite_outputs == flagged
    assert result.values["mae"] == (0.0, abs(float(output) - 4))
    # 1e200 has no square in 64 bits either: infinite, not an error.
    assert math.isfinite(mean(result, "rmse")) == (
        output in ("1e39", "-1e39", "2e19") or not flagged
    )


def test_expected_score_and_loss_by_hand():
    result = scored(RATING, [("5", "5"), ("1", "1")], expected=3.5, nll=6.0, answer_tokens=4)
    assert result.values["mae_expected"] == (1.5, 2.5)
    assert result.values["nll"] == (1.5, 1.5)


def test_loss_weighs_queries_not_tokens():
    users = [User("u", (), (Query("a", "x", "long"), Query("b", "x", "b")))]
    predictions = [Prediction("u", "a", "x", 10.0, 10), Prediction("u", "b", "x", 4.0, 2)]
    assert mean(score(HEADLINE, users, predictions), "nll") == pytest.approx((1.0 + 2.0) / 2)


def test_expected_score_is_left_out_where_no_arm_has_it_and_never_half():
    assert "mae_expected" not in scored(RATING, [("5", "5")]).metrics
    users = [User("u", (), (Query("a", "x", "1"), Query("b", "x", "2")))]
    half = [Prediction("u", "a", "1", 1.0, 1, 1.5), Prediction("u", "b", "1", 1.0, 1)]
    with pytest.raises(MetricError, match="'b': no finite expected score"):
        score(RATING, users, half)


@pytest.mark.parametrize("numbers", [{"nll": math.nan}, {"nll": math.inf}, {"answer_tokens": 0}])
def test_a_loss_that_is_no_number_is_refused(numbers):
    with pytest.raises(MetricError, match="query '0': the loss"):
        scored(CITATION, [("[1]", "[1]")], **numbers)


def test_macro_f1_by_hand():
    # [1]: 2 hits, 1 false, 1 missed -> 4/6; [2]: 0 hits, 0 false... gold [2] answered [1] and "?"
    pairs = [("[1]", "[1]"), ("[1]", "[1]"), ("[1]", "?"), ("[2]", "[1]"), ("[2]", "?")]
    assert mean(scored(CITATION, pairs), "f1_macro") == pytest.approx((4 / 6 + 0) / 2)


def test_macro_f1_averages_over_all_listed_classes_and_equals_scikit_learn():
    rng = random.Random(3)
    outputs = [*TAG.labels, "nonsense"]
    pairs = [(rng.choice(TAG.labels[:6]), rng.choice(outputs)) for _ in range(200)]
    result = scored(TAG, pairs)
    index = {label: i for i, label in enumerate(TAG.labels)}
    gold = [index[label] for label, _ in pairs]
    given = [index.get(output, -1) for _, output in pairs]
    official = f1_score(gold, given, labels=list(range(15)), average="macro", zero_division=0)
    assert mean(result, "f1_macro") == pytest.approx(official, abs=1e-12)
    assert len(result.classes) == 15


def test_classes_are_those_the_prompts_list():
    task = load_task("LaMP_2N", template="short")
    question = "x categories: [war, peace, art] article: y"
    users = [User("u", (), (Query("a", question, "war"), Query("b", question, "peace")))]
    predictions = [Prediction("u", "a", "war", 1, 1), Prediction("u", "b", "politics", 1, 1)]
    result = score(task, users, predictions)
    assert result.classes == ("war", "peace", "art")
    assert result.predicted == (0, -1)
    assert mean(result, "f1_macro") == pytest.approx(1 / 3)


def test_rouge_by_hand():
    # unigrams: 2 of 3 expected, 2 of 2 given; longest common subsequence: 1
    rouge_1, rouge_l = partial(rouge, "rouge1"), partial(rouge, "rougeL")
    assert rouge_1("the cat sat", "cat the") == pytest.approx(0.8)
    assert rouge_l("the cat sat", "cat the") == pytest.approx(0.4)
    assert rouge_1("The CAT, sat!", "the-cat_sat") == 1.0
    assert rouge_1("a a b", "a") == pytest.approx(0.5)
    assert rouge_1("", "x") == rouge_l("x", "") == rouge_l("!", "!") == 0.0
    result = scored(HEADLINE, [("the cat sat", "cat the"), ("x", "x")])
    assert mean(result, "rouge1") == pytest.approx(0.9)
    assert mean(result, "rougeL") == pytest.approx(0.7)


def test_predictions_must_cover_every_query_exactly_once():
    users = [User("u", (), (Query("a", "x", "1"), Query("b", "x", "2"))), User("v", (), ())]
    a, b = Prediction("u", "a", "1", 1.0, 1), Prediction("u", "b", "1", 1.0, 1)
    assert score(RATING, users, [b, a]).query_ids == ("a", "b")
    with pytest.raises(MetricError, match="1 queries have no prediction and 0 .*'b'"):
        score(RATING, users, [a])
    with pytest.raises(MetricError, match="'a' is predicted twice"):
        score(RATING, users, [a, b, a])
    with pytest.raises(MetricError, match="0 queries have no prediction and 1 predictions"):
        score(RATING, users, [a, b, Prediction("w", "a", "1", 1.0, 1)])
    with pytest.raises(MetricError, match="no query to score"):
        score(RATING, users[1:], [])


def test_gold_outside_the_labels_cannot_be_scored():
    with pytest.raises(MetricError, match="query '0': the gold answer is not a label"):
        scored(CITATION, [("[3]", "?")])


def test_share_of_changed_answers_ignores_outer_blanks():
    one = [Prediction("u", q, o, 1.0, 1) for q, o in (("a", "x"), ("b", "y"))]
    two = [Prediction("u", q, o, 1.0, 1) for q, o in (("b", "z"), ("a", " x"))]
    assert share_changed(one, two) == 0.5
    with pytest.raises(MetricError, match="same queries"):
        share_changed(one, two[:1])
    with pytest.raises(MetricError, match="same queries"):
        share_changed([*one, one[0]], [*two, two[0]])


@pytest.mark.parametrize(
    ("output", "labels", "unusable"),
    [("4", STARS, False), (" 4\n", STARS, False), ("four", STARS, True), ("", STARS, True),
     ("anything", (), False), (" \n", (), True)],
)  # fmt: skip
def test_an_unusable_answer_is_empty_or_no_label(output, labels, unusable):
    assert is_unusable(output, labels) is unusable
