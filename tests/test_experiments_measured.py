"""What the experiments measure: people who change their minds, and people with two tasks."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import pytest
import torch

from client.person import adapting, updating
from client.person.learner import Learner, user_seed
from client.person.state import PersonalState
from client.person.updating import Start, WentOn, go_on, update_samples
from proper_model.errors import DataError
from proper_model.kernels.packing import Encoded
from proper_model.progress import silent
from proper_model.release.contents import Release
from proper_model.stages.pooled_users import pool
from proper_model.stages.private_lora import LoraFit
from proper_model.tasks.records import HistoryItem, User
from proper_model.tasks.task import Task
from simulations.experiments import drift, multitask
from simulations.experiments.changing_minds import changed_minds
from simulations.experiments.common import Meter, Outcome
from simulations.experiments.multitask import CONDITIONS, TwoTasks, apart, fit_all
from simulations.experiments.timeline import cut, first_half, needed
from tests.releases import SMALL, small_population, small_release, small_users
from tests.test_personal import other_task


@pytest.fixture(scope="module")
def release() -> Release:
    return small_release("device")


@functools.cache
def changed() -> tuple[tuple[User, ...], dict[str, object]]:
    """Three unseen people who tag every film alike from the second half on."""
    made = small_population()
    return changed_minds(made.population.test[:3], made.truth, first_half)


def numbered(count: int) -> tuple[HistoryItem, ...]:
    return tuple(HistoryItem(str(i), {}) for i in range(count))


def ids(items: tuple[HistoryItem, ...]) -> str:
    return " ".join(item.id for item in items)


def test_a_history_is_cut_in_time() -> None:
    line = cut(numbered(15), parts=2, least=4)  # 3 newest, 6 + 6
    assert ids(line.first) == "0 1 2 4 5"
    assert ids(line.apart) == "3"
    assert [ids(part) for part in line.parts] == ["6 7 8", "9 10 11"]
    assert ids(line.newest) == "12 13 14"
    assert ids(line.known) == "0 1 2 4 5 6 7 8 9 10 11"


@pytest.mark.parametrize("parts", [1, 2, 3, 7])
@pytest.mark.parametrize("least", [1, 4])
def test_the_shortest_history_that_can_be_cut(parts: int, least: int) -> None:
    shortest = needed(parts, least)
    line = cut(numbered(shortest), parts=parts, least=least)
    assert len(line.first) >= least
    assert len(line.parts) == parts
    assert all(line.parts)
    assert line.apart
    everything = (*line.known, *line.apart, *line.newest)
    assert sorted(everything, key=lambda item: int(item.id)) == list(numbered(shortest))
    for count in range(shortest):
        with pytest.raises(DataError, match=f"a history of {count} items") as caught:
            cut(numbered(count), parts=parts, least=least)
        assert f"{shortest} items or more" in str(caught.value.hint)


def test_users_with_too_little_are_left_out_and_nobody_is_an_error() -> None:
    users = [User(str(n), numbered(n), ()) for n in (3, 30)]
    assert set(drift.timelines(users, parts=2, least=4)) == {"30"}
    with pytest.raises(DataError, match="no test user's history is long enough"):
        drift.timelines(users[:1], parts=2, least=4)


def test_people_change_their_minds_as_planted() -> None:
    """Old items as they were, later ones and all queries with one new tag, films untouched."""
    users, truth = changed()
    tags = []
    for old, new in zip(small_population().population.test[:3], users, strict=True):
        half = first_half(len(old.history))
        assert new.history[:half] == old.history[:half]
        assert [i.fields["description"] for i in new.history] == [
            i.fields["description"] for i in old.history
        ]
        (tag,) = {item.fields["tag"] for item in new.history[half:]}
        assert tag not in {item.fields["tag"] for item in old.history}
        assert {query.gold for query in new.queries} == {tag}
        assert {truth["gold"][query.id] for query in new.queries} == {tag}  # type: ignore[index]
        assert [query.input for query in new.queries] == [query.input for query in old.queries]
        tags.append(tag)
    assert len(set(tags)) == 3


@pytest.fixture(scope="module")
def outcome(release: Release) -> Outcome:
    users = changed()[0]
    lines = drift.timelines(users, parts=2, least=4)
    return drift.measure(release, users, list(lines.values()), seed=0, progress=silent)


def right(outcome: Outcome, condition: str, on: str) -> float:
    values = outcome.scores[condition][on].values["accuracy"]
    return sum(values) / len(values)


@pytest.mark.parametrize("on", [drift.QUERIES, drift.NEWEST])
def test_update_and_scratch_find_the_new_preference_and_nothing_does_not(
    outcome: Outcome, on: str
) -> None:
    found = {condition: right(outcome, condition, on) for condition in outcome.scores}
    assert found["nothing"] <= 0.1, found
    assert found["stage2"] <= 0.1, found
    assert found["update"] >= 0.5, found
    assert found["scratch"] >= 0.5, found


def test_costs_and_updates_are_counted(outcome: Outcome) -> None:
    costs = outcome.costs
    assert set(costs) == {"nothing", "update", "scratch"}
    assert costs["scratch"].trained_tokens > costs["nothing"].trained_tokens > 0
    assert costs["update"].trained_tokens > 0
    assert outcome.facts["updates"] == 2 * outcome.users == 6
    assert 3 <= outcome.facts["updates_kept"] <= 6, "planted: new items of a changed mind help"
    assert outcome.facts["items_first_half"] == 3 * 7
    assert outcome.facts["items_old"] == 3 * 2
    for sets in outcome.scores.values():
        assert set(sets) == {drift.QUERIES, drift.NEWEST, drift.RETENTION}
        assert len(sets[drift.NEWEST].query_ids) == 3 * 5


def nothing_helps(_: Learner, members: Sequence[Start], **__: float) -> list[WentOn]:
    fit = LoraFit(1e-2, 0, 1.0, 1.0, trained=True, failed=False)
    return [WentOn({}, fit) for _ in members]


def test_what_does_not_help_waits_and_changes_nothing(
    release: Release, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Planted: nothing helps. Every part then comes with all before it, and adapters stay."""
    users = changed()[0][:2]
    lines = list(drift.timelines(users, parts=2, least=4).values())
    asked: list[tuple[int, int]] = []

    def counted(new: Sequence[Any], old: Sequence[Any], **options: Any) -> Any:
        asked.append((len(new), len(old)))
        return update_samples(new, old, **options)

    monkeypatch.setattr(updating, "update_samples", counted)
    monkeypatch.setattr(updating, "go_on", nothing_helps)
    outcome = drift.measure(release, users, lines, seed=0, progress=silent)
    first, second = ([len(line.parts[part]) for line in lines] for part in (0, 1))
    old = [len(line.first) for line in lines]
    together = [a + b for a, b in zip(first, second, strict=True)]
    assert asked == [*zip(first, old, strict=True), *zip(together, old, strict=True)]
    assert outcome.facts["updates_kept"] == 0
    assert outcome.scores["update"] == outcome.scores["nothing"]


