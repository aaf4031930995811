"""Attacks on what a calibrated release has in common of people: a common start, and the prior of embeddings."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from proper_model.settings import StageSettings, load_profile, preset
from proper_model.settings.profile import CalibrationSettings
from proper_model.stages.item_gradients import FEATURES
from proper_model.tasks import load_task
from simulations.privacy.membership import targets
from simulations.privacy.membership.attacked import Attacked
from simulations.privacy.membership.attacks import attack_all, why_not
from simulations.privacy.membership.embedding_attacks import compared
from simulations.privacy.membership.found import Found, Level
from simulations.privacy.membership.inferred_attacks import (
    INFERRED,
    OF_CENTER,
    OF_DIRECTIONS,
    Prior,
    direction,
    fitted,
    means,
    planted_scores,
)
from simulations.privacy.membership.population import Candidates, shared_share
from simulations.privacy.membership.shadows import paired_halves
from simulations.privacy.membership.start_attacks import START, tracing
from simulations.privacy.statistics.measures import Scored, auc, swapped
from simulations.synthetic.people import make_synthetic
from tests.releases import SMALL, small_base

PEOPLE = 60
MEMBER = np.arange(PEOPLE) % 2 == 0
LEVELS: tuple[Level, ...] = ("record", "person", "fresh")


def auc_of(score: np.ndarray[Any, Any], member: np.ndarray[Any, Any] = MEMBER) -> float:
    return auc(Scored(score, member, np.arange(len(score))))


def drawn(rng: np.random.Generator, *, people: int = PEOPLE, items: int = 8) -> list[Any]:
    """Features of people who differ, of one width in all directions: [items, F] each."""
    return [
        rng.normal(size=FEATURES) + rng.normal(size=(items, FEATURES)) + 3.0 for _ in range(people)
    ]


def test_tracing_a_start_is_a_loop_over_people() -> None:
    rng = np.random.default_rng(0)
    moved = [torch.from_numpy(rng.normal(size=(5, *shape)) + 1) for shape in ((2, 3), (4, 2))]
    start = [torch.from_numpy(rng.normal(size=shape)) for shape in ((2, 3), (4, 2))]
    flat = np.concatenate([own.flatten(1).numpy() for own in moved], axis=1)
    change = np.concatenate([own.flatten().numpy() for own in start])
    mean = flat.mean(0)
    beside = change - mean * (change @ mean) / (mean @ mean)
    assert tracing(moved, start) == pytest.approx(np.array([own @ beside for own in flat]))


def test_whose_training_a_start_is_the_mean_of_is_traced() -> None:
    """Everybody's training goes one way in common, and each person's a way of its own."""
    rng = np.random.default_rng(1)
    own = rng.normal(size=(PEOPLE, 400)) + 5 * rng.normal(size=400)
    start, other = own[MEMBER].mean(0), rng.normal(size=(30, 400)).mean(0)
    traced, not_there = (
        tracing([torch.from_numpy(own)], [torch.from_numpy(one)]) for one in (start, other)
    )
    assert auc_of(traced) > 0.95 and abs(auc_of(not_there) - 0.5) < 0.2
    scored = Scored(traced, MEMBER, np.arange(PEOPLE))
    assert auc(swapped(scored)) == pytest.approx(1 - auc(scored))


def test_a_prior_is_the_mean_of_all_items_and_makes_the_variance_within_people_one() -> None:
    rng = np.random.default_rng(2)
    features = [rng.normal(size=(n, FEATURES)) * 3 for n in rng.integers(9, 14, size=PEOPLE)]
    prior = fitted(features, width=4, most=10)
    assert prior.center == pytest.approx(np.concatenate(features).mean(0), abs=1e-5)
    around = np.concatenate([(own - own.mean(0)) @ prior.project for own in features])
    within = np.einsum("id,ie->de", around, around) / (len(around) - PEOPLE)
    assert within == pytest.approx(np.eye(10), abs=1e-3)


def test_a_center_and_a_direction_of_one_person_give_that_person_away() -> None:
    rng = np.random.default_rng(3)
    features = drawn(rng, items=12)
    asked, planted = means([own[::2] for own in features]), means([own[1::2] for own in features])
    everybody = Prior(planted.mean(0), np.eye(FEATURES))
    centers = [Prior(one, everybody.project) for one in planted[MEMBER]]
    ways = [Prior(everybody.center, direction(one - everybody.center)) for one in planted[MEMBER]]
    for singles, attacks in ((centers, OF_CENTER), (ways, OF_DIRECTIONS)):
        found = planted_scores(asked, singles, MEMBER, attacks, seed=0)
        assert all(auc_of(score) > 0.9 for score in found.values())
        nobody = planted_scores(means(drawn(rng)), singles, MEMBER, attacks, seed=0)
        assert all(abs(auc_of(score) - 0.5) < 0.2 for score in nobody.values())


def test_the_mean_of_ten_traces_them_among_others_and_one_of_strangers_nobody() -> None:
    rng = np.random.default_rng(4)
    halves = np.array(paired_halves(PEOPLE, 18, 0))
    strangers = [means(drawn(rng, people=10)).mean(0) for _ in halves]
    priors = [Prior(center, np.eye(FEATURES)) for center in strangers]
    inside, own = np.arange(PEOPLE) < 10, means(drawn(rng))
    center = Prior(own[inside].mean(0), np.eye(FEATURES))
    found = compared(own, center, priors, halves, OF_CENTER)
    assert all(auc_of(score, inside) > 0.9 for score in found.values())
    none = compared(own, None, priors, halves, OF_CENTER)
    assert all(auc_of(score, inside) < 0.65 for score in none.values())


def test_directions_in_which_members_differ_reach_members() -> None:
    """Of wide features and few people, P fits those it was estimated from."""
    rng = np.random.default_rng(5)
    features = drawn(rng)
    halves = np.array(paired_halves(PEOPLE, 18, 0))
    how = {"width": 4, "most": 8}
    fits = [fitted([features[u] for u in np.flatnonzero(half)], **how) for half in halves]
    prior = fitted([features[u] for u in np.flatnonzero(MEMBER)], **how)
    own = means(features)
    assert auc_of(compared(own, prior, fits, halves, OF_DIRECTIONS)["reach-p"]) > 0.75
    assert abs(auc_of(compared(own, None, fits, halves, OF_DIRECTIONS)["reach-p"]) - 0.5) < 0.2


@pytest.mark.parametrize(
    ("thing", "name", "people", "said"),
    [
        (INFERRED, "default", 120, "infers no embeddings"),
        (INFERRED, "calibrated", 120, None),
        (START, "calibrated", 120, None),
        (START, "default", 120, None),
        # Half are pooled, 10 % of those held back, and half of the rest are the cohort.
        (START, "calibrated", 44, None),
        (START, "calibrated", 42, "a cohort of 9 makes no common start, 10 do"),
    ],
)
def test_what_a_preset_has_not_is_told_before_anything_trains(
    thing: str, name: str, people: int, said: str | None
) -> None:
    found = why_not(thing, preset(name), starting(load_profile("demo")), LEVELS, people)
    assert found is None if said is None else said in str(found)


def starting(settings: StageSettings) -> StageSettings:
    """The same with a common start, which is made only where a profile asks for one."""
    return replace(settings, calibration=replace(settings.calibration, start_rounds=3))


def test_no_rounds_and_no_experts_make_no_start() -> None:
    few, structure = load_profile("tiny-few"), preset("calibrated")
    assert why_not(START, structure, few, LEVELS, 120) is None
    none = replace(few, calibration=CalibrationSettings(people=few.calibration.people))
    assert "start_rounds is 0" in str(why_not(START, structure, none, LEVELS, 120))
    alone = replace(preset("device"), population_only=True)
    assert "has no common-start" in str(why_not(START, alone, few, LEVELS, 120))


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> list[Found]:
    made = make_synthetic("synth_tag", preset="demo", users_per_group=8, test_users_per_group=8)
    users, task = (*made.population.pooled, *made.population.test), load_task("synth_tag")
    attacked = Attacked(
        Candidates("people", users, task, str(small_base()), shared_share(users, task)),
        preset("calibrated"),
        starting(SMALL),
        seed=0,
        cache=Path(tmp_path_factory.mktemp("cache")),
        levels=LEVELS,
        shadows=0,
        progress=lambda *_: None,
    )
    with pytest.MonkeyPatch.context() as patch:  # what overfits takes most of the time
        patch.setattr(targets, "LEAST_OVERFIT_EPOCHS", 1)
        return attack_all(attacked, (START, INFERRED))


@pytest.mark.full
def test_every_attack_has_controls_and_a_start_of_their_own_training_traces_a_cohort(
    found: list[Found],
) -> None:
    controls = defaultdict(set)
    for one in found:
        controls[one.thing, one.level].add(one.control)
        assert one.scored.member.any() and not one.scored.member.all()
    assert set(controls) == {(thing, level) for thing in (START, INFERRED) for level in LEVELS}
    assert all(kinds == {"none", "positive", "negative"} for kinds in controls.values())
    names = [one.name for one in found]
    assert len(set(names)) == len(names)
    told = [
        auc(one.scored)
        for one in found
        if (one.thing, one.attack, one.control) == (START, "tracing", "positive")
    ]
    assert len(told) == 2 and min(told) > 0.95
