"""Every attack on one small release that was trained for it: what it finds, and beside which controls."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import pytest

from proper_model.accounting.accountant import interpreter
from proper_model.errors import ConfigError
from proper_model.settings import preset
from proper_model.tasks import load_task
from simulations.privacy.membership.adapter_attacks import PRIVATE
from simulations.privacy.membership.attacked import Attacked
from simulations.privacy.membership.attacks import THINGS, attack_all
from simulations.privacy.membership.found import Found
from simulations.privacy.membership.inferred_attacks import INFERRED
from simulations.privacy.membership.population import Candidates, shared_share
from simulations.privacy.membership.start_attacks import START
from simulations.privacy.statistics.measures import auc
from tests.releases import SMALL, small_base, small_users

pytestmark = pytest.mark.full


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> list[Found]:
    users, task = [user for side in small_users() for user in side], load_task("synth_tag")
    candidates = Candidates(
        "people", tuple(users), task, str(small_base()), shared_share(users, task)
    )
    attacked = Attacked(
        candidates,
        preset("default"),
        SMALL,
        seed=0,
        cache=Path(tmp_path_factory.mktemp("cache")),
        levels=("record", "person", "fresh"),
        shadows=4,
        progress=lambda *_: None,
    )
    return attack_all(attacked, sorted(things() | {START, INFERRED}))


def things() -> set[str]:
    """All that this preset has, of so few people; but what needs an accountant, where there is none."""
    own = set(THINGS) - {START, INFERRED}  # tests/test_privacy_priors.py
    try:
        interpreter()
    except ConfigError:
        return own - {PRIVATE}
    return own


def test_everything_is_attacked_and_no_attack_stands_alone(found: list[Found]) -> None:
    assert {one.thing for one in found} == things()
    controls = defaultdict(set)
    for one in found:
        controls[one.thing, one.level].add(one.control)
        assert one.scored.member.any() and not one.scored.member.all()
    assert all(kinds == {"none", "positive", "negative"} for kinds in controls.values())
    assert {level for _, level in controls} == {"record", "person", "fresh"}
    names = [one.name for one in found]
    assert len(set(names)) == len(names)


def test_overfit_targets_are_recognised(found: list[Found]) -> None:
    """By the level that tells most: three dozen people and one seed leave single levels to chance."""
    best: dict[str, float] = defaultdict(float)
    for one in found:
        if one.control == "positive":
            best[one.thing] = max(best[one.thing], auc(one.scored))
    assert set(best) == things()
    assert not {thing: value for thing, value in best.items() if value < 0.65}


def test_an_untrained_adapter_is_no_better_than_guessing(found: list[Found]) -> None:
    for one in found:
        if one.control == "negative" and one.thing.startswith("adapter"):
            assert abs(auc(one.scored) - 0.5) < 0.12, one.name
