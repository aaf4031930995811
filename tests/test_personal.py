"""One person on one device: adaptation, updates, forgetting, several tasks, few items."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from torch import Tensor

from client.commands import export
from client.commands.inspect import adapter_facts
from client.person import adapting
from client.person import state as personal_state
from client.person.answering import Personal
from client.person.arms import ArmModel, predict
from client.person.learner import Learner
from client.person.state import PersonalState, TaskState, decode, encode
from client.person.stores import VaultStore
from client.person.updating import (
    MOST_OLD_JUDGES,
    Update,
    in_time,
    update,
    update_samples,
    with_items,
)
from client.vault import backup
from proper_model.errors import ConfigError, ExportError, NotAdaptedError, TrainingError, VaultError
from proper_model.kernels.packing import Encoded
from proper_model.release.contents import Release
from proper_model.settings import BaseWeights, Calibrated, Calibration
from proper_model.tasks.records import HistoryItem, Query, User
from proper_model.tasks.task import Task, task_from_toml
from tests.device_cli import Person, publish_release, write_jsonl
from tests.releases import small_release, small_users, with_user

ME = PersonalState("b" * 64, 1, seed=7)


@pytest.fixture(scope="module")
def release() -> Release:
    return small_release("device")


@pytest.fixture(scope="module")
def user() -> User:
    return small_users()[1][0]


def adapted(
    release: Release, items: Sequence[HistoryItem], *, state: PersonalState = ME
) -> PersonalState:
    task = release.task
    return adapting.adapt(Learner(release), state, {task.name: (task, items)})


@pytest.fixture(scope="module")
def state(release: Release, user: User) -> PersonalState:
    return adapted(release, user.history)


def went_on(learner: Learner, before: PersonalState, items: Sequence[HistoryItem]) -> Update:
    name = learner.release.task.name
    return update(learner, before, name, with_items(before.tasks[name], items))


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


def test_another_release_begins_elsewhere(
    release: Release, user: User, state: PersonalState
) -> None:
    """The same seed over two releases, which the items and weights are the same of: A is not alike."""
    moved = dataclasses.replace(ME, bundle_id="c" * 64)
    other = adapted(release, user.history, state=moved)
    name = release.task.name
    for site, one in state.tasks[name].adapter.items():
        if site.endswith(".A"):
            two = other.tasks[name].adapter[site]
            alike = torch.cosine_similarity(one.flatten(), two.flatten(), dim=0)
            assert alike.abs() < 0.5, site
    assert decode(encode(state)).training_seed == ME.training_seed


def test_forgetting_is_never_having_known(
    release: Release, user: User, state: PersonalState
) -> None:
    """Removed items leave no trace: the same bits as an adaptation that never saw them."""
    gone = [item.id for item in user.history[::3]]
    name = release.task.name
    left = adapting.without(state, name, gone)
    forgotten = adapting.adapt(Learner(release), left, adapting.histories_of(left))
    never = adapted(release, [item for item in user.history if item.id not in gone])
    assert same(forgotten, never)
    assert {i.id for i in forgotten.tasks[name].items}.isdisjoint(gone)


def dated(*dates: str | None) -> tuple[HistoryItem, ...]:
    return tuple(HistoryItem(str(n), {}, date) for n, date in enumerate(dates))


def test_items_go_in_the_order_of_the_calendar() -> None:
    """Also those of states that were stored before dates had one spelling."""
    items = dated("2020-10-01", "2020-2-01", "2020", "2020-02-01", "2019-12-31")
    assert [item.id for item in in_time(items)] == ["4", "2", "1", "3", "0"]
    assert in_time(dated("2020-2", None, "2019")) == dated("2020-2", None, "2019")
    samples = [Encoded((n,), 0) for n in range(len(items))]
    together = adapting.merged([(items[:2], samples[:2]), (items[2:], samples[2:])])
    assert [sample.tokens[0] for sample in together] == [4, 2, 1, 3, 0]


def test_inspect_shows_the_first_and_last_day() -> None:
    items = dated("2020-10-01", "2020-2-01", "2020-9-30")
    facts = adapter_facts(ME, "t", TaskState("", "", items, {}, {}, ""))
    assert (facts["items_from"], facts["items_to"]) == ("2020-2-01", "2020-10-01")


@pytest.mark.parametrize("count", [0, 1, 3])
def test_few_items_fall_back_to_the_embedding(release: Release, user: User, count: int) -> None:
    few = adapted(release, user.history[:count])
    report = few.embedding_report
    sources = [{"mean"}, {"mean", "prototype"}, set(), {"mean", "prototype", "fitted"}]
    assert report["embedding_source"] in sources[count]
    mine = Personal.of(release, few, None)
    assert mine.stages == ("1", "2")
    with pytest.raises(ConfigError, match="no private adapter"):
        mine.generate("a question", stage="3")
    assert decode(encode(few)).tasks[release.task.name].items == user.history[:count]


def test_without_items_an_inferred_embedding_says_nothing_and_stage_2_is_stage_1(
    user: User,
) -> None:
    release = small_release("calibrated")
    asked = user.history[:2]
    for state in (None, adapted(release, ())):
        mine = Personal.of(release, state, None)
        losses = [[a.nll for a in mine.judge(asked, stage=stage)] for stage in ("1", "2")]
        assert losses[0] == losses[1]
    mine = Personal.of(release, adapted(release, user.history[:1]), None)
    one, two = ([a.nll for a in mine.judge(asked, stage=stage)] for stage in ("1", "2"))
    assert one != two


def test_a_simulated_person_without_items_is_answered_as_one_with_a_device() -> None:
    """Beside somebody with items, in the order in which they are asked."""
    release = small_release("calibrated")
    known, unknown = small_users()[1][:2]
    people = [dataclasses.replace(unknown, history=()), known]
    states = {
        user: state
        for (_, user), state in adapting.adapt_users(
            release, people, arms=["stage3"], bundle_id="b" * 64, seed=0
        ).items()
    }
    answers = {arm: predict(release, people, arm, states) for arm in ("stage1", "stage2", "stage3")}
    queries = len(unknown.queries)
    assert answers["stage2"][:queries] == answers["stage3"][:queries] == answers["stage1"][:queries]
    for arm in ("stage2", "stage3"):
        alone = predict(release, people[1:], arm, states)
        assert [a.query_id for a in answers[arm][queries:]] == [a.query_id for a in alone]
        assert [a.nll for a in answers[arm][queries:]] == pytest.approx([a.nll for a in alone])
        assert answers[arm][queries:] != answers["stage1"][queries:]


def test_an_embedding_without_an_adapter_is_exported_as_stage_2(
    user: User, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Oracle: the folder under PEFT, against our own stage 2. Without items it would be anybody's."""
    release = small_release("calibrated")
    me, out = Person.make(tmp_path), tmp_path / "lora"
    nobody = adapted(release, ())
    with pytest.raises(ExportError, match="neither an adapter nor an embedding of your own"):
        export.export_model(
            None,  # type: ignore[arg-type]
            nobody,
            export.Format.PEFT,
            out,
            None,
            approximate=False,
        )
    assert me.run("bundle", "add", publish_release(release, tmp_path / "published")) == 0
    assert me.run("adapt", write_jsonl(tmp_path / "few.jsonl", user.history[:2])) == 0
    assert me.run("export", "--format", "peft", "--out", out) == 0
    assert "it is stage 2" in capsys.readouterr().err
    mine = Personal.of(release, VaultStore(me.vault()).read(), None)
    ids = torch.tensor([mine.prompt_tokens("a question", stage="2")])
    now = mine.make_pass("2")(torch.zeros(1, dtype=torch.long))
    with torch.no_grad():
        with mine.model.attached(), mine.model.running(now):
            ours = mine.model.base(input_ids=ids).logits
        plain = release.base(input_ids=ids).logits
        theirs = PeftModel.from_pretrained(release.base, out)(input_ids=ids).logits
    torch.testing.assert_close(theirs, ours, atol=1e-5, rtol=1e-5)
    assert (ours - plain).abs().max() > 1e-2


