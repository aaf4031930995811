"""Floors: formulas by hand, populations whose truth is planted, and reference numbers on real people."""

from __future__ import annotations

import dataclasses
import math
import random
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from proper_model.data import read_population
from proper_model.errors import DataError, TaskError
from proper_model.evaluation import score
from proper_model.tasks import HistoryItem, Query, Task, User, load_task
from simulations.baselines import floors_counts, floors_gaussian, floors_items
from simulations.baselines.arm import Benchmark, cut
from simulations.baselines.floor_arms import FLOORS
from simulations.baselines.floors import Answers, Array, FloorArm, Guess, Person, read_answers

RATE = load_task("LaMP_3", template="short")
TAGS = load_task("LaMP_2M", template="short")
TEXTS = load_task("LaMP_4", template="short")
SCALE = np.arange(1.0, 6.0)


def rating(text: str, value: int | str, place: int = 0) -> HistoryItem:
    return HistoryItem(f"i{place}", {"text": text, "score": str(value)})


def question(text: str, gold: int | str, place: int = 0) -> Query:
    asked = "What is the score of the following review on a scale of 1 to 5? just answer with 1, 2, 3, 4, or 5 without further explanation. review: "
    return Query(f"q{place}", asked + text, str(gold))


def user(
    name: str, items: Sequence[tuple[str, int]], asked: Sequence[tuple[str, int]] = ()
) -> User:
    return User(
        name,
        tuple(rating(text, value, place) for place, (text, value) in enumerate(items)),
        tuple(question(text, value, place) for place, (text, value) in enumerate(asked)),
    )


words = SimpleNamespace(
    encode=lambda example: SimpleNamespace(answer_tokens=len(example.answer.split()) + 1)
)


def given(pooled: Sequence[User], users: Sequence[User], task: Task = RATE) -> Benchmark:
    """A benchmark whose release has a task and a tokenizer of words, all that floors look at."""
    release = cast("Any", SimpleNamespace(task=task, encoder=lambda: words))
    return Benchmark(release, tuple(pooled), tuple(users), seed=0, folder=Path("unused"))


def scored(arm: FloorArm, benchmark: Benchmark, metric: str) -> float:
    table = score(benchmark.task, benchmark.users, arm.predict(benchmark))
    return float(np.mean(table.values[metric]))


def questionnaire(
    people: int, *, seed: int, asked: int = 6, known: int = 10, noise: float = 0.5
) -> tuple[list[User], Array]:
    """People who rate statements on which two traits, and nothing else, decide; and the true scores.

    Every statement is liked by half of the people and disliked by the others, so that neither items
    nor levels say anything: only what one's other answers say of one's traits.
    """
    rng = np.random.default_rng(seed)
    loadings = np.random.default_rng(7).choice([-1.2, 1.2], size=(24, 2))
    traits = rng.normal(size=(people, 2))
    true = 3 + traits @ loadings.T
    rated = np.clip(np.rint(true + noise * rng.normal(size=true.shape)), 1, 5).astype(int)
    found, kept = [], []
    for place in range(people):
        order = rng.permutation(24)
        items = [(f"statement {i}", rated[place, i]) for i in order[:known]]
        asks = [(f"Statement  {i}", rated[place, i]) for i in order[known : known + asked]]
        found.append(user(f"{seed}-{place}", items, asks))
        kept.append(np.clip(true[place, order[known : known + asked]], 1, 5))
    return found, np.array(kept)


# Counting.


def test_probabilities_become_predictions_by_hand() -> None:
    """Pooled 1, 5, 5, 5 and one more of each label: 2/9, 1/9, 1/9, 1/9, 4/9."""
    pooled = [user("a", [("x", 1), ("y", 5)]), user("b", [("z", 5)], [("x", 5)])]
    (found,) = FLOORS["majority"].predict(given(pooled, [user("t", [], [("unseen", 2)])]))
    assert (found.user_id, found.query_id, found.output) == ("t", "q0", "5")
    assert found.nll == pytest.approx(math.log(9))
    assert found.expected == pytest.approx((1 * 2 + 2 + 3 + 4 + 5 * 4) / 9)
    assert found.answer_tokens == 2  # the label and the end


