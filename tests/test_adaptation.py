"""Private adaptation: pure, isolated, with sensible fallbacks, and predictions from it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from client.person.adapting import adapt_users
from client.person.arms import ArmModel, predict
from client.person.learner import user_seed
from client.person.state import PersonalState, Report, decode, encode
from proper_model.errors import BundleFormatError, ConfigError, ExportError, StateError
from proper_model.export.user_fold import fold_release
from proper_model.release.contents import Release, release_to_files
from proper_model.settings import Calibrated, Calibration
from proper_model.tasks.records import User
from tests.releases import release_in_memory, small_release, small_users, with_user

ARMS = ("stage2", "stage3", "oppu-mlp")
States = Mapping[tuple[str, str], PersonalState]


@pytest.fixture(scope="module")
def release() -> Release:
    return small_release()


@pytest.fixture(scope="module")
def users() -> tuple[User, ...]:
    return small_users()[1]


@pytest.fixture(scope="module")
def untouched(release: Release, users: tuple[User, ...]) -> tuple[States, bool]:
    """All users under all arms, and whether the release is the same after it."""
    before = release_to_files(release)
    states = adapted(release, users, arms=ARMS, seed=3)
    return states, release_to_files(release) == before


@pytest.fixture(scope="module")
def states(untouched: tuple[States, bool]) -> States:
    return untouched[0]


@pytest.fixture(scope="module")
def brief(release: Release) -> Release:
    """One short way through every phase, for what must be the same however long it takes."""
    return with_user(release, epochs=2, embedding_epochs=2, learning_rates=(1e-2,))


@pytest.fixture(scope="module")
def two(release: Release, users: tuple[User, ...]) -> States:
    return adapted(release, users[:2], seed=1)


def adapted(
    release: Release,
    users: Sequence[User],
    *,
    seed: int,
    arms: Sequence[str] = ("stage3",),
    **options: Any,
) -> States:
    return adapt_users(release, users, arms=arms, bundle_id="b", seed=seed, **options)


def tensors(state: PersonalState) -> dict[str, Tensor]:
    (name,) = state.tasks
    return state.private(name)


def report(state: PersonalState) -> Report:
    (task,) = state.tasks.values()
    return {**state.embedding_report, **task.report}


def same(a: PersonalState, b: PersonalState) -> bool:
    ours, theirs = tensors(a), tensors(b)
    return report(a) == report(b) and all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_training_b_after_a_equals_training_b_alone_bit_for_bit(
    brief: Release, users: tuple[User, ...]
) -> None:
    alone = adapted(brief, users[1:2], arms=ARMS, seed=3)
    adapted(brief, users[:1], arms=ARMS, seed=3)
    after = adapted(brief, users[1:2], arms=ARMS, seed=3)
    assert after.keys() == alone.keys()
    assert len(after) == 3
    for key in after:
        assert same(after[key], alone[key])


def test_a_user_in_a_cohort_equals_the_user_alone(
    release: Release, users: tuple[User, ...], states: States
) -> None:
    alone = adapted(release, users[2:3], seed=3)
    name = users[2].user_id
    ours, theirs = states["stage3", name], alone["stage3", name]
    for key in tensors(theirs):
        assert torch.allclose(tensors(ours)[key], tensors(theirs)[key], atol=1e-4)
    assert report(ours)["lora_epochs"] == report(theirs)["lora_epochs"]


def test_adaptation_leaves_the_release_untouched(untouched: tuple[States, bool]) -> None:
    assert untouched[1]


def test_it_learns_and_says_what_it_did(users: tuple[User, ...], states: States) -> None:
    reports = [report(states["stage3", user.user_id]) for user in users]
    before = sum(float(r["embedding_loss_before"]) for r in reports)
    after = sum(float(r["embedding_loss_after"]) for r in reports)
    assert after < before
    assert any(r["embedding_source"] == "fitted" for r in reports)
    for r in reports:
        assert float(r["embedding_loss_after"]) <= float(r["embedding_loss_before"])
        assert float(r["lora_loss_after"]) <= float(r["lora_loss_before"])
        assert 0 < int(r["items_held_back"]) < int(r["items"])
        if r["embedding_source"] == "mean":
            assert r["embedding_distance"] == 0
    adapters = [tensors(states["oppu-mlp", user.user_id]) for user in users]
    b_sums = [sum(float(t.abs().sum()) for n, t in a.items() if n.endswith(".B")) for a in adapters]
    assert max(b_sums) > 0


def row(items: int, weight: float, temperature: float) -> Calibrated:
    return Calibrated(items, 1e-3, 1, 0.0, 1.0, weight, temperature)


CALIBRATION = Calibration(
    stage3=(row(2, 0.3, 1.5), row(10, 1.0, 1.0)), oppu_mlp=(row(1, 0.6, 0.8), row(10, 0.0, 1.0))
)


@pytest.mark.parametrize(
    ("arm", "below", "shares"),
    [
        ("stage3", "stage2", ((1.0, 1.0), (0.3, 1.5), (1.0, 1.0))),
        ("oppu-mlp", "stage1", ((0.6, 0.8), (0.6, 0.8), (0.0, 1.0))),
    ],
)
def test_a_calibrated_release_mixes_an_arm_with_the_one_below_it(
    release: Release,
    users: tuple[User, ...],
    states: States,
    arm: str,
    below: str,
    shares: Sequence[tuple[float, float]],
) -> None:
    """By how many items each adapter was trained on; here it is said to be 1, 2 and all."""
    calibrated = dataclasses.replace(release, calibration=CALIBRATION)
    own: dict[str, PersonalState] = {}
    for user, items in zip(users, (1, 2, len(users[2].history)), strict=False):
        state = states[arm, user.user_id]
        task = state.tasks[release.task.name]
        told = dataclasses.replace(task, report={**task.report, "items": items})
        own[user.user_id] = state.with_task(release.task.name, told).without_items()
    three = [dataclasses.replace(user, queries=user.queries[:2]) for user in users[:3]]
    found = predict(calibrated, three, arm, own)
    asking = ArmModel(release, release.task)
    people = [tensors(own[user.user_id]) for user in three]
    made = [asking.make_pass(arm, people), asking.make_pass(below, people)]
    place = 0
    for slot, (user, (weight, temperature)) in enumerate(zip(three, shares, strict=True)):
        for query in user.queries:
            sample = asking.encoder.encode(release.task.query_example(query))
            batch = asking.encoder.batch([sample], [slot])
            with torch.no_grad():
                high, low = (
                    asking.model.answer_logits(batch, make(batch.slots)).double().softmax(-1)
                    for make in made
                )
            p = (weight * high + (1 - weight) * low) ** (1 / temperature)
            p = (p / p.sum(-1, keepdim=True)).gather(1, batch.answers[:, None])
            assert found[place].nll == pytest.approx(-float(p.log().sum()), abs=1e-4)
            place += 1
    assert place == len(found)
    plain = predict(release, three, arm, own)
    assert any(a.nll != pytest.approx(b.nll) for a, b in zip(found, plain, strict=True))


@pytest.mark.parametrize("items", [1, 3], ids=["too few to calibrate", "calibrated"])
def test_an_adapter_that_was_not_kept_has_no_weight(
    release: Release, users: tuple[User, ...], states: States, items: int
) -> None:
    """In a pass with others it stands as B = 0; a router that reads it alone would still answer otherwise."""
    calibrated = dataclasses.replace(release, calibration=CALIBRATION)
    user = users[0]
    state = states["stage3", user.user_id]
    task = state.tasks[release.task.name]
    nothing = {n: t * 0 if n.endswith(".B") else t for n, t in task.adapter.items()}
    none = state.with_task(
        release.task.name,
        dataclasses.replace(task, adapter=nothing, report={**task.report, "items": items}),
    )
    own = {user.user_id: none}
    found = predict(calibrated, [user], "stage3", own)
    assert found == predict(release, [user], "stage2", own)


@pytest.mark.parametrize("arm", ["stage1", "stage2-mean", "stage2"])
def test_arms_without_an_adapter_are_never_mixed(
    release: Release, users: tuple[User, ...], states: States, arm: str
) -> None:
    calibrated = dataclasses.replace(release, calibration=CALIBRATION)
    own = {user.user_id: states["stage3", user.user_id] for user in users[:2]}
    assert predict(calibrated, users[:2], arm, own) == predict(release, users[:2], arm, own)


@pytest.mark.parametrize("count", [0, 1, 3])
def test_short_histories_get_an_embedding_but_no_adapter(
    release: Release, users: tuple[User, ...], count: int
) -> None:
    short = dataclasses.replace(users[0], history=users[0].history[:count])
    state = adapted(release, [short], seed=0)["stage3", short.user_id]
    assert report(state)["embedding_source"] in ("mean", "prototype")
    if count == 0:
        assert report(state)["embedding_source"] == "mean"
    assert report(state)["lora_trained"] == 0
    assert not any(t.any() for n, t in tensors(state).items() if n.endswith(".B"))
    (first, *_) = predict(release, [short], "stage3", {short.user_id: state})
    assert first.answer_tokens > 0


def test_a_tight_memory_budget_changes_nothing_but_speed(
    brief: Release, users: tuple[User, ...]
) -> None:
    """Every pass holds one item then, of one user."""
    few = [dataclasses.replace(user, history=user.history[:10]) for user in users[:2]]
    tight = adapted(brief, few, seed=1, memory_bytes=1)
    for key, state in adapted(brief, few, seed=1).items():
        # Other batches round otherwise, and AdamW makes a step of any gradient, however small.
        for name in ("embedding_loss_after", "lora_loss_before", "lora_loss_after"):
            assert report(tight[key])[name] == pytest.approx(report(state)[name], rel=1e-3)
        assert report(tight[key])["lora_epochs"] == report(state)["lora_epochs"]


def test_a_killed_adaptation_resumes_to_the_same_result(
    release: Release, users: tuple[User, ...], two: States, tmp_path: Path
) -> None:
    class KilledError(Exception):
        pass

    def kill(phase: str, done: int, total: int) -> None:
        if phase == "stage3" and 3 <= done < total:
            raise KilledError

    checkpoint = tmp_path / "work"
    with pytest.raises(KilledError):
        adapted(release, users[:2], seed=1, checkpoint=checkpoint, progress=kill)
    seen: list[tuple[str, int]] = []
    resumed = adapted(
        release,
        users[:2],
        seed=1,
        checkpoint=checkpoint,
        progress=lambda phase, done, total: seen.append((phase, done)),
    )
    # Finished before the kill: the trials and the refit report their end and do no step.
    assert sum(1 for phase, done in seen if phase == "embedding" and done) == 2
    for key, state in two.items():
        assert same(state, resumed[key])


def test_predictions_cover_every_query_once_and_swapped_states_change_them(
    release: Release, users: tuple[User, ...], states: States
) -> None:
    for arm in ("stage1", "stage2-mean", *ARMS):
        own = {u: s for (a, u), s in states.items() if a == arm}
        predictions = predict(release, users, arm, own)
        asked = [(user.user_id, query.id) for user in users for query in user.queries]
        assert [(p.user_id, p.query_id) for p in predictions] == asked
        assert all(p.nll > 0 and p.answer_tokens >= 2 for p in predictions)
    own = {u: s for (a, u), s in states.items() if a == "stage3"}
    ids = list(own)
    rotated = {u: own[v] for u, v in zip(ids, ids[1:] + ids[:1], strict=True)}
    right = sum(p.nll for p in predict(release, users, "stage3", own))
    wrong = sum(p.nll for p in predict(release, users, "stage3", rotated))
    assert right < wrong


def test_missing_state_and_unknown_arms_are_errors(
    release: Release, users: tuple[User, ...]
) -> None:
    with pytest.raises(StateError, match="no private state"):
        predict(release, users, "stage3", {})
    with pytest.raises(ConfigError, match="unknown arm"):
        predict(release, users, "stage9", {})
    with pytest.raises(ConfigError, match="unknown arms"):
        adapted(release, users, arms=("stage9",), seed=0)


def test_user_seeds_depend_on_user_and_seed() -> None:
    assert user_seed(1, "a") == user_seed(1, "a")
    assert len({user_seed(s, u) for s in range(5) for u in "abc"}) == 15


def test_a_release_survives_its_files(release: Release, users: tuple[User, ...]) -> None:
    again = release_in_memory(release_to_files(release))
    assert again.structure == release.structure
    assert again.settings == release.settings
    ours = predict(release, users[:2], "stage2-mean", {})
    assert predict(again, users[:2], "stage2-mean", {}) == ours


def test_a_release_for_another_structure_is_refused(release: Release) -> None:
    files = release_to_files(release)
    files["recipe.json"] = files["recipe.json"].replace(b'"experts": 5', b'"experts": 4')
    with pytest.raises(BundleFormatError, match="expected 'experts"):
        release_in_memory(files).model()


def test_a_release_holds_no_user_embedding(release: Release) -> None:
    names = set(release.shared)
    assert not any("user_embedding" in name or "table" in name for name in names)
    pooled = len(small_users()[0])
    tables, width = release.mean_embedding.shape
    for name, tensor in release.shared.items():
        assert tuple(tensor.shape) != (pooled, tables, width), name
    assert all(count >= 10 for count in release.shared["prototype_counts"].tolist())


def test_routers_of_ones_own_are_learned_kept_and_used(
    release: Release, users: tuple[User, ...]
) -> None:
    """With `private_lora_router` a device trains W_l beside (A_u, B_u); the release holds none."""
    structure = dataclasses.replace(release.structure, name="private", private_lora_router=True)
    shared = {name: t for name, t in release.shared.items() if not name.endswith(".lora")}
    changed = dataclasses.replace(release, structure=structure, shared=shared)
    short = with_user(changed, learning_rates=(1e-2,), epochs=3, embedding_epochs=1)
    own = release_in_memory(release_to_files(short))
    states = adapted(own, users[:2], arms=("stage3", "oppu-mlp"), seed=1)
    kept = {user.user_id: decode(encode(states["stage3", user.user_id])) for user in users[:2]}
    for user in users[:2]:
        adapter = tensors(kept[user.user_id])
        routers = {name: tensor for name, tensor in adapter.items() if name.endswith(".W")}
        assert len(routers) == len(own.model().sites)
        assert any(bool(tensor.any()) for tensor in routers.values())  # they began at zero
        assert not any(n.endswith(".W") for n in tensors(states["oppu-mlp", user.user_id]))
    alone = adapted(own, users[:1], seed=1)["stage3", users[0].user_id]
    beside = tensors(kept[users[0].user_id])
    assert all(torch.allclose(beside[n], t, atol=1e-5) for n, t in tensors(alone).items())
    found = predict(own, users[:2], "stage3", kept)
    without = {
        user_id: dataclasses.replace(
            state,
            tasks={
                name: dataclasses.replace(
                    task,
                    adapter={
                        n: torch.zeros_like(t) if n.endswith(".W") else t
                        for n, t in task.adapter.items()
                    },
                )
                for name, task in state.tasks.items()
            },
        )
        for user_id, state in kept.items()
    }
    assert [one.nll for one in predict(own, users[:2], "stage3", without)] != [
        one.nll for one in found
    ]
    with pytest.raises(ExportError, match="routes by token"):
        fold_release(own, tensors(kept[users[0].user_id]))
