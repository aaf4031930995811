"""What `adapt` says beforehand against what it then does."""

from __future__ import annotations

import pytest
import torch

from client import cost, personal
from client.learning import Learner
from client.personal_state import PersonalState, encode
from proper_model.artifact import Release
from proper_model.model import AdaptedModel
from proper_model.packing import Batch
from proper_model.records import User
from tests.releases import small_release, small_users

ME = PersonalState("b" * 64, 1, seed=7)


@pytest.fixture(scope="module")
def release() -> Release:
    return small_release("device")


@pytest.fixture(scope="module")
def user() -> User:
    return small_users()[1][0]


def test_tokens_and_disk_are_foretold(
    release: Release, user: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Speed is set to one token a second, so seconds are tokens; oracle: every pass counted."""
    monkeypatch.setattr(cost, "_tokens_a_second", lambda *_: 1.0)
    histories = {release.task.name: (release.task, user.history)}
    told = cost.estimate(Learner(release), histories)
    assert told.items == len(user.history)
    spent = 0.0
    answer_loss = AdaptedModel.answer_loss

    def counted(self: AdaptedModel, batch: Batch, now: object) -> torch.Tensor:
        nonlocal spent
        tokens = sum(batch.layout.lengths)
        spent += tokens if torch.is_grad_enabled() else tokens / 3
        return answer_loss(self, batch, now)  # type: ignore[arg-type]

    monkeypatch.setattr(AdaptedModel, "answer_loss", counted)
    done = personal.adapt(Learner(release), ME, histories)
    assert told.fastest_s * 0.8 <= spent <= told.slowest_s * 1.2
    size = len(encode(done))
    assert size <= told.disk_bytes <= 4 * size


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