def test_parts_arrive_in_the_order_in_which_the_history_was_cut(
    release: Release, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Planted: the newest item has no date, so that nothing is sorted, and the others go backwards;
    an item of the first part has the id of the very first item.
    """
    learner, task, user = Learner(release), release.task, changed()[0][0]
    *others, last = user.history
    history = [
        dataclasses.replace(item, date=f"{2030 - place}-01-01") for place, item in enumerate(others)
    ]
    history[first_half(len(user.history))] = dataclasses.replace(
        history[first_half(len(user.history))], id=history[0].id
    )
    line = cut([*history, dataclasses.replace(last, date=None)], parts=2, least=4)
    fresh = learner.lora_tensors(learner.model.new_user_lora([0]), 0)
    own = adapting.task_state(task, line.first, fresh, {})
    state = PersonalState(
        "b" * 64, 0, seed=1, embedding=release.mean_embedding, tasks={task.name: own}
    )
    asked: list[list[Encoded]] = []

    def seen(new: list[Encoded], old: list[Encoded], **options: Any) -> Any:
        asked.extend((new, old))
        return update_samples(new, old, **options)

    monkeypatch.setattr(updating, "update_samples", seen)
    monkeypatch.setattr(updating, "go_on", nothing_helps)
    states, tried, kept = drift._update(
        release, [user], [line], {user.user_id: state}, silent, None
    )
    first, second = (learner.encode(part, task) for part in line.parts)
    old = learner.encode(line.first, task)
    assert asked == [first, old, [*first, *second], old]
    assert (tried, kept) == (2, 0)
    assert states[user.user_id].tasks[task.name].items == line.known


def test_going_on_together_is_going_on_alone(release: Release) -> None:
    learner, task = Learner(release), release.task
    members = []
    for number, user in enumerate(changed()[0][:3]):
        encoded = learner.encode(user.history[:20], task)
        samples, _, _ = update_samples(encoded[14:], encoded[:14], seed=number, fraction=0.2)
        fresh = learner.model.new_user_lora([number])
        factors = [factor.detach()[0] for factor in (*fresh.a, *fresh.b)]
        members.append(Start(factors, release.mean_embedding, samples))
    together = go_on(learner, members)
    assert any(done.kept for done in together)
    for member, done in zip(members, together, strict=True):
        (alone,) = go_on(learner, [member])
        assert alone.kept == done.kept
        for name, tensor in alone.adapter.items():
            torch.testing.assert_close(done.adapter[name], tensor, atol=2e-4, rtol=1e-3)


@pytest.fixture(scope="module")
def both(release: Release) -> TwoTasks:
    """Two users with two tasks: every other item answers another question, in other words."""
    task = other_task(release.task)
    pairs = [apart(user, user) for user in small_users()[1][:2]]
    first, second = zip(*pairs, strict=True)
    return TwoTasks((release.task, task), ((), ()), (first, second))


def named(*ids: str) -> tuple[HistoryItem, ...]:
    return tuple(HistoryItem(i, {}) for i in ids)


def test_no_item_serves_both_tasks() -> None:
    a, b = apart(
        User("u", named("1", "2", "x", "3", "4"), ()), User("u", named("1", "y", "2", "3", "4"), ())
    )
    assert [item.id for item in a.history] == ["1", "x", "3"]
    assert [item.id for item in b.history] == ["y", "2", "4"]


def test_the_shared_embedding_is_fitted_on_both_tasks_by_hand(
    release: Release, both: TwoTasks
) -> None:
    """Oracle: the items of both tasks interleaved by hand, each in its own task's words."""
    learner = Learner(release)
    fits = fit_all(learner, both, seed=5, meter=Meter(release.base))
    by_hand, alone = [], []
    for a, b in zip(*both.test, strict=True):
        first = learner.encode(a.history, both.tasks[0])
        second = learner.encode(b.history, both.tasks[1])
        assert len(first) == len(second) == 12
        pairs = zip(first, second, strict=True)
        seed = user_seed(5, a.user_id)
        by_hand.append(learner.split([sample for pair in pairs for sample in pair], seed=seed))
        alone.append(learner.split(second, seed=seed))
    shared, _ = learner.fit_embeddings(by_hand)
    own, _ = learner.fit_embeddings(alone)
    for place in (0, 1):
        assert torch.equal(fits.embeddings["shared", place], shared)
    assert torch.equal(fits.embeddings["apart", 1], own)
    assert torch.equal(fits.embeddings["transferred", 0], own)
    assert torch.equal(fits.embeddings["mean", 0][0], release.mean_embedding)
    assert not torch.equal(shared, own)
    assert set(fits.found) == {"shared", *(task.name for task in both.tasks)}


def test_shared_is_what_a_device_does_with_two_tasks(release: Release, both: TwoTasks) -> None:
    """Oracle: `personal.adapt` of one person with both tasks, which go by name there."""
    a, b = both.test[0][0], both.test[1][0]
    rows = sorted(zip((a, b), both.tasks, strict=True), key=lambda row: row[1].name)
    (first, one), (second, two) = rows
    state = PersonalState("b" * 64, 1, seed=user_seed(5, a.user_id))
    histories = {one.name: (one, first.history), two.name: (two, second.history)}
    mine = adapting.adapt(Learner(release), state, histories)
    same = TwoTasks((one, two), ((), ()), ((first,), (second,)))
    fits = fit_all(Learner(release), same, seed=5, meter=Meter(release.base))
    assert mine.embedding is not None
    assert torch.equal(fits.embeddings["shared", 0][0], mine.embedding)


def test_every_condition_is_scored_on_every_task(release: Release, both: TwoTasks) -> None:
    outcome = multitask.measure(release, both, seed=5, progress=silent)
    assert tuple(outcome.scores) == CONDITIONS
    tasks = [task.name for task in both.tasks]
    for sets in outcome.scores.values():
        assert set(sets) == {f"{name}, stage {stage}" for name in tasks for stage in (2, 3)}
    name = tasks[0]
    losses = {
        (condition, stage): outcome.scores[condition][f"{name}, stage {stage}"].values["nll"]
        for condition in CONDITIONS
        for stage in (2, 3)
    }
    assert len({losses[condition, 2] for condition in CONDITIONS}) == len(CONDITIONS)
    for condition in CONDITIONS:
        assert sum(losses[condition, 3]) < sum(losses[condition, 2]), condition
    assert sum(losses["shared", 2]) < sum(losses["mean", 2]), "planted: the group can be found"
    assert set(outcome.costs) == {"shared", "apart"}


def test_pooled_users_train_both_tasks(release: Release) -> None:
    """By hand: histories by place in each, queries one task after the other."""
    users, task, encoder = small_users()[0][:4], release.task, release.encoder()
    second: Task = other_task(task)
    cut = [dataclasses.replace(u, history=u.history[:2], queries=u.queries[:1]) for u in users]
    beside = [(cut[:3], second)]
    data = pool(cut, task, encoder, SMALL, 0, beside=beside)
    pooled = {p.history: p for p in (*data.trained, *data.held_back)}
    plain = pool(cut, task, encoder, SMALL, 0)
    single = {p.history: p for p in (*plain.trained, *plain.held_back)}
    for user in cut[:3]:
        a, b = (
            [encoder.encode(task.history_example(item)) for item in user.history],
            [encoder.encode(second.history_example(item)) for item in user.history],
        )
        found = pooled[a[0], b[0], a[1], b[1]]
        queries = [encoder.encode(t.query_example(user.queries[0])) for t in (task, second)]
        assert list(found.queries) == queries
    last = tuple(encoder.encode(task.history_example(item)) for item in cut[3].history)
    assert pooled[last] == single[last]
