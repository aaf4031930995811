"""The first sentence of a report: gain, harm, nothing, what cannot be told, too few people."""

from __future__ import annotations

import json
from typing import Any

import pytest
from test_results import example

from simulations.outcome.details import ArmDetails, Details
from simulations.outcome.results import Results
from simulations.reporting.headline import FEWEST_PEOPLE, asked_metric, headline


def run(
    delta: float,
    low: float,
    high: float,
    *,
    metric: str = "accuracy",
    people: int = 30,
    before: float = 0.37,
    **more: Any,
) -> Results:
    """Stage 3 against stage 1 with these numbers."""
    raw: dict[str, Any] = json.loads(json.dumps(example()))
    for arm, value in (("stage1", before), ("stage3", before + delta)):
        ends = {"mean": value, "low": value - 0.05, "high": value + 0.05}
        ends |= {f"user_{name}": end for name, end in ends.items()}
        raw["arms"][arm] = {"n_users": people, "n_queries": 4 * people, "metrics": {metric: ends}}
    pair = {"a": "stage3", "b": "stage1", "metric": metric, "level": "user"}
    raw["contrasts"] = [pair | {"delta": delta, "low": low, "high": high}]
    return Results.model_validate(raw | more)


def people(
    better: int, same: int, worse: int, metric: str = "accuracy", step: float = 0.1
) -> Details:
    """So many people of each kind; in a metric where lower is better, `step` is negative."""
    signs = [1] * better + [0] * same + [-1] * worse
    own = {f"d{n:05}": 0.5 + step * sign for n, sign in enumerate(signs)}
    common = dict.fromkeys(own, 0.5)
    arms = {
        name: ArmDetails(lenient={}, devices={metric: values})
        for name, values in (("stage1", common), ("stage3", own))
    }
    return Details(reference="stage1", arms=arms, fits={}, significance=[], messages=[])


def test_a_gain_names_people_metric_and_interval() -> None:
    head = headline(run(0.08, 0.03, 0.12), people(22, 3, 5), key="k")
    assert head is not None and head.verdict == "gain"
    assert head.sentence == (
        "For 22 of 30 people PROPER's answers were more often right than those of the model everybody gets: "
        "accuracy 0.370 → 0.450, +0.080 [+0.030, +0.120]."
    )
    assert head.people is not None and head.people.counts == (22, 3, 5)
    for term in ("accuracy", "higher is better", "Set T", "split given", "30 people", "95%"):
        assert term in head.terms
    assert "stage3 and stage1" in head.terms
    assert "PROPER (stage3): 0.450 [0.400, 0.500]" in head.figure.alt
    assert "30 people" in head.figure.note and "unit: accuracy" in head.figure.note


def test_where_lower_is_better_a_fall_is_the_gain() -> None:
    results = run(-0.1, -0.2, -0.05, metric="mae_expected", before=0.8)
    head = headline(results, people(20, 0, 10, "mae_expected", -0.1), key="k")
    assert head is not None and head.verdict == "gain"
    assert head.sentence.startswith("For 20 of 30 people PROPER's answers were closer to their own")
    assert "error 0.800 → 0.700, -0.100 [-0.200, -0.050]" in head.sentence
    assert "lower is better" in head.terms


def test_harm_is_called_harm_and_counts_who_was_harmed() -> None:
    head = headline(run(-0.08, -0.12, -0.03), people(5, 3, 22), key="k")
    assert head is not None and head.verdict == "harm"
    assert head.sentence.startswith(
        "Personalization did harm: for 22 of 30 people PROPER's answers were less often right"
    )


def test_an_interval_with_zero_in_it_cannot_be_told() -> None:
    head = headline(run(0.04, -0.01, 0.09), people(16, 2, 12), key="k")
    assert head is not None and head.verdict == "open"
    assert head.sentence.startswith("It cannot be told whether personalization brought anything")
    assert head.sentence.endswith("the interval of the difference includes zero.")
    touching = headline(run(0.04, 0.0, 0.09), None, key="k")
    assert touching is not None and touching.verdict == "open"


def test_where_nothing_changed_it_says_so() -> None:
    head = headline(run(0.0, 0.0, 0.0), people(0, 30, 0), key="k")
    assert head is not None and head.verdict == "same"
    assert head.sentence.startswith(
        "By this measure personalization changed nothing for these 30 people: accuracy 0.370 → 0.370"
    )