def test_an_update_goes_on_from_the_adapter(release: Release, user: User) -> None:
    name, old, new = release.task.name, user.history[:20], user.history[20:]
    before = adapted(release, old)
    done = went_on(Learner(release), before, user.history)
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
    packed = dataclasses.replace(release, chosen_weights=BaseWeights.FOUR_BIT)
    learner = Learner(with_user(packed, learning_rates=(1.0,)))
    done = went_on(learner, before, user.history[20:])
    assert done.judged
    assert not done.kept
    assert same(done.state, before)
    assert done.state.base_weights is None, "the adapter was not trained over a packed base"
    assert done.state.tasks[name].items == user.history
    assert done.state.tasks[name].waiting == tuple(item.id for item in user.history[20:])


def test_three_items_can_make_an_embedding_of_ones_own(release: Release, user: User) -> None:
    """Planted: one item three times, which a fitted embedding expects better whoever judges."""
    item = user.history[0]
    same = [HistoryItem(f"again {n}", item.fields) for n in range(3)]
    learner = Learner(with_user(release, embedding_learning_rate=0.05, embedding_epochs=8))
    task = release.task
    few = adapting.adapt(learner, ME, {task.name: (task, same)})
    assert few.embedding_report["embedding_source"] == "fitted"
    assert not few.tasks[task.name].adapter


