"""Old items have a vote on an update: a few new ones that contradict them do not unlearn them."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch

from client.commands.update import say_update, update_facts
from client.person import adapting
from client.person.answering import Personal
from client.person.learner import Learner
from client.person.state import PersonalState
from client.person.updating import Update, begin, update, update_all, with_items
from proper_model.release.contents import Release
from proper_model.tasks.records import HistoryItem, User
from tests.releases import small_release, small_users

ME = PersonalState("b" * 64, 1, seed=7)
DONE = Update(8, 8, True, True, False, 1.5, 0.75, 12, 0.25, 0.3125, ME)


@pytest.fixture(scope="module")
def release() -> Release:
    return small_release("device")


@pytest.fixture(scope="module")
def user() -> User:
    return small_users()[1][0]


@pytest.fixture(scope="module")
def before(release: Release, user: User) -> PersonalState:
    """Adapted to twenty items."""
    task = release.task
    return adapting.adapt(Learner(release), ME, {task.name: (task, user.history[:20])})


def contradicting(release: Release, user: User) -> list[HistoryItem]:
    """Eight old questions again, each with the label behind the one it had."""
    labels = release.task.labels
    assert labels is not None
    turned = dict(zip(labels, (*labels[1:], labels[0]), strict=True))
    return [
        HistoryItem(f"turned {n}", {**item.fields, "tag": turned[item.fields["tag"]]})
        for n, item in enumerate(user.history[:8])
    ]


def old_loss(release: Release, state: PersonalState, items: list[HistoryItem]) -> float:
    """Oracle: what `proper evaluate` reads, per answer token, the mean of items."""
    mine = Personal.of(release, state, None)
    assert mine.share == (1.0, 1.0), "stage 3 alone, as updates judge"
    losses = [one.nll / one.answer_tokens for one in mine.judge(items, stage="3")]
    return math.fsum(losses) / len(losses)


@pytest.mark.parametrize("old_may_refuse", [True, False])
def test_a_few_contradicting_items_do_not_ruin_the_old_ones(
    release: Release,
    user: User,
    before: PersonalState,
    old_may_refuse: bool,
) -> None:
    """Planted. Without the old items' vote the new ones, which gain, would have their way."""
    learner, name = Learner(release), release.task.name
    new = contradicting(release, user)
    grown = with_items(before.tasks[name], new)
    if old_may_refuse:
        done = update(learner, before, name, grown)
    else:
        (done,) = update_all(learner, [before], name, [grown], tolerance=math.inf)
    assert done.loss_after < done.loss_before, "new items alone would say yes"
    assert done.old_loss_after > done.old_loss_before + 0.1
    assert (done.kept, done.harmed) == (not old_may_refuse, old_may_refuse)
    assert (done.new_items, done.rehearsed, done.old_judged) == (8, 8, 12)

    _, start = begin(learner, before, grown, name)
    encoded = learner.encode(user.history[:20], release.task)
    judges = [
        item
        for item, one in zip(user.history[:20], encoded, strict=True)
        if one in start.old_judges
    ]
    assert len(judges) == 12
    assert old_loss(release, before, judges) == pytest.approx(done.old_loss_before, abs=1e-4)
    task = done.state.tasks[name]
    assert task.items == grown.items, "stored in either case"
    if old_may_refuse:
        for key, tensor in before.tasks[name].adapter.items():
            assert torch.equal(task.adapter[key], tensor)
        assert task.waiting == tuple(item.id for item in new)
    else:
        assert old_loss(release, done.state, judges) == pytest.approx(done.old_loss_after, abs=1e-4)
        assert task.waiting == ()


def test_the_sentence_says_both_numbers(capsys: pytest.CaptureFixture[str]) -> None:
    both = "1.500 before, 0.750 after; on 12 old items left out of the training 0.250 before, 0.312 after"
    say_update(DONE)
    said = " ".join(capsys.readouterr().out.split())
    assert said.startswith(
        "Your adapter went on with 8 new items and 8 old ones: loss on new items"
    )
    assert both in said
    say_update(dataclasses.replace(DONE, kept=False, harmed=True))
    said = " ".join(capsys.readouterr().out.split())
    assert said.startswith("8 new items would cost too much of what your adapter knows of the old")
    assert both in said
    assert "at most 0.1 more" in said
    assert "proper forget" in said


def test_numbers_that_nobody_measured_are_none() -> None:
    refused = dataclasses.replace(
        DONE, kept=False, old_judged=0, old_loss_before=math.nan, old_loss_after=math.nan
    )
    facts = update_facts(refused)
    assert (facts["old_loss_before"], facts["old_loss_after"]) == (None, None)
    assert (facts["loss_before"], facts["loss_after"], facts["harmed"]) == (1.5, 0.75, False)
    assert update_facts(DONE)["old_loss_after"] == 0.3125