def test_own_answers_are_added_to_a_prior_worth_so_many() -> None:
    pooled = [user(str(n), [("x", 1)] * (8 - n) + [("x", 5)] * n) for n in range(9)]
    answers = read_answers(RATE, pooled, [user("t", [("x", 5), ("y", 5), ("x", 1)])])
    prior = floors_counts.pooled_frequencies(answers)
    worth = floors_counts.strength(answers.counts(answers.pooled), prior)
    (own,) = floors_counts.own_frequencies(answers)
    assert own == pytest.approx((worth * prior + np.array([1, 0, 0, 0, 2])) / (worth + 3))


@pytest.mark.parametrize("worth", [0.5, 4.0, 30.0])
def test_the_worth_of_a_prior_is_found(worth: float) -> None:
    """2,000 groups of 20, each with frequencies drawn from a Dirichlet of that strength."""
    rng, prior = np.random.default_rng(1), np.array([0.5, 0.3, 0.2])
    counts = np.array([rng.multinomial(20, p) for p in rng.dirichlet(worth * prior, size=2000)])
    assert floors_counts.strength(counts.astype(float), prior) == pytest.approx(worth, rel=0.12)


def test_the_own_median_is_of_own_answers_alone() -> None:
    pooled = [user("a", [("x", 1)] * 9, [("x", 2)])]
    test = [
        user("odd", [("x", 5), ("y", 2), ("z", 4)], [("u", 4)]),
        user("even", [("x", 5), ("y", 2)], [("u", 4)]),
        user("none", [], [("u", 4)]),
    ]
    found = FLOORS["own-median"].predict(given(pooled, test))
    assert [(one.expected, one.output) for one in found] == [(4.0, "4"), (3.5, "3"), (1.0, "1")]


def test_labels_of_classification_are_counted_too() -> None:
    items = tuple(
        HistoryItem(str(n), {"description": "a film", "tag": tag})
        for n, tag in enumerate(["comedy", "comedy", "violence"])
    )
    others = [User(str(n), (items[n],) * 20, ()) for n in (0, 2)]
    asked = Query("q", "any", "comedy")
    benchmark = given(others, [User("t", items, (asked,)), User("u", (), (asked,))], TAGS)
    own, nobody = FLOORS["own-majority"].predict(benchmark)
    assert (own.output, own.expected) == ("comedy", None)
    assert own.nll < nobody.nll


# Items and levels.


def test_variances_within_and_between_by_hand() -> None:
    """[1, 3], [5, 7]: within (1+1+1+1)/2 = 2; between ((2*4 + 2*4)/1 - 2) / 2 = 7."""
    within, between = floors_items.variance_components([np.array([1.0, 3]), np.array([5.0, 7])])
    assert (within, between) == (2.0, 7.0)
    levels = floors_items.Offsets([np.array([1.0, 3]), np.array([5.0, 7])])
    assert levels.mean(np.array([2.0, 4.0])) == pytest.approx(6 / (2 + 2 / 7))
    assert levels.mean(np.array([])) == 0.0
    assert levels.deviation(0) == pytest.approx(3.0)
    assert levels.deviation(2) == pytest.approx(math.sqrt(2 + 7 * 2 / (2 + 2 * 7)))


@pytest.mark.parametrize(
    "groups", [[], [[1.0]], [[1.0], [2.0]], [[1.0, 2.0]], [[1.0, 3.0], [1.0, 3.0]]]
)
def test_where_groups_say_nothing_nobody_has_a_level(groups: list[list[float]]) -> None:
    _, between = floors_items.variance_components([np.array(group) for group in groups])
    assert between == 0.0


def test_a_normal_is_cut_at_the_middles() -> None:
    (row,) = floors_items.discretized(np.array([3.0]), np.array([1.0]), SCALE)
    outer, inner = 0.0668072, 0.3829249  # Phi(-1.5), Phi(.5) - Phi(-.5)
    assert row == pytest.approx([outer, 0.2417303, inner, 0.2417303, outer], abs=1e-7)


def test_where_nothing_is_known_frequencies_stay_what_they_are() -> None:
    frequencies = np.array([[0.4, 0.1, 0.1, 0.1, 0.3]])
    one = (np.array([3.0]), np.array([1.2]))
    same = floors_items.reshaped(frequencies, SCALE, before=one, after=one)
    assert same == pytest.approx(frequencies)
    higher = floors_items.reshaped(
        frequencies, SCALE, before=one, after=(np.array([4.0]), np.array([0.8]))
    )
    assert higher.sum() == pytest.approx(1.0)
    assert float((higher @ SCALE)[0]) > float((frequencies @ SCALE)[0])


