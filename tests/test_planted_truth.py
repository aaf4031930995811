"""docs/method.md 5.5: what each stage must and must not know, on users with planted groups and quirks.

One seed here, with 24 pooled and 4 unseen users a group and fewer, larger steps; three, with 30 and 8,
in `make test-full`.
Thresholds are those of docs/method.md; those marked were calibrated on seeds 10 to 12 and loosened
by at most .05. Mutations (no experts, no user router, someone else's adapter) must fail them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
import pytest
import torch

from client.person.state import PersonalState
from proper_model.settings.presets import preset
from tests.planted import level_accuracy, routing_ari, user_accuracy
from tests.planted_run import SETTINGS, PlantedRun, run_planted

Levels = Mapping[str, Mapping[str, float]]


ARMS = ("stage1", "stage2-mean", "stage2", "oppu-mlp", "stage3")


def measure(run: PlantedRun, arms: Sequence[str] = ARMS) -> dict[str, Mapping[str, float]]:
    """Accuracy by level on unseen users."""
    return {arm: level_accuracy(run.answers(arm), run.truth) for arm in arms}


def with_shuffled(run: PlantedRun) -> dict[str, Mapping[str, float]]:
    """Every arm, and stage 3 with somebody else's state."""
    measured = measure(run)
    own = run.of_arm("stage3")
    measured["shuffled"] = level_accuracy(run.answers("stage3", rotated(own)), run.truth)
    return measured


def rotated(states: Mapping[str, PersonalState]) -> dict[str, PersonalState]:
    """Everybody gets the state of a user of another group: half the cohort further."""
    users = sorted(states)
    half = len(users) // 2
    return {u: states[v] for u, v in zip(users, users[half:] + users[:half], strict=True)}


def violations(m: Levels) -> set[str]:
    """Names of the assertions of docs/method.md 5.5 that do not hold."""
    first = m["stage1"]
    checks = {
        "S1 knows the population": first["pop"] >= 0.9,
        "S1 cannot know groups": first["group"] <= 0.35,
        "S1 cannot know users": first["user"] <= 0.15,
        "S2 finds an unseen user's group": m["stage2"]["group"] >= first["group"] + 0.25,
        "S2 needs the embedding": abs(m["stage2-mean"]["group"] - first["group"]) <= 0.1,
        "S3 learns the user": m["stage3"]["user"] >= 0.75,  # docs/method.md: .8
        "S3 beats LoRA alone": m["stage3"]["all"] >= m["oppu-mlp"]["all"] + 0.04,
        "S3 keeps the group": m["stage3"]["group"] >= m["stage2"]["group"] - 0.15,
        "shuffled users lose the group": m["shuffled"]["group"] <= first["group"] + 0.15,
        "shuffled users lose the user": m["shuffled"]["user"] <= first["user"] + 0.15,
    }
    return {name for name, holds in checks.items() if not holds}


# Every assertion holds on seeds 0, 1 and 2, not on 0 alone.
QUICK = dataclasses.replace(
    SETTINGS,
    population=dataclasses.replace(SETTINGS.population, epochs=3),
    group=dataclasses.replace(SETTINGS.group, epochs=6),
    user=dataclasses.replace(SETTINGS.user, epochs=12, embedding_epochs=12, learning_rates=(6e-3,)),
)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> PlantedRun:
    folder = tmp_path_factory.mktemp("planted")
    return run_planted(folder, seed=0, settings=QUICK, users_per_group=24, test_users_per_group=4)


@pytest.fixture(scope="module")
def measured(run: PlantedRun) -> dict[str, Mapping[str, float]]:
    return with_shuffled(run)


def test_every_stage_knows_what_it_should_and_no_more(measured: Levels) -> None:
    assert violations(measured) == set(), measured


def test_users_grouped_themselves(run: PlantedRun) -> None:
    ari, p = routing_ari(run.routing(), run.truth)
    assert ari >= 0.55  # docs/method.md: .6
    assert p < 0.01


def test_swapped_adapters_lose_each_users_quirks(run: PlantedRun) -> None:
    own = run.of_arm("stage3")
    right = user_accuracy(run.answers("stage3"), run.truth, "user")
    wrong = user_accuracy(run.answers("stage3", rotated(own)), run.truth, "user")
    mean = sum(wrong.values()) / len(wrong)
    assert mean < 0.2
    learned = [user for user, accuracy in right.items() if accuracy > 0.5]
    lost = [user for user in learned if wrong[user] < 0.2]
    assert len(learned) >= len(right) // 2
    assert len(lost) >= 0.8 * len(learned)


