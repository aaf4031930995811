"""What `adapt` says beforehand against what it then does."""

from __future__ import annotations

import dataclasses
import os
import shutil
from pathlib import Path

import pytest
import torch
from vault_samples import make_vault

from client.commands.training_run import checkpoint
from client.person import adapting, cost
from client.person.learner import Learner
from client.person.state import PersonalState, encode
from proper_model.kernels.packing import Batch
from proper_model.model.adapted_model import AdaptedModel
from proper_model.release.contents import Release
from proper_model.settings.calibration import Calibrated, Calibration
from proper_model.stages import calibrated_lora
from proper_model.storage import files
from proper_model.tasks.records import HistoryItem, User
from tests.releases import small_release, small_users, with_user

ME = PersonalState("b" * 64, 1, seed=7)


@pytest.fixture(scope="module")
def release() -> Release:
    return small_release("device")


ROW = Calibrated(1, 1e-2, 3, 2.0, 0.5, 1.0, 1.0)


def with_calibration(release: Release, *rows: Calibrated) -> Release:
    return dataclasses.replace(release, calibration=Calibration(stage3=rows))


@pytest.fixture(scope="module")
def user() -> User:
    return small_users()[1][0]


@pytest.mark.parametrize("calibrated", [False, True])
def test_tokens_and_disk_are_predicted(
    release: Release, user: User, monkeypatch: pytest.MonkeyPatch, calibrated: bool
) -> None:
    """Speed is set to one token a second, so seconds are tokens; oracle: every pass counted."""
    if calibrated:
        monkeypatch.setattr(calibrated_lora, "CONFIRMED_FROM", 20)
        release = with_calibration(release, ROW)
    monkeypatch.setattr(cost, "_tokens_a_second", lambda *_: 1.0)
    histories = {release.task.name: (release.task, user.history)}
    told = cost.estimate(Learner(release), histories)
    assert told.items == len(user.history)
    spent = 0.0
    answer_nll = AdaptedModel.answer_nll

    def counted(self: AdaptedModel, batch: Batch, now: object) -> torch.Tensor:
        nonlocal spent
        tokens = sum(batch.layout.lengths)
        spent += tokens if torch.is_grad_enabled() else tokens / 3
        return answer_nll(self, batch, now)  # type: ignore[arg-type]

    monkeypatch.setattr(AdaptedModel, "answer_nll", counted)
    done = adapting.adapt(Learner(release), ME, histories)
    assert told.fastest_s * 0.8 <= spent <= told.slowest_s * 1.2
    if not calibrated:
        assert done.tasks[release.task.name].adapter