def test_a_pooled_rating_is_compared_with_the_others_of_that_text() -> None:
    """`x` is rated 1 and 5: against the other one, each with the same prior, -4 w and +4 w."""
    answers = read_answers(RATE, [user("a", [("x", 1)]), user("b", [("X ", 5)])], [])
    items = floors_items.Items(answers)
    (low,), (high,) = (items.own_deviations(person) for person in answers.pooled)
    prior, worth = 3.0, items.weight  # pooled frequencies are symmetric around 3
    assert low == pytest.approx(1 - (worth * prior + 5) / (worth + 1))
    assert high == pytest.approx(5 - (worth * prior + 1) / (worth + 1))


def test_own_levels_move_the_items() -> None:
    """Three texts of known means, and pooled people who rate one higher or lower throughout."""
    rng = random.Random(0)
    pooled = []
    for n in range(60):
        shift = rng.choice([-1, 0, 1])
        pooled.append(user(str(n), [("a", 2 + shift), ("b", 3 + shift), ("c", 4 + shift)]))
    strict = user("strict", [("a", 1), ("b", 2)], [("c", 3)])
    mild = user("mild", [("a", 3), ("b", 4)], [("c", 5)])
    nobody = user("nobody", [], [("c", 4)])
    benchmark = given(pooled, [strict, mild, nobody])
    low, high, plain = (one.expected for one in FLOORS["item-offset"].predict(benchmark))
    same = [one.expected for one in FLOORS["item-mean"].predict(benchmark)]
    assert low is not None and high is not None and plain is not None
    assert same == pytest.approx([plain] * 3)
    assert plain == pytest.approx(4.0, abs=0.3)
    assert (low, high) == pytest.approx((3.0, 5.0), abs=0.4)


# A Gaussian over people.


def test_two_items_by_hand() -> None:
    """y1 = 5 given S = [[2, 1], [1, 2]], m = 3: E[y2] = 3 + 1/2 * 2 = 4, Var = 2 - 1/2."""
    pair = floors_gaussian.Gaussian(np.full(2, 3.0), np.array([[2.0, 1.0], [1.0, 2.0]]))
    mean, variance = pair.given(np.array([0]), np.array([5.0]), np.array([1]))
    assert (float(mean[0]), float(variance[0])) == pytest.approx((4.0, 1.5))
    mean, variance = pair.given(np.array([], dtype=int), np.array([]), np.array([1, 0]))
    assert mean == pytest.approx([3.0, 3.0])
    assert variance == pytest.approx([2.0, 2.0])


def test_shrinkage_by_hand() -> None:
    """Correlations .9, .3, .3 have the mean .5; two people and two more take the middle."""
    correlation = np.array([[1, 0.9, 0.3], [0.9, 1, 0.3], [0.3, 0.3, 1]])
    deviations = np.array([1.0, 2.0, 3.0])
    found = floors_gaussian.shrunken(
        correlation * np.outer(deviations, deviations), 2, prior=2.0
    ) / np.outer(deviations, deviations)
    expected = np.array([[1, 0.7, 0.4], [0.7, 1, 0.4], [0.4, 0.4, 1]])
    assert found == pytest.approx(expected)


def test_the_estimate_reaches_the_closed_form() -> None:
    """1,500 people who answered a random half of eight items: conditional means as of the truth."""
    rng = np.random.default_rng(2)
    root = rng.normal(size=(8, 3))
    mean, covariance = rng.normal(3, 1, size=8), root @ root.T + 0.5 * np.eye(8)
    scores = rng.multivariate_normal(mean, covariance, size=1700)
    people = []
    for row in scores[:1500]:
        places = np.sort(rng.permutation(8)[:4])
        people.append((places, row[places]))
    found = floors_gaussian.fit_gaussian(people, 8)
    true = floors_gaussian.Gaussian(mean, covariance)
    own, asked = np.arange(5), np.arange(5, 8)
    theirs = np.array([true.given(own, row[own], asked)[0] for row in scores[1500:]])
    ours = np.array([found.given(own, row[own], asked)[0] for row in scores[1500:]])
    spread = float(np.sqrt(true.given(own, scores[0, own], asked)[1].mean()))
    assert np.sqrt(np.mean((ours - theirs) ** 2)) < 0.2 * spread
    alone = float(np.sqrt(np.mean((theirs - scores[1500:, asked]) ** 2)))
    assert np.sqrt(np.mean((ours - scores[1500:, asked]) ** 2)) < 1.03 * alone