def test_one_new_item_waits_for_the_next(release: Release, user: User) -> None:
    """It cannot train and judge; with a second one it is new again, also after storage."""
    name = release.task.name
    before = adapted(release, user.history[:20])
    alone = went_on(Learner(release), before, user.history[20:21])
    assert not alone.judged
    assert same(alone.state, before)
    kept = decode(encode(alone.state))
    assert kept.tasks[name].waiting == (user.history[20].id,)
    both = went_on(Learner(release), kept, user.history[21:])
    assert both.judged
    assert both.new_items == len(user.history) - 20
    whole = went_on(Learner(release), before, user.history[20:])
    assert same(both.state, whole.state), "as if they had come at once"
    assert both.state.tasks[name].waiting == whole.state.tasks[name].waiting
    left = adapting.without(kept, name, [user.history[20].id])
    assert left.tasks[name].waiting == ()


def test_new_items_choose_and_old_ones_may_refuse(release: Release, user: User) -> None:
    """The adapter has seen the old ones: by them nothing would do better than to stay."""
    learner = Learner(release)
    encoded = learner.encode(user.history, release.task)
    old, new = encoded[:8], encoded[8:]
    for some in (new[:2], new[:7], new):
        samples, rehearsed, refusing = update_samples(some, old, seed=3, fraction=0.2)
        assert (rehearsed, len(refusing)) == (6, 2), "a fifth of the old items trains nothing"
        assert set(map(id, (*samples.items, *refusing))) == set(map(id, (*old, *some)))
        assert set(map(id, refusing)) <= set(map(id, old))
        assert len(samples.items) + len(refusing) == len(old) + len(some)
        for fold in samples.folds:
            judges = set(map(id, fold.held_back))
            assert judges <= set(map(id, some))
            assert judges.isdisjoint(map(id, fold.train))
        assert len(samples.folds) == (1 if len(some) >= 10 else min(5, len(some)))
    judged = update_samples(new[:7], old, seed=3, fraction=0.2)[0].judged
    assert set(map(id, judged)) == set(map(id, new[:7])), "of a few every one judges"
    assert update_samples(new[:1], old, seed=3, fraction=0.2)[0].folds == ()
    _, rehearsed, refusing = update_samples(new[:3], encoded[:20], seed=3, fraction=0.2)
    assert (rehearsed, len(refusing)) == (8, 12), "all that are not rehearsed"
    _, rehearsed, refusing = update_samples(new[:3], old * 20, seed=3, fraction=0.2)
    assert (rehearsed, len(refusing)) == (8, MOST_OLD_JUDGES)
    for few, counts in ((old[:1], (1, 0)), ([], (0, 0)), (old[:2], (1, 1))):
        _, rehearsed, refusing = update_samples(new[:3], few, seed=3, fraction=0.2)
        assert (rehearsed, len(refusing)) == counts


def test_an_update_with_nothing_new(release: Release, user: User) -> None:
    before = adapted(release, user.history[:-1])
    with pytest.raises(ConfigError, match="no new item"):
        went_on(Learner(release), before, user.history[:5])
    few = adapted(release, user.history[:2])
    with pytest.raises(ConfigError, match="nothing to go on from"):
        went_on(Learner(release), few, user.history)


