"""`proper evaluate`: what trains, what is asked, and what may be concluded."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import pytest
import torch

from client.commands.evaluate import say_unusable
from client.person import adapting
from client.person.evaluation import Evaluation, Gain, before, count_tested, evaluate
from client.person.learner import Learner
from client.person.state import PersonalState
from proper_model.errors import DataError
from proper_model.release.contents import Release
from proper_model.tasks.records import HistoryItem, User
from proper_model.tasks.task import task_from_toml
from tests.releases import small_release, small_users


@pytest.fixture(scope="module")
def release() -> Release:
    small = small_release("device")
    user = dataclasses.replace(
        small.settings.user, epochs=1, embedding_epochs=1, learning_rates=(1e-2,)
    )
    return dataclasses.replace(small, settings=dataclasses.replace(small.settings, user=user))


@pytest.fixture(scope="module")
def user() -> User:
    return small_users()[1][0]


def found(tested: int, **gains: tuple[float, float]) -> Evaluation:
    scores = {"1": dict.fromkeys(gains, 0.0), "3": {name: d for name, (d, _) in gains.items()}}
    return Evaluation(20, tested, scores, {name: Gain(*gain) for name, gain in gains.items()})


@pytest.mark.parametrize(
    ("evaluation", "words"),
    [
        (found(5, accuracy=(1.0, 1 / 16)), "Too little to say"),
        (found(6, accuracy=(1.0, 1 / 32)), "Personalization helps"),
        (found(6, accuracy=(-1.0, 1 / 32)), "Personalization hurts"),
        (found(6, mae=(-1.0, 1 / 32)), "Personalization helps"),
        (found(6, accuracy=(0.2, 0.5), nll=(-0.3, 0.03)), "expect what you wrote more"),
        (found(6, accuracy=(0.2, 0.5), nll=(-0.3, 0.3)), "may be chance."),
        (found(8, nll=(-0.3, 0.01)), "It expects what you wrote in your 8 newest items more."),
        (found(8, nll=(0.3, 0.01)), "less."),
        (found(8, accuracy=(float("nan"), float("nan"))), "No difference"),
    ],
)
def test_the_verdict(evaluation: Evaluation, words: str) -> None:
    assert words in evaluation.verdict()


@pytest.mark.parametrize(
    ("items", "tested"), [(6, 2), (12, 4), (18, 6), (24, 8), (30, 8), (40, 8), (60, 12), (100, 20)]
)
def test_short_histories_are_tested_on_what_can_show_something(items: int, tested: int) -> None:
    assert count_tested(items) == tested


def test_no_tested_item_trains_anything(
    release: Release, user: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another task with the same items, the same dates: neither embedding nor adapter sees them."""
    task = release.task
    second = task_from_toml(
        task.toml_text.replace(f'name = "{task.name}"', 'name = "mine"'), template=task.template
    )
    dated = [
        HistoryItem(item.id, item.fields, f"2024-{1 + n // 28:02}-{1 + n % 28:02}")
        for n, item in enumerate(user.history)
    ]
    others = [HistoryItem(f"copy {item.id}", item.fields, item.date) for item in dated]
    learner = Learner(release)
    blank = PersonalState("b" * 64, 1, seed=3)
    state = adapting.adapt(learner, blank, {task.name: (task, dated), "mine": (second, others)})
    trained: list[torch.Tensor] = []

    def spy(name: str) -> None:
        real = getattr(Learner, name)

        def seen(self: Learner, samples: Sequence[Any], *rest: Any, **options: Any) -> Any:
            trained.extend(torch.as_tensor(i.tokens) for s in samples for i in s.items)
            return real(self, samples, *rest, **options)

        monkeypatch.setattr(Learner, name, seen)

    spy("fit_embeddings")
    spy("train_loras")
    result = evaluate(learner, state, task.name)
    tested = [tuple(e.tokens) for e in learner.encode(dated[-result.tested :], task)]
    assert trained
    assert {tuple(tokens.tolist()) for tokens in trained}.isdisjoint(tested)
    assert set(result.scores) == {"1", "2", "3"}
    assert all(0 < gain.p <= 1 for gain in result.gains.values())


def item(number: str, date: str | None = None, **fields: str) -> HistoryItem:
    return HistoryItem(number, fields, date)


def test_other_tasks_are_cut_at_the_same_time() -> None:
    tested = [item("t", "2024-10-1", text="x"), item("s", "2024-9-30", text="y")]
    own = [item("1", "2024-9-2", text="a"), item("2", "2024-09-30", text="b"), item("3", "2025")]
    assert [i.id for i in before(own, tested)] == ["1"]


def test_other_tasks_without_dates_lose_their_newest_and_what_is_tested() -> None:
    long = "a sentence that two items do not share by accident"
    tested = [item("4", text=long)]
    own = [item(str(n), text=f"t{n}") for n in range(9)] + [item("9", text="t9")]
    own[2] = item("2", title=long)
    assert [i.id for i in before(own, tested)] == ["0", "1", "3", "5", "6", "7"]


def test_too_few_items_to_hold_some_back(release: Release, user: User) -> None:
    learner, task = Learner(release), release.task
    blank = PersonalState("b" * 64, 1, seed=3)
    few = adapting.adapt(learner, blank, {task.name: (task, user.history[:5])})
    with pytest.raises(DataError, match="too few to hold some back"):
        evaluate(learner, few, task.name)


def test_unusable_answers_are_told_by_stage(capsys: pytest.CaptureFixture[str]) -> None:
    say_unusable({"1": 0.25, "2": 0.0, "3": 1.0})
    told = capsys.readouterr().err
    assert "empty, or none of the task's labels: 25% at stage 1, 100% at stage 3" in told
    say_unusable({"1": 0.0})
    assert capsys.readouterr().err == ""