@pytest.fixture(scope="module")
def traits() -> tuple[list[User], list[User], Array]:
    """Pooled people, test people, and what the test people would answer without noise."""
    test, true = questionnaire(40, seed=1)
    return questionnaire(200, seed=0)[0], test, true


@pytest.mark.parametrize("name", ["gaussian", "factors"])
def test_what_people_have_in_common_is_found(
    name: str, traits: tuple[list[User], list[User], Array]
) -> None:
    pooled, test, true = traits
    benchmark = given(pooled, test)
    golds = np.array([[float(query.gold) for query in person.queries] for person in test])
    oracle = float(np.abs(true - golds).mean())
    found = scored(FLOORS[name], benchmark, "mae_expected")
    plain = scored(FLOORS["item-offset"], benchmark, "mae_expected")
    assert found < oracle + 0.25 * (plain - oracle)
    assert scored(FLOORS[name], benchmark, "nll") < scored(FLOORS["item-offset"], benchmark, "nll")


@pytest.mark.parametrize("name", ["gaussian", "factors"])
def test_shuffled_identities_lose_the_gain(
    name: str, traits: tuple[list[User], list[User], Array]
) -> None:
    """With somebody else's history it is worse than with none."""
    pooled, test, _ = traits
    others = [
        dataclasses.replace(person, history=test[place - 1].history)
        for place, person in enumerate(test)
    ]
    shuffled = scored(FLOORS[name], given(pooled, others), "mae_expected")
    nothing = scored(FLOORS[name], given(pooled, cut(test, 0)), "mae_expected")
    assert shuffled > 1.1 * nothing


@pytest.mark.parametrize("name", ["gaussian", "factors"])
def test_more_of_a_history_says_more(
    name: str, traits: tuple[list[User], list[User], Array]
) -> None:
    pooled, test, _ = traits
    errors = [scored(FLOORS[name], given(pooled, cut(test, n)), "mae_expected") for n in (0, 2, 10)]
    assert errors == sorted(errors, reverse=True)


def test_where_nobody_rates_the_same_there_is_no_gaussian() -> None:
    pooled = [user(str(n), [(f"text {n}", 3)]) for n in range(40)]
    with pytest.raises(DataError, match="20 pooled users"):
        FLOORS["gaussian"].predict(given(pooled, [user("t", [], [("text 1", 3)])]))


def test_a_text_that_is_not_shared_is_answered_by_the_own_level() -> None:
    pooled, _ = questionnaire(60, seed=3)
    test = [user("t", [("statement 1", 5), ("new", 5)], [("unheard of", 5), ("statement 2", 4)])]
    mixed = FLOORS["gaussian"].predict(given(pooled, test))
    level = FLOORS["item-offset"].predict(given(pooled, test))
    assert mixed[0] == level[0]
    assert mixed[1] != level[1]


# Words.


def test_words_and_the_own_prior_decide_together() -> None:
    """`good` and `bad` tell 5 from 1; of a text that says neither, the own habit decides."""
    pooled = []
    for n in range(30):
        texts = [(f"good film {n}", 5), (f"bad film {n}", 1), (f"film {n}", 5 if n % 2 else 1)]
        pooled.append(user(str(n), texts + [(f"film {n}b", 5 if n % 2 else 1)] * 6))
    asked = [("good", 5), ("bad", 1), ("film", 5)]
    happy = user("happy", [("film", 5)] * 12, asked)
    angry = user("angry", [("film", 1)] * 12, asked)
    found = FLOORS["tfidf"].predict(given(pooled, [happy, angry]))
    assert [one.output for one in found] == ["5", "1", "5", "5", "1", "1"]
    nobody = FLOORS["tfidf"].predict(given(pooled, [user("nobody", [], asked)]))
    assert found[1].nll > nobody[1].nll > found[4].nll  # `bad`, from somebody who gives 5s