AGAIN = ("stage1", "stage2")  # what the broken runs below are asked


def test_without_experts_the_assertions_fail(run: PlantedRun, measured: Levels) -> None:
    shared = {
        name: torch.zeros_like(tensor) if name.endswith(".B") else tensor
        for name, tensor in run.release.shared.items()
    }
    release = dataclasses.replace(run.release, shared=shared)
    broken = measure(dataclasses.replace(run, release=release), AGAIN)
    failed = violations({**measured, **broken})
    assert "S2 finds an unseen user's group" in failed


def test_without_the_user_router_the_assertions_fail(run: PlantedRun, measured: Levels) -> None:
    release = dataclasses.replace(
        run.release, structure=dataclasses.replace(run.release.structure, router_user=False)
    )
    broken = measure(dataclasses.replace(run, release=release), AGAIN)
    failed = violations({**measured, **broken})
    assert "S2 finds an unseen user's group" in failed


def test_with_someone_elses_adapter_the_assertions_fail(measured: Levels) -> None:
    failed = violations({**measured, "stage3": measured["shuffled"]})
    assert {"S3 learns the user", "S3 keeps the group"} <= failed


@pytest.mark.full
@pytest.mark.parametrize("preset_name", ["default", "device", "calibrated"])
def test_assertions_hold_over_three_seeds(
    tmp_path_factory: pytest.TempPathFactory, preset_name: str
) -> None:
    structure = dataclasses.replace(preset(preset_name), embedding_dim=16)
    runs = [
        run_planted(tmp_path_factory.mktemp("seed"), seed=seed, structure=structure)
        for seed in range(3)
    ]
    each = [with_shuffled(one) for one in runs]
    mean = {
        arm: {level: sum(m[arm][level] for m in each) / 3 for level in each[0][arm]}
        for arm in each[0]
    }
    assert violations(mean) == set(), mean
    found = [routing_ari(one.routing(), one.truth) for one in runs]
    assert sum(ari for ari, _ in found) / 3 >= 0.55
    assert all(p < 0.01 for _, p in found)


@pytest.mark.full
def test_grouping_needs_the_user_router_enough_items_and_a_weak_constraint(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    def ari(structure: object = None, weight: float = 0.003, **knobs: object) -> float:
        group = dataclasses.replace(SETTINGS.group, constraint_weight=weight)
        run = run_planted(
            tmp_path_factory.mktemp("grouping"),
            seed=0,
            arms=("stage2",),
            structure=structure,  # type: ignore[arg-type]
            settings=dataclasses.replace(SETTINGS, group=group),
            **knobs,
        )
        return routing_ari(run.routing(), run.truth)[0]

    default = dataclasses.replace(preset("default"), embedding_dim=16)
    full = ari(default)
    assert ari(dataclasses.replace(default, router_user=False)) < 0.15
    assert ari(default, preset="sparse") < 0.2  # 8 items a user: nobody can group
    assert ari(default, weight=1.0) < full


# The measure of grouping that these assertions use

TRUTH = {"groups": {f"u{i}": i % 3 for i in range(30)}}


def routing(strength, rng):
    """Weights `[routers=4, experts=5]`: every router numbers its experts in its own order."""
    orders = [rng.permutation(5) for _ in range(4)]
    weights = {}
    for user, group in TRUTH["groups"].items():
        logits = rng.standard_normal((4, 5))
        for row, order in zip(logits, orders, strict=True):
            row[order[group]] += strength
        weights[user] = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    return weights


def test_routing_by_group_is_found():
    index, p = routing_ari(routing(6, np.random.default_rng(0)), TRUTH)
    assert index == 1
    # No relabeling but the true one: the smallest p that 999 permutations can give.
    assert p == 1 / 1000


def test_routing_by_chance_is_not():
    results = [routing_ari(routing(0, np.random.default_rng(seed)), TRUTH) for seed in range(5)]
    assert abs(np.mean([index for index, _ in results])) < 0.1
    assert min(p for _, p in results) > 0.01


def test_averaging_routers_would_hide_the_groups():
    weights = routing(6, np.random.default_rng(2))
    mixed = {
        user: w[:, np.random.default_rng(int(user[1:])).permutation(5)]
        for user, w in weights.items()
    }
    assert routing_ari(mixed, TRUTH)[0] < 0.3