def test_one_training_costs_at_most_half_of_what_two_rates_do(
    release: Release, user: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As `tiny` has it: two rates of four epochs each, and again on all items."""
    monkeypatch.setattr(cost, "_tokens_a_second", lambda *_: 1.0)
    histories = {release.task.name: (release.task, user.history)}
    before = with_user(release, epochs=4, learning_rates=(4e-3, 1e-2), embedding_epochs=1)
    after = with_calibration(before, ROW)
    costs = [cost.estimate(Learner(one), histories) for one in (before, after)]
    assert costs[1].slowest_s < costs[0].slowest_s / 2
    none = with_calibration(before, dataclasses.replace(ROW, epochs=0))
    assert cost.estimate(Learner(none), histories).slowest_s < costs[1].slowest_s / 2


def test_measuring_speed_takes_no_larger_passes_than_training(
    release: Release, user: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else it takes the memory that was to be told: over a large base that was the peak of all."""
    monkeypatch.setattr(cost, "PROBE_S", 0.0)
    passes: list[int] = []
    answer_nll = AdaptedModel.answer_nll

    def counted(self: AdaptedModel, batch: Batch, now: object) -> torch.Tensor:
        if torch.is_grad_enabled():
            passes.append(sum(batch.layout.lengths))
        return answer_nll(self, batch, now)  # type: ignore[arg-type]

    monkeypatch.setattr(AdaptedModel, "answer_nll", counted)
    histories = {release.task.name: (release.task, user.history)}
    cost.estimate(Learner(release), histories)
    before = max(passes)
    passes.clear()
    adapting.adapt(Learner(release), ME, histories)
    assert before <= max(passes)


def test_one_slow_pass_tells_the_speed_and_quick_ones_a_median(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # One slow call; a warm-up and one, where the first compiles; a warm-up and three that make half a second.
    for took, compiles, calls in ((0.6, False, 1), (0.6, True, 2), (0.2, False, 4)):
        times: list[float] = []
        monkeypatch.setattr(
            cost, "_seconds", lambda _, took=took, times=times: times.append(took) or took
        )
        assert cost._median_seconds(lambda: None, compiles=compiles) == took
        assert len(times) == calls


BLOCK = 4096


def folder_bytes(folder: Path) -> int:
    """In whole blocks of a file system."""
    return sum(-(-path.stat().st_size // BLOCK) * BLOCK for path in folder.iterdir())


@pytest.mark.parametrize("rates", [(1e-2,), (4e-3, 1e-2, 2e-2), None])
def test_the_disk_that_is_needed_is_predicted(
    rates: tuple[float, ...] | None,
    release: Release,
    user: User,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Oracle: the folder at its largest, seen whenever a file gets its name, and afterwards.

    A state comes upon the ones before it: first none lies there, then one, then two; and at last
    one of which something was forgotten, beside which none stays.
    """
    monkeypatch.setattr(cost, "_tokens_a_second", lambda *_: 1e9)  # measuring takes a second
    vault = make_vault(tmp_path / "vault")
    name, long = release.task.name, "\u00e4" * 20_000  # characters of two bytes
    longer = [HistoryItem(one.id, {**one.fields, "note": long}) for one in user.history]
    real, most = os.replace, 0

    def seen(source: Path, target: Path) -> None:
        nonlocal most
        most = max(most, folder_bytes(vault.folder))
        real(source, target)
        most = max(most, folder_bytes(vault.folder))

    states = ((user.history[:12], False), (user.history[:2], False), (longer, False))
    for items, alone in (*states, (user.history[:12], True)):
        most = 0
        settings = with_user(release, learning_rates=rates or (1e-2,), epochs=2, embedding_epochs=2)
        if rates is None:
            settings = with_calibration(settings, dataclasses.replace(ROW, items=3))
        learner = Learner(settings).resuming(checkpoint(vault, "a" * 24))
        histories = {name: (release.task, items)}
        told = cost.estimate(learner, histories, folder=vault.folder, alone=alone)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(files.os, "replace", seen)
            state = encode(adapting.adapt(learner, ME, histories))
            vault.write(state, bundle_id="b" * 64, alone=alone)
        assert most <= told.disk_bytes <= 1.5 * most
        assert folder_bytes(vault.folder) <= told.kept_bytes <= 1.5 * folder_bytes(vault.folder)


def test_a_disk_with_too_little_room_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    vault = make_vault(tmp_path / "vault", b"one")
    free = shutil.disk_usage(tmp_path)._replace(free=10_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: free)
    assert cost.lacking_bytes(30_000, vault.folder) == 30_000 - BLOCK - 10_000
    assert cost.lacking_bytes(10_000 + BLOCK, vault.folder) == 0


def test_a_budget_lowers_the_memory_that_is_told(release: Release, user: User) -> None:
    histories = {release.task.name: (release.task, user.history)}
    # First the tight one: what the process holds only grows.
    tight = cost.estimate(Learner(release, memory_bytes=24 << 20), histories)
    free = cost.estimate(Learner(release), histories)
    assert tight.memory_bytes <= free.memory_bytes + (1 << 20)  # what a process holds fluctuates
    assert 0 < free.fastest_s <= free.slowest_s


def test_a_person_without_items_pays_nothing(release: Release) -> None:
    told = cost.estimate(Learner(release), {release.task.name: (release.task, ())})
    assert (told.items, told.slowest_s) == (0, 1.0)
