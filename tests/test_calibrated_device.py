"""A device under a calibrated release: what it trains, what it says, and when it has no adapter."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import pytest
import torch

from client.commands.adapt import say_outcome
from client.person import adapting, updating
from client.person.learner import Learner
from client.person.state import PersonalState, TaskState
from proper_model.release.contents import Release, start_tensors
from proper_model.settings.calibration import Calibrated, Calibration
from proper_model.stages import calibrated_lora
from proper_model.stages.private_lora import LoraTrials
from proper_model.tasks.records import User
from tests.releases import small_release, small_users

ME = PersonalState("b" * 64, 1, seed=7)
WHOLE = Calibrated(4, 1e-2, 2, 1.0, 1.0, 1.0, 1.0)
HALF = dataclasses.replace(WHOLE, scale=0.5)


@pytest.fixture(scope="module")
def release() -> Release:
    return small_release("device")


@pytest.fixture(scope="module")
def user() -> User:
    return small_users()[1][0]


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[tuple[float, int]]:
    """Rate and number of items of every private LoRA that is trained."""
    seen: list[tuple[float, int]] = []
    real = LoraTrials.run

    def watched(self: LoraTrials, trials: Sequence[object], *given: object) -> object:
        seen.extend((one.learning_rate, len(one.train)) for one in trials)  # type: ignore[attr-defined]
        return real(self, trials, *given)  # type: ignore[arg-type]

    monkeypatch.setattr(LoraTrials, "run", watched)
    return seen


def under(release: Release, *rows: Calibrated, **shared: torch.Tensor) -> Release:
    calibration = Calibration(stage3=rows, oppu_mlp=rows)
    return dataclasses.replace(
        release, calibration=calibration, shared={**release.shared, **shared}
    )


def adapted(release: Release, user: User, items: int) -> TaskState:
    task = release.task
    histories = {task.name: (task, user.history[:items])}
    return adapting.adapt(Learner(release), ME, histories).tasks[task.name]


def test_a_device_trains_once_and_scales_what_it_trained(
    release: Release, user: User, trained: list[tuple[float, int]]
) -> None:
    whole, half = (adapted(under(release, row), user, 12) for row in (WHOLE, HALF))
    assert trained == [(1e-2, 12), (1e-2, 12)]
    assert whole.adapter.keys() == half.adapter.keys()
    for name, factor in whole.adapter.items():
        assert torch.equal(half.adapter[name], factor * (0.5 if name.endswith(".B") else 1)), name
    assert any(b.any() for name, b in whole.adapter.items() if name.endswith(".B"))
    said = {"lora_epochs": 2, "lora_scale": 0.5, "items": 12, "items_held_back": 0}
    assert said.items() <= half.report.items()
    assert "lora_loss_after" not in half.report  # nothing was held back


def test_the_row_is_that_of_the_number_of_items(
    release: Release, user: User, trained: list[tuple[float, int]]
) -> None:
    own = under(release, WHOLE, dataclasses.replace(WHOLE, items=12, learning_rate=2e-2))
    for items in (3, 4, 11, 12):
        assert bool(adapted(own, user, items).adapter) is (items >= 4)
    assert trained == [(1e-2, 4), (1e-2, 11), (2e-2, 12)]
    assert Learner(own).least_items == 4
    assert Learner(release).least_items == release.settings.user.min_items_to_train


def test_an_arm_that_is_not_used_is_not_trained(
    release: Release, user: User, trained: list[tuple[float, int]]
) -> None:
    own = under(release, dataclasses.replace(WHOLE, epochs=0, scale=0.0, weight=0.0))
    done = adapted(own, user, 12)
    assert (trained, done.adapter, done.report["lora_trained"]) == ([], {}, 0)
    assert Learner(own).least_items is None


def test_the_common_start_is_where_training_begins(release: Release, user: User) -> None:
    """At a rate that moves nothing the adapter is the start."""
    sites = release.model().sites
    generator = torch.Generator().manual_seed(1)
    rank = release.structure.rank
    a = [torch.randn(rank, site.d_in, generator=generator) for site in sites]
    b = [torch.randn(site.d_out, rank, generator=generator) for site in sites]
    shared = start_tensors("stage3", release.structure, sites, [*a, *b], people=10)
    still = dataclasses.replace(HALF, learning_rate=1e-30, shrinkage=0.0)
    done = adapted(under(release, still, **shared), user, 12)
    settings = release.settings
    for site, first, second in zip(sites, a, b, strict=True):
        assert torch.allclose(done.adapter[f"lora.{site.path}.A"], first)
        assert torch.allclose(done.adapter[f"lora.{site.path}.B"], second / 2)
    assert settings.user.min_items_to_train <= 12


def test_own_items_that_speak_against_it_leave_stage_2(
    release: Release,
    user: User,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(calibrated_lora, "CONFIRMED_FROM", 10)
    monkeypatch.setattr(calibrated_lora, "within_one_error", lambda *_: False)
    task = release.task
    histories = {task.name: (task, user.history[:20])}
    state = adapting.adapt(Learner(under(release, WHOLE)), ME, histories)
    done = state.tasks[task.name]
    assert done.adapter == {}
    assert state.embedding is not None
    assert (done.report["lora_doubted"], done.report["items_held_back"]) == (1, 4)
    say_outcome(state, task.name, 4)
    assert (
        "Trained without your newest 4 items, an adapter made them less" in capsys.readouterr().out
    )


@pytest.mark.parametrize(
    ("items", "rows", "says"),
    [
        (12, (WHOLE,), "is trained on 12 items, as the release says"),
        (3, (WHOLE,), "Come back with 4 or more"),
        (12, (dataclasses.replace(WHOLE, weight=0.0),), "This release makes none"),
    ],
)
def test_what_became_of_it_is_said(
    release: Release,
    user: User,
    items: int,
    rows: tuple[Calibrated, ...],
    says: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    learner = Learner(under(release, *rows))
    task = release.task
    state = adapting.adapt(learner, ME, {task.name: (task, user.history[:items])})
    say_outcome(state, task.name, learner.least_items)
    assert says in capsys.readouterr().out


def test_an_update_tries_the_calibrated_rate_alone(
    release: Release, user: User, trained: list[tuple[float, int]]
) -> None:
    own, task = under(release, WHOLE), release.task
    state = adapting.adapt(Learner(own), ME, {task.name: (task, user.history[:12])})
    trained.clear()
    grown = updating.with_items(state.tasks[task.name], user.history)
    updating.update(Learner(own), state, task.name, grown)
    assert {rate for rate, _ in trained} == {1e-2}
    assert len(trained) == 2  # the newest judge, then all train


def test_both_arms_of_a_cohort_train_once(
    release: Release, trained: list[tuple[float, int]]
) -> None:
    users = small_users()[1][:2]
    made = adapting.adapt_users(
        under(release, WHOLE), users, arms=["stage3", "oppu-mlp"], bundle_id="b" * 64, seed=3
    )
    assert trained == [(1e-2, len(user.history)) for user in users] * 2
    assert len(made) == 4
    assert all(one.tasks[release.task.name].adapter for one in made.values())