@pytest.mark.parametrize(
    ("metric", "delta", "word"),
    [
        ("accuracy", 0.04, "more often right than"),
        ("accuracy", -0.04, "less often right than"),
        ("accuracy", 0.0, "as good as"),
        ("mae_expected", -0.04, "closer to their own than"),
        ("mae_expected", 0.04, "further from their own than"),
    ],
)
@pytest.mark.parametrize("count", [30, 4])
def test_without_details_the_word_follows_the_sign(
    metric: str, delta: float, word: str, count: int
) -> None:
    head = headline(
        run(delta, delta - 0.1, delta + 0.1, metric=metric, people=count), None, key="k"
    )
    assert head is not None and head.verdict == ("open" if count == 30 else "few")
    assert f"PROPER's answers were in the mean {word} those of the model" in head.sentence


def test_where_most_people_go_against_the_mean_both_are_told() -> None:
    gain = headline(run(0.08, 0.03, 0.12), people(10, 2, 18), key="k")
    harm = headline(run(-0.08, -0.12, -0.03), people(18, 2, 10), key="k")
    assert gain is not None and harm is not None
    assert (
        "For 10 of 30 people PROPER's answers were more often right, for 18 less often right than"
        in (gain.sentence)
    )
    assert (
        "for 10 of 30 people PROPER's answers were less often right, for 18 more often right than"
        in (harm.sentence)
    )


def test_people_without_the_metric_do_not_count() -> None:
    """Of thirty, five have a number in both arms."""
    head = headline(run(0.08, 0.03, 0.12), people(5, 0, 0), key="k")
    assert head is not None and head.verdict == "few"
    assert "for 5 of 5 people" in head.sentence


def test_what_stage_2_has_seen_is_said() -> None:
    split = "given, stage 2 with test users' histories"
    seen = headline(run(0.08, 0.03, 0.12, split=split), None, key="k")
    unseen = headline(run(0.08, 0.03, 0.12), None, key="k")
    assert seen is not None and "whose histories stage 2 has seen;" in seen.terms
    assert unseen is not None and "whom no pooled stage has seen;" in unseen.terms


@pytest.mark.parametrize(("delta", "low", "high"), [(0.5, 0.4, 0.6), (-0.5, -0.6, -0.4)])
def test_few_people_prove_nothing_however_clear_the_interval(
    delta: float, low: float, high: float
) -> None:
    few = headline(run(delta, low, high, people=FEWEST_PEOPLE - 1), None, key="k")
    enough = headline(run(delta, low, high, people=FEWEST_PEOPLE), None, key="k")
    assert few is not None and few.verdict == "few"
    assert few.sentence.startswith("Too few people to tell: over 5 people")
    assert enough is not None and enough.verdict in ("gain", "harm")
    # The sign test of so many people who all go one way, by hand.
    assert 2 / 2 ** (FEWEST_PEOPLE - 1) > 0.05 > 2 / 2**FEWEST_PEOPLE


def test_without_details_it_speaks_of_the_mean() -> None:
    head = headline(run(0.08, 0.03, 0.12), None, key="k")
    assert head is not None and head.people is None
    assert head.sentence.startswith(
        "Over 30 people PROPER's answers were in the mean more often right"
    )


def test_without_a_personal_arm_or_a_known_metric_there_is_no_sentence() -> None:
    assert headline(run(0.1, 0.0, 0.2, contrasts=[]), None, key="k") is None
    assert headline(run(0.1, 0.0, 0.2, metric="rmse"), None, key="k") is None
    assert asked_metric(run(0.1, 0.0, 0.2, metric="rougeL")) == "rougeL"


@pytest.mark.parametrize(
    ("low", "high", "said"),
    [
        (0.2, 0.4, "so what was learned fits its own person"),
        (-0.1, 0.2, "which cannot be told apart"),
        (-0.4, -0.2, "better than with people's own"),
    ],
)
def test_whether_a_gain_is_personal_is_said(low: float, high: float, said: str) -> None:
    results = run(0.08, 0.03, 0.12)
    raw = json.loads(results.model_dump_json(by_alias=True))
    raw["arms"]["stage3-shuffled"] = raw["arms"]["stage1"]
    shuffled = {"a": "stage3", "b": "stage3-shuffled", "metric": "accuracy", "level": "user"}
    raw["contrasts"].append(shuffled | {"delta": (low + high) / 2, "low": low, "high": high})
    head = headline(Results.model_validate(raw), None, key="k")
    assert head is not None and len(head.further) == 1
    assert said in head.further[0]
