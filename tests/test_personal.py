"""One person on one device: adaptation, updates, forgetting, several tasks, few items."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from client import personal
from client.adaptation import UserState
from client.answering import Personal
from client.commands.inspect import adapter_facts
from client.learning import Learner
from client.personal_state import PersonalState, TaskState, decode, encode
from client.prediction import predict
from proper_model.artifact import Release
from proper_model.encoding import Encoded
from proper_model.errors import ConfigError, NotAdaptedError, TrainingError, VaultError
from proper_model.records import HistoryItem, User
from proper_model.tasks import Task, task_from_toml
from tests.releases import small_release, small_users

ME = PersonalState("b" * 64, 1, seed=7)


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Release:
    return small_release(tmp_path_factory.mktemp("release"), "device")


@pytest.fixture(scope="module")
def user() -> User:
    return small_users()[1][0]


def adapted(
    release: Release, items: Sequence[HistoryItem], *, state: PersonalState = ME
) -> PersonalState:
    task = release.task
    return personal.adapt(Learner(release), state, {task.name: (task, items)})


@pytest.fixture(scope="module")
def state(release: Release, user: User) -> PersonalState:
    return adapted(release, user.history)


def tensors(state: PersonalState) -> dict[str, Tensor]:
    found = {f"{n}/{k}": t for n, s in state.tasks.items() for k, t in s.adapter.items()}
    return found if state.embedding is None else found | {"embedding": state.embedding}


def same(a: PersonalState, b: PersonalState) -> bool:
    x, y = tensors(a), tensors(b)
    return x.keys() == y.keys() and all(torch.equal(x[k], y[k]) for k in x)


def test_a_person_is_adapted_and_stage_three_fits_better(
    release: Release, user: User, state: PersonalState
) -> None:
    mine = Personal.of(release, state, None)
    assert mine.stages == ("1", "2", "3")
    losses = {
        stage: sum(a.nll for a in mine.judge(user.history, stage=stage)) for stage in mine.stages
    }
    assert losses["3"] < losses["1"]
    assert state.tasks[release.task.name].report["lora_trained"] == 1


def test_the_same_items_give_the_same_bits(
    release: Release, user: User, state: PersonalState
) -> None:
    assert same(adapted(release, user.history), state)
    other = adapted(release, user.history, state=dataclasses.replace(ME, seed=8))
    assert not same(other, state)


def test_forgetting_is_never_having_known(
    release: Release, user: User, state: PersonalState
) -> None:
    """Removed items leave no trace: the same bits as an adaptation that never saw them."""
    gone = [item.id for item in user.history[::3]]
    name = release.task.name
    left = personal.without(state, name, gone)
    forgotten = personal.adapt(Learner(release), left, personal.histories_of(left))
    never = adapted(release, [item for item in user.history if item.id not in gone])
    assert same(forgotten, never)
    assert {i.id for i in forgotten.tasks[name].items}.isdisjoint(gone)


def dated(*dates: str | None) -> tuple[HistoryItem, ...]:
    return tuple(HistoryItem(str(n), {}, date) for n, date in enumerate(dates))


def test_items_go_in_the_order_of_the_calendar() -> None:
    """Also those of states that were stored before dates had one spelling."""
    items = dated("2020-10-01", "2020-2-01", "2020", "2020-02-01", "2019-12-31")
    assert [item.id for item in personal.in_time(items)] == ["4", "2", "1", "3", "0"]
    assert personal.in_time(dated("2020-2", None, "2019")) == dated("2020-2", None, "2019")
    samples = [Encoded((n,), 0) for n in range(len(items))]
    together = personal.merged([(items[:2], samples[:2]), (items[2:], samples[2:])])
    assert [sample.tokens[0] for sample in together] == [4, 2, 1, 3, 0]


def test_inspect_shows_the_first_and_last_day() -> None:
    items = dated("2020-10-01", "2020-2-01", "2020-9-30")
    facts = adapter_facts(ME, "t", TaskState("", "", items, {}, {}, ""))
    assert (facts["items from"], facts["items to"]) == ("2020-2-01", "2020-10-01")


@pytest.mark.parametrize("count", [0, 1, 3])
def test_few_items_fall_back_to_the_embedding(release: Release, user: User, count: int) -> None:
    few = adapted(release, user.history[:count])
    report = few.embedding_report
    assert report["embedding_source"] in ({"mean"} if count == 0 else {"mean", "prototype"})
    mine = Personal.of(release, few, None)
    assert mine.stages == ("1", "2")
    with pytest.raises(ConfigError, match="no private adapter"):
        mine.generate("a question", stage="3")
    assert decode(encode(few)).tasks[release.task.name].items == user.history[:count]


def test_an_update_goes_on_from_the_adapter(release: Release, user: User) -> None:
    name, old, new = release.task.name, user.history[:20], user.history[20:]
    before = adapted(release, old)
    done = personal.update(Learner(release), before, name, user.history)
    assert done.new_items == len(new)
    assert done.rehearsed >= len(new) // 2
    assert done.loss_after <= done.loss_before
    assert done.kept == (not same(done.state, before))
    assert done.kept, "planted: new items of the same person help"
    assert done.state.tasks[name].items == user.history
    assert torch.equal(done.state.embedding, before.embedding)  # type: ignore[arg-type]


def test_an_update_that_does_not_help_is_rolled_back(release: Release, user: User) -> None:
    """A learning rate at which any training hurts: the adapter stays to the bit, items are kept."""
    name = release.task.name
    before = adapted(release, user.history[:20])
    learner = Learner(release)
    learner.with_user_settings(learning_rates=(1.0,))
    done = personal.update(learner, before, name, user.history[20:])
    assert not done.kept
    assert same(done.state, before)
    assert done.state.tasks[name].items == user.history


def test_an_update_with_one_item_and_with_none(release: Release, user: User) -> None:
    name = release.task.name
    before = adapted(release, user.history[:-1])
    assert personal.update(Learner(release), before, name, user.history[-1:]).new_items == 1
    with pytest.raises(ConfigError, match="no new item"):
        personal.update(Learner(release), before, name, user.history[:5])
    few = adapted(release, user.history[:2])
    with pytest.raises(ConfigError, match="nothing to go on from"):
        personal.update(Learner(release), few, name, user.history)


def other_task(task: Task) -> Task:
    """The same records under another name and wording."""
    text = task.toml_text.replace(f'name = "{task.name}"', 'name = "mine"')
    assert text != task.toml_text
    return task_from_toml(text, template=task.template)


def test_tasks_share_one_embedding(release: Release, user: User, state: PersonalState) -> None:
    task, second = release.task, other_task(release.task)
    histories = {task.name: (task, user.history[:16]), "mine": (second, user.history[16:])}
    both = personal.adapt(Learner(release), ME, histories)
    assert set(both.tasks) == {task.name, "mine"}
    assert both.embedding is not None
    assert both.embedding.shape == state.embedding.shape  # type: ignore[union-attr]
    assert not torch.equal(
        both.tasks[task.name].adapter[key := next(iter(both.tasks["mine"].adapter))],
        both.tasks["mine"].adapter[key],
    )
    with pytest.raises(NotAdaptedError, match="which one"):
        both.task_named(None)
    again = decode(encode(both))
    assert same(again, both)
    assert again == dataclasses.replace(both, tasks=again.tasks, embedding=again.embedding), (
        "everything but tensors compares by value"
    )


def test_streaming_says_what_batched_generation_says(
    release: Release, user: User, state: PersonalState
) -> None:
    """Oracle: `predict`, which pads and batches and uses transformers' own decoding loop."""
    mine = Personal.of(release, state, None)
    private = {
        "embedding": state.embedding,
        **state.tasks[release.task.name].adapter,
    }
    for stage, arm in (("1", "stage1"), ("2", "stage2"), ("3", "stage3")):
        states = {user.user_id: UserState(user.user_id, arm, "", private, {})}  # type: ignore[arg-type]
        batched = predict(release, [user], arm, states)
        streamed = ["".join(mine.generate(q.input, stage=stage)) for q in user.queries]
        assert streamed == [p.output for p in batched]
        assert any(streamed)


