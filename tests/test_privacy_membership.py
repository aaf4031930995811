"""Membership: the draw before training, refusal of shared items, seeds that are kept, swapped truth."""

from __future__ import annotations

import html
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from proper_model.errors import CheckpointError, ConfigError, DataError
from proper_model.settings import load_profile, preset
from proper_model.tasks import User, load_task
from simulations.outcome.results import write_document
from simulations.privacy.membership import seeds as module
from simulations.privacy.membership.adapter_attacks import overlap
from simulations.privacy.membership.found import Found
from simulations.privacy.membership.population import (
    Candidates,
    check_own_items,
    draw_members,
    shared_share,
)
from simulations.privacy.membership.seeds import Plan, membership, summarized
from simulations.privacy.results import show
from simulations.privacy.results.leaving import render
from simulations.privacy.results.schema import MERGED, PUBLISHED, read_privacy
from simulations.privacy.statistics.measures import Scored, auc, pooled, swapped
from simulations.synthetic.people import make_synthetic


@pytest.fixture(scope="module")
def candidates() -> Candidates:
    made = make_synthetic("synth_tag", preset="smoke")
    users = (*made.population.pooled, *made.population.test)
    task = load_task("synth_tag")
    return Candidates("people", users, task, "base", shared_share(users, task))


def plan(candidates: Candidates, **changed: Any) -> Plan:
    given = {"seeds": (0, 1), "things": ("experts",), "levels": ("person",)} | changed
    return Plan(candidates, preset("default"), load_profile("demo"), **given)


def test_the_draw_halves_people_and_items_and_keeps_fresh_ones_apart(
    candidates: Candidates,
) -> None:
    users = candidates.users
    draw = draw_members(users, 3)
    assert draw == draw_members(users, 3)
    assert draw.pooled != draw_members(users, 4).pooled
    assert sum(draw.pooled) == len(users) // 2
    for user, known, fresh, half in zip(users, draw.known, draw.fresh, draw.halves, strict=True):
        assert sorted(i.id for i in (*known, *fresh)) == sorted(i.id for i in user.history)
        assert len(half) == len(known) and sum(half) == len(known) // 2 and fresh
    given = {item.id for user in draw.users(candidates) for item in user.history}
    assert not given & {item.id for own in draw.fresh for item in own}


def test_membership_says_nothing_of_who_people_are(candidates: Candidates) -> None:
    drawn = np.array([draw_members(candidates.users, seed).pooled for seed in range(400)])
    assert np.abs(drawn.mean(0) - 0.5).max() < 0.12


def test_sets_whose_items_several_people_have_are_refused(candidates: Candidates) -> None:
    one = candidates.users[0]
    twins = tuple(User(str(n), one.history, one.queries) for n in range(3))
    assert shared_share(twins, candidates.task) == 1.0
    assert shared_share(twins[:1], candidates.task) == 0.0
    with pytest.raises(DataError, match="100%"):
        check_own_items("twins", 1.0)
    whole = Candidates("twins", twins, candidates.task, "base", 1.0)
    with pytest.raises(DataError, match="100%"):
        plan(whole, levels=("record",))
    plan(whole, levels=("person",))


@pytest.mark.parametrize(
    "changed",
    [
        {"things": ("nothing",)},
        {"levels": ()},
        {"seeds": (1, 1)},
        {"seeds": ()},
        {"shadows": 2},
        {"shadows": 5},
    ],
)
def test_what_cannot_be_attacked_is_refused(candidates: Candidates, changed: Any) -> None:
    with pytest.raises(ConfigError):
        plan(candidates, **changed)


def attacked(seed: int, shift: float) -> Scored:
    rng = np.random.default_rng(seed)
    member = np.array(draw_members([SimpleNamespace(history=())] * 40, seed).pooled)  # type: ignore[list-item]
    return Scored(rng.normal(size=40) + shift * member, member, np.arange(40))


def test_swapped_truth_gives_one_minus_auc_also_pooled() -> None:
    whole = pooled([attacked(0, 2.0), attacked(1, 2.0)])
    assert auc(whole) > 0.8
    assert auc(swapped(whole)) == pytest.approx(1 - auc(whole))