def test_a_single_label_needs_no_regression() -> None:
    (found,) = FLOORS["tfidf"].predict(
        given([user("a", [("x", 4), ("y", 4)])], [user("t", [], [("x", 4)])])
    )
    assert found.output == "4"


# All of them.


@pytest.mark.parametrize("name", FLOORS)
def test_no_floor_reads_an_answer_to_a_query(name: str) -> None:
    """Golds exchanged between queries change losses and nothing else."""
    pooled, _ = questionnaire(40, seed=4)
    test, _ = questionnaire(8, seed=5)
    golds = [query.gold for person in test for query in person.queries]
    random.Random(0).shuffle(golds)
    left = iter(golds)
    other = [
        dataclasses.replace(
            person,
            queries=tuple(dataclasses.replace(query, gold=next(left)) for query in person.queries),
        )
        for person in test
    ]
    first = FLOORS[name].predict(given(pooled, test))
    second = FLOORS[name].predict(given(pooled, other))
    assert [dataclasses.replace(one, nll=0.0) for one in first] == [
        dataclasses.replace(one, nll=0.0) for one in second
    ]
    assert [one.nll for one in first] != [one.nll for one in second]


@pytest.mark.parametrize("name", FLOORS)
@pytest.mark.parametrize("items", [0, 1])
def test_everybody_is_answered(name: str, items: int) -> None:
    """Also who has one item, or none, beside others who have many."""
    pooled, _ = questionnaire(40, seed=4)
    some, _ = questionnaire(3, seed=5)
    test = [*cut(some[:2], items), some[2]]
    benchmark = given(pooled, test)
    found = FLOORS[name].predict(benchmark)
    assert [(one.user_id, one.query_id) for one in found] == [
        (person.user_id, query.id) for person in test for query in person.queries
    ]
    assert all(one.nll > 0 and 1 <= cast("float", one.expected) <= 5 for one in found)
    assert score(RATE, test, found).metrics == RATE.metrics
    # Whoever has nothing is answered alike, whoever that is.
    same = [one for one in found if one.user_id == test[0].user_id]
    swapped = [dataclasses.replace(test[1], history=test[0].history), *test[1:]]
    again = FLOORS[name].predict(given(pooled, [test[0], *swapped[1:]]))
    assert [one.expected for one in again[: len(same)]] == [one.expected for one in same]


def test_probabilities_of_all_labels_sum_to_one(
    traits: tuple[list[User], list[User], Array],
) -> None:
    pooled, test, _ = traits
    answers = read_answers(RATE, pooled[:80], [*test[:5], *cut(test[5:8], 0)])
    for arm in FLOORS.values():
        for guess, person in zip(arm.floor(answers), answers.users, strict=True):
            assert guess.probabilities.shape == (len(person.asked), 5)
            assert guess.probabilities.sum(1) == pytest.approx(1.0)
            assert (guess.probabilities > 0).all()


def test_answers_are_read_by_label_and_text() -> None:
    """Texts are compared without case and blanks; labels stand in order of value, not of the file."""
    pooled = user("a", [("One  text", 5)], [("two", 1)])
    test = user("t", [("one text", 2)], [("ONE TEXT", 3)])
    answers = read_answers(RATE, [pooled], [test])
    assert answers.names == ("1", "2", "3", "4", "5")
    assert answers.values.tolist() == [1, 2, 3, 4, 5]
    assert answers.pooled[0].labels == (4, 0)
    assert answers.users[0] == Person(
        texts=answers.pooled[0].texts[:1], labels=(1,), asked=answers.pooled[0].texts[:1]
    )


def test_an_answer_that_is_no_label_is_left_out() -> None:
    odd = User("a", (rating("x", "great"), rating("y", 4)), ())
    assert read_answers(RATE, [odd], []).pooled[0].labels == (3,)
    with pytest.raises(DataError, match="nothing to count"):
        FLOORS["majority"].predict(given([User("a", (rating("x", "great"),), ())], [odd]))


def test_floors_say_which_tasks_they_are_not_for() -> None:
    with pytest.raises(TaskError, match="generates text"):
        FLOORS["majority"].predict(given([], [], TEXTS))
    with pytest.raises(TaskError, match="no numbers"):
        FLOORS["item-mean"].predict(given([], [], TAGS))