def test_somebody_without_any_task_stays_so(release: Release) -> None:
    """As a backup may be that another program wrote: `proper rebase` moves it all the same."""
    nobody = adapting.adapt(Learner(release), ME, {})
    assert (nobody.tasks, nobody.embedding_report["embedding_source"]) == ({}, "mean")


def other_task(task: Task) -> Task:
    """The same records under another name and wording."""
    text = task.toml_text.replace(f'name = "{task.name}"', 'name = "mine"')
    assert text != task.toml_text
    return task_from_toml(text, template=task.template)


def test_tasks_share_one_embedding(release: Release, user: User, state: PersonalState) -> None:
    task, second = release.task, other_task(release.task)
    histories = {task.name: (task, user.history[:16]), "mine": (second, user.history[16:])}
    both = adapting.adapt(Learner(release), ME, histories)
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


CALIBRATION = Calibration(stage3=(Calibrated(1, 1e-3, 1, 0.0, 1.0, 0.4, 1.5),))


@pytest.mark.parametrize("calibration", [None, CALIBRATION], ids=["alone", "mixed"])
def test_streaming_says_what_batched_generation_says(
    release: Release, user: User, state: PersonalState, calibration: Calibration | None
) -> None:
    """Oracle: `predict`, which pads and batches."""
    release = dataclasses.replace(release, calibration=calibration)
    mine = Personal.of(release, state, None)
    for stage, arm in (("1", "stage1"), ("2", "stage2"), ("3", "stage3")):
        batched = predict(release, [user], arm, {user.user_id: state})
        streamed = ["".join(mine.generate(q.input, stage=stage)) for q in user.queries]
        assert streamed == [p.output for p in batched]
        assert any(streamed)


def test_own_items_are_judged_as_they_are_answered(
    release: Release, user: User, state: PersonalState
) -> None:
    """`proper evaluate` reads `judge`: at stage 3 the mixture, below it one stage alone."""
    calibrated = dataclasses.replace(release, calibration=CALIBRATION)
    plain, mixed = (Personal.of(one, state, None) for one in (release, calibrated))
    assert (mixed.share, plain.share) == ((0.4, 1.5), (1.0, 1.0))
    few = user.history[:4]
    for stage in ("1", "2"):
        assert mixed.judge(few, stage=stage) == plain.judge(few, stage=stage)
    examples = [release.task.history_example(item) for item in few]
    predicted = ArmModel(calibrated, release.task).answers(
        [(0, one, Query(one.id, "", one.answer)) for one in examples],
        "stage3",
        [mixed.private],
        items=[len(user.history)],
    )
    assert mixed.judge(few, stage="3") == predicted
    assert mixed.judge(few, stage="3") != plain.judge(few, stage="3")


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


def noted() -> PersonalState:
    """One task of one long item, and no tensor."""
    task = TaskState("", "", (HistoryItem("1", {"text": "x" * 100}),), {}, {}, "")
    return ME.with_task("t", task)


def test_nothing_is_written_that_could_not_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    data = encode(noted())
    length = int.from_bytes(data[8:12], "big")
    monkeypatch.setattr(personal_state, "MAX_HEADER_BYTES", length)
    assert decode(encode(noted())) == noted()
    monkeypatch.setattr(personal_state, "MAX_HEADER_BYTES", length - 1)
    with pytest.raises(VaultError, match=f"{length} bytes of history; expected at most") as caught:
        encode(noted())
    assert "--max-items" in (caught.value.hint or "")
    with pytest.raises(VaultError, match="cut off"):
        decode(data)


def test_what_no_backup_holds_is_told_before_a_passphrase_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backup, "MAX_PAYLOAD_BYTES", 100)
    with pytest.raises(ExportError, match="a backup holds at most 100 B") as caught:
        export.export_backup(noted(), tmp_path / "out", None, weak=False)
    assert "proper path" in (caught.value.hint or "")
    assert not (tmp_path / "out").exists()


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
        adapting.adapt(learner, ME, {task.name: (task, user.history)})