def test_a_finished_seed_is_not_trained_again_and_anothers_is_refused(
    candidates: Candidates, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained: list[int] = []

    def fake(*_: Any, seed: int, **__: Any) -> list[Found]:
        trained.append(seed)
        controls = (("none", 0.0), ("positive", 4.0), ("negative", 0.0))
        return [
            Found("experts", "loss", "person", control, attacked(seed, shift))  # type: ignore[arg-type]
            for control, shift in controls
        ]

    monkeypatch.setattr(module, "attack", fake)
    how: dict[str, Any] = {"out": tmp_path, "cache": tmp_path, "progress": lambda *_: None}
    first = membership(plan(candidates), **how)
    again = membership(plan(candidates, seeds=(0, 1, 2)), **how)
    assert trained == [0, 1, 2]
    by_control = {row.control: row for row in again.attacks}
    assert by_control["positive"].pooled.low > 0.5
    assert by_control["negative"].pooled.low <= 0.5 <= by_control["negative"].pooled.high
    assert again.attacks[0].per_seed[:2] == first.attacks[0].per_seed
    assert not [line for line in show.failed_controls(again) if "not recognised" in line]
    assert "whether a person was trained on" in render(again, show.shown(again))
    write_document(again, tmp_path / "membership.json")
    assert read_privacy(tmp_path / "membership.json").people == len(candidates.users)
    with pytest.raises(CheckpointError):
        membership(plan(candidates, things=("population",)), **how)


def test_overlap_of_an_answer() -> None:
    assert overlap("Comedy", "comedy") == 1
    assert overlap("a quiet day", "quiet night") == 0.5


def row(thing: str, attack: str, control: str, shift: float, *, seed: int = 0) -> Found:
    return Found(thing, attack, "person", control, attacked(seed, shift))  # type: ignore[arg-type]


def test_controls_that_fail_are_named_and_chance_alone_is_not(candidates: Candidates) -> None:
    """Of eight negative controls one has .5 outside its interval, at p of about .02."""

    def ranked(name: str, shift: int) -> Found:
        score = np.concatenate([np.arange(20) + shift + 0.5, np.arange(20)])
        scored = Scored(score, np.arange(40) < 20, np.arange(40))
        return Found("experts", name, "person", "negative", scored)

    by_chance = [ranked("chance", 4), *(ranked(f"even {n}", 0) for n in range(7))]
    result = summarized(plan(candidates, seeds=(0,)), [by_chance])
    assert result.attacks[0].pooled.auc == 0.7 and result.attacks[0].pooled.low > 0.5
    assert not show.failed_controls(result)
    broken = [
        row("experts", "sees membership", "negative", 2.0),
        row("experts", "sees nothing", "positive", 0.0),
        row("experts", "works", "positive", 3.0),
    ]
    said = show.failed_controls(summarized(plan(candidates, seeds=(0,)), [by_chance + broken]))
    assert len(said) == 2
    assert "sees nothing: the positive control was not recognised" in "".join(said)
    assert "sees membership: the negative control is not at .5" in "".join(said)


def test_a_protocol_that_is_judged_is_no_claim_about_a_release(candidates: Candidates) -> None:
    found = [
        row("experts", "loss", "none", 0.8),
        *(row(MERGED, name, "none", 0.8) for name in (PUBLISHED, "randomised")),
        row(MERGED, PUBLISHED, "negative", 2.0),
    ]
    result = summarized(plan(candidates, seeds=(0,)), [found])
    assert [one.p_holm == one.p for one in result.attacks] == [True] * 4  # one claim alone
    assert not show.failed_controls(result)
    assert len(show.sentences(result)) == 1
    bias = show.protocol_bias(result)
    assert bias is not None and f"{result.attacks[3].pooled.auc - 0.5:+.3f}" in bias
    assert bias in html.unescape(render(result, show.shown(result)))
    assert show.protocol_bias(summarized(plan(candidates, seeds=(0,)), [found[:1]])) is None


def test_holm_corrects_over_claims_and_low_rates_need_a_thousand_others(
    candidates: Candidates, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "DRAWS", 200)
    found = [row("experts", f"attack {n}", "none", 0.6, seed=n) for n in range(4)]
    attacks = summarized(plan(candidates, seeds=(0,)), [found]).attacks
    smallest = min(attacks, key=lambda one: one.p)
    assert smallest.p_holm == pytest.approx(min(1.0, 4 * smallest.p))
    rng = np.random.default_rng(0)

    def some(others: int) -> Found:
        member = np.arange(40 + others) < 40
        scored = Scored(rng.normal(size=40 + others), member, np.arange(40 + others) % 50)
        return Found("experts", str(others), "record", "none", scored)

    rates = [
        one.pooled.tpr_at_1
        for one in summarized(plan(candidates, seeds=(0,)), [[some(999), some(1000)]]).attacks
    ]
    assert rates[0] is None and rates[1] is not None