def test_histories_are_cut_to_the_newest() -> None:
    whole = user("a", [("x", 1), ("y", 2), ("z", 3)], [("q", 1)])
    assert [item.fields["text"] for item in cut([whole], 2)[0].history] == ["y", "z"]
    assert cut([whole], 0)[0].history == ()
    assert cut([whole], 9) == (whole,)
    assert cut([whole], 1)[0].queries == whole.queries


# Real people: the numbers that the data's own description gives.


@pytest.fixture(scope="module")
def statements(repository: Path, shared: Path) -> Answers:
    return _answers(repository, shared, "personality_items")


@pytest.fixture(scope="module")
def requests(repository: Path, shared: Path) -> Answers:
    return _answers(repository, shared, "politeness_ratings")


GOLDS: dict[int, list[Array]] = {}
GUESSES: dict[tuple[str, int], list[Guess]] = {}


def _answers(repository: Path, shared: Path, name: str) -> Answers:
    task = load_task(str(repository / f"profiles/tasks/{name}.toml"))
    people = read_population(shared / "data" / name, task)
    answers = read_answers(task, people.pooled, people.test)
    GOLDS[id(answers)] = [np.array([float(q.gold) for q in u.queries]) for u in people.test]
    return answers


def _error(name: str, answers: Answers, items: int | None = None) -> dict[str, float]:
    """MAE of the expected score, accuracy of it rounded, loss an answer; of histories of a length."""
    rows, points, golds = [], [], []
    key = (name, id(answers))
    if key not in GUESSES:
        GUESSES[key] = FLOORS[name].floor(answers)
    for guess, person, gold in zip(GUESSES[key], answers.users, GOLDS[id(answers)], strict=True):
        if items is None or len(person.labels) == items:
            rows.append(guess.probabilities)
            expected = guess.probabilities @ answers.values
            points.append(expected if guess.points is None else guess.points)
            golds.append(gold)
    row, point, gold = np.concatenate(rows), np.concatenate(points), np.concatenate(golds)
    chosen = np.searchsorted(answers.values, gold)
    return {
        "mae": float(np.abs(point - gold).mean()),
        "accuracy": float((np.rint(point) == gold).mean()),
        "nll": -float(np.log(row[np.arange(len(row)), chosen]).mean()),
    }


@pytest.mark.parametrize(
    ("name", "mae", "accuracy"),
    [
        ("item-mean", 0.955, 0.305),
        ("own-median", 1.178, 0.243),
        ("gaussian", 0.777, 0.405),
        # .964 is of an offset that is shrunken less; nobody's level differs by much here.
        ("item-offset", 0.955, 0.302),
    ],
)
def test_statements_have_their_reference(
    name: str, mae: float, accuracy: float, statements: Answers
) -> None:
    found = _error(name, statements)
    assert found["mae"] == pytest.approx(mae, abs=0.003)
    assert found["accuracy"] == pytest.approx(accuracy, abs=0.01)


def test_a_gaussian_over_1200_people_has_the_reference_loss(statements: Answers) -> None:
    """1.296 nats an answer against 1.463 of the items' own frequencies."""
    assert _error("item-mean", statements)["nll"] == pytest.approx(1.463, abs=0.001)
    assert _error("gaussian", statements)["nll"] == pytest.approx(1.296, abs=0.004)


def test_a_gaussian_gains_with_the_length_of_a_history(statements: Answers) -> None:
    found = [_error("gaussian", statements, items)["mae"] for items in (8, 12, 20, 30)]
    assert found == pytest.approx([0.838, 0.806, 0.777, 0.686], abs=0.008)


def test_factors_come_close_to_the_gaussian(statements: Answers) -> None:
    found = _error("factors", statements)
    assert found["mae"] == pytest.approx(0.786, abs=0.004)
    assert found["nll"] == pytest.approx(1.302, abs=0.004)


@pytest.mark.parametrize(
    ("name", "mae"),
    [("majority", 0.883), ("item-mean", 0.862), ("item-offset", 0.821), ("own-median", 0.814)],
)
def test_requests_have_their_reference(name: str, mae: float, requests: Answers) -> None:
    assert _error(name, requests)["mae"] == pytest.approx(mae, abs=0.006)
