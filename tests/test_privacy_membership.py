"""Membership: the draw before training, refusal of shared items, seeds that are kept, swapped truth."""

from __future__ import annotations

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
from simulations.privacy.membership.attacks import Found, overlap
from simulations.privacy.membership.population import (
    Candidates,
    check_own_items,
    draw_members,
    shared_share,
)
from simulations.privacy.membership.seeds import Plan, membership, pooled
from simulations.privacy.results import show
from simulations.privacy.results.schema import read_privacy
from simulations.privacy.statistics.measures import Scored, auc, swapped
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
    "changed", [{"things": ("nothing",)}, {"levels": ()}, {"seeds": (1, 1)}, {"seeds": ()}]
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

    class Fake:
        def __init__(self, *_: Any, seed: int, **__: Any) -> None:
            trained.append(seed)
            self.seed = seed

        def run(self, _things: Any) -> list[Found]:
            controls = (("none", 0.0), ("positive", 4.0), ("negative", 0.0))
            return [
                Found("experts", "loss", "person", control, attacked(self.seed, shift))  # type: ignore[arg-type]
                for control, shift in controls
            ]

    monkeypatch.setattr(module, "Attacker", Fake)
    how: dict[str, Any] = {"out": tmp_path, "cache": tmp_path, "progress": lambda *_: None}
    first = membership(plan(candidates), **how)
    again = membership(plan(candidates, seeds=(0, 1, 2)), **how)
    assert trained == [0, 1, 2]
    by_control = {row.control: row for row in again.attacks}
    assert by_control["positive"].pooled.low > 0.5
    assert by_control["negative"].pooled.low <= 0.5 <= by_control["negative"].pooled.high
    assert again.attacks[0].per_seed[:2] == first.attacks[0].per_seed
    assert not [line for line in show.failed_controls(again) if "not recognised" in line]
    assert "whether a person was trained on" in show.render(again)
    write_document(again, tmp_path / "membership.json")
    assert read_privacy(tmp_path / "membership.json").people == len(candidates.users)
    with pytest.raises(CheckpointError):
        membership(plan(candidates, things=("population",)), **how)


def test_overlap_of_an_answer() -> None:
    assert overlap("Comedy", "comedy") == 1
    assert overlap("a quiet day", "quiet night") == 0.5