def test_routing_leans_sum_to_one(release: Release, user: User, state: PersonalState) -> None:
    mine = Personal.of(release, state, None)
    examples = [mine.task.history_example(item) for item in user.history[:5]]
    for stage in ("2", "3"):
        weights = mine.routing(examples, stage=stage)
        assert weights.shape == (len(mine.model.sites), release.structure.experts)
        torch.testing.assert_close(weights.sum(1), torch.ones(len(weights)))
    with pytest.raises(ConfigError, match="no experts"):
        mine.routing(examples, stage="1")


def test_nothing_that_is_not_finite_is_stored(state: PersonalState) -> None:
    broken = dataclasses.replace(state, embedding=torch.full((1, 2), float("nan")))
    with pytest.raises(TrainingError, match="not finite"):
        encode(broken)


def test_documents_are_read_strictly(state: PersonalState) -> None:
    data = encode(state)
    assert same(decode(data), state)
    for cut in (0, 3, 11, 40, len(data) // 2):
        with pytest.raises(VaultError):
            decode(data[:cut])
    with pytest.raises(VaultError, match="no personal document"):
        decode(b"X" + data[1:])
    head = data.replace(b'"format":1', b'"format":2', 1)
    with pytest.raises(VaultError, match="format"):
        decode(head)


def test_divergence_everywhere_is_an_error(
    release: Release, user: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    learner = Learner(release)
    train = learner.train_loras

    def diverged(*args: Any, **options: Any) -> Any:
        lora, fits = train(*args, **options)
        return lora, [dataclasses.replace(fit, failed=True) for fit in fits]

    monkeypatch.setattr(learner, "train_loras", diverged)
    task = release.task
    with pytest.raises(TrainingError, match="diverged"):
        personal.adapt(learner, ME, {task.name: (task, user.history)})
