"""`proper` under privacy of single items: what is promised, kept, added up and refused."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch

from client.commands.adapt import say_outcome
from client.commands.inspect import adapter_facts, fact_rows
from client.person import adapting, cost
from client.person.item_promise import (
    asked_privacy,
    check_promise,
    promise_sentences,
    standing,
    with_privacy,
)
from client.person.learner import Learner
from client.person.state import PersonalState, decode, encode
from client.person.stores import VaultStore
from proper_model.accounting import accountant
from proper_model.errors import ConfigError, VaultError
from proper_model.kernels.packing import Batch
from proper_model.model.adapted_model import AdaptedModel
from proper_model.release.contents import Release
from proper_model.settings import Calibrated, Calibration, ItemPrivacy
from proper_model.tasks import Task
from proper_model.tasks.records import HistoryItem
from proper_model.tasks.task import task_from_toml
from tests.device_cli import CANARY, Person, publish_release, quick_release, write_jsonl
from tests.releases import small_users
from tests.test_pooled_privacy import stand_in

ITEMS = 8
QUICK = ItemPrivacy(8.0, steps=3, noise_multiplier=2.0, accountant="stand-in")
ME = PersonalState("cd" * 32, 1, seed=5)
PRIVATE = dataclasses.replace(ME, privacy=QUICK)


@pytest.fixture(scope="module")
def release() -> Release:
    return quick_release()


@pytest.fixture(scope="module")
def history() -> tuple[HistoryItem, ...]:
    return small_users()[1][0].history[:ITEMS]


@pytest.fixture
def found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An accountant that finds a noise of 2 for any epsilon; what it was asked lies beside it."""
    answer = {"noise_multiplier": 2.0, "epsilon": 7.9, "accountant": "stand-in"}
    monkeypatch.setenv(accountant.VARIABLE, str(stand_in(tmp_path, json.dumps(answer))))
    accountant._ask.cache_clear()
    return tmp_path / "asked"


def other_task(task: Task) -> Task:
    """The same under another name, as a second task of a person."""
    text = task.toml_text.replace(f'name = "{task.name}"', 'name = "other"')
    return task_from_toml(text, template=task.template)


# -- one person through the program ------------------------------------------------------------


def test_from_adapting_to_forgetting(
    release: Release,
    history: tuple[HistoryItem, ...],
    tmp_path: Path,
    found: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    me, items = Person.make(tmp_path), write_jsonl(tmp_path / "items.jsonl", history)
    assert me.run("bundle", "add", publish_release(release, tmp_path / "published")) == 0
    wanted = ("--private-epsilon", "8", "--private-delta", "1e-4")
    assert me.run("adapt", items, "--retrieve", "2", *wanted) == 11
    assert "own items before a question" in capsys.readouterr().err
    assert not (me.home / "vault").exists()

    assert me.run("adapt", items, *wanted) == 0
    told = capsys.readouterr().out
    assert "epsilon 7.9, delta 1e-04 (stand-in; 40 steps" in told
    assert "held back" in told
    assert "loss" not in told
    asked = json.loads(found.read_text().splitlines()[0])
    assert (asked["epsilon"], asked["delta"], asked["steps"]) == (8.0, 1e-4, 40)
    state = VaultStore(me.vault()).read()
    assert state.embedding is not None
    assert torch.equal(state.embedding, release.mean_embedding.cpu())
    assert state.privacy == ItemPrivacy(
        7.9, delta=1e-4, noise_multiplier=2.0, accountant="stand-in"
    )

    assert me.run("update", items) == 11
    assert "adapt HISTORY with the whole history" in capsys.readouterr().err
    assert me.run("export", "--format", "peft", "--approximate", "--out", tmp_path / "a") != 0
    assert "more of them" in capsys.readouterr().err
    assert me.run("export", "--format", "peft", "--out", tmp_path / "lora") == 0
    told = capsys.readouterr().err
    assert "epsilon 7.9" in told
    assert "as good as leaked history" not in told

    questions = len(found.read_text().splitlines())
    assert me.run("forget", "--yes", "--items", "1") == 0
    told = capsys.readouterr().out
    assert "but for chance" in told
    assert "2 times" in told
    assert "epsilon 15.8 and delta 2e-04" in told
    after = VaultStore(me.vault()).read()
    assert after.privacy == state.privacy
    assert len(found.read_text().splitlines()) == questions, "the noise is the same, and known"
    assert me.run("inspect", "--json") == 0
    facts = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (facts["private_trainings"], facts["private_epsilon"]) == (2, 7.9)
    assert (facts["private_steps"], facts["private_noise_multiplier"]) == (40, 2.0)
    assert facts["private_epsilon_all"] == pytest.approx(15.8)
    assert facts["lora_loss_after"] is None
    assert me.run("evaluate") == 0

    assert me.run("adapt", items, "--private-epsilon", "off") == 0
    ended = VaultStore(me.vault()).read()
    assert ended.privacy is None
    assert "private_epsilon" not in ended.tasks[release.task.name].report
    assert me.run("adapt", items, *wanted) == 0
    assert "was trained without privacy; it stays" in capsys.readouterr().err


def test_without_an_accountant_nothing_is_asked_or_stored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    release: Release, history: tuple[HistoryItem, ...],
) -> None:  # fmt: skip
    monkeypatch.setenv(accountant.VARIABLE, str(tmp_path / "nowhere"))
    me, items = Person.make(tmp_path), write_jsonl(tmp_path / "items.jsonl", history)
    assert me.run("bundle", "add", publish_release(release, tmp_path / "published")) == 0
    assert me.run("adapt", items, "--private-epsilon", "8") == 11
    assert "make accountant" in capsys.readouterr().err
    assert not (me.home / "vault").exists()


@pytest.mark.parametrize(
    ("epsilon", "delta", "told"),
    [("much", None, "a number, or off"), ("0", None, "epsilon"), ("inf", None, "epsilon")]
    + [("8", 2.0, "delta"), (None, 1e-5, "goes with an epsilon"), ("off", 1e-5, "goes with")],
)
def test_options_that_promise_nothing_are_refused(
    epsilon: str | None, delta: float | None, told: str
) -> None:
    with pytest.raises(ConfigError, match=told):
        asked_privacy(epsilon, delta)


# -- what is learned ---------------------------------------------------------------------------


def test_no_item_has_a_say_in_anything_but_the_noisy_sums(
    release: Release, history: tuple[HistoryItem, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where items add nothing, two other histories give the same adapter: chance and seed alone."""

    class SameNoise:
        def uniform(self, count: int):
            import numpy as np

            drawn = np.random.default_rng(count).random(count)
            return np.ones(count) if count <= ITEMS else drawn  # nobody is drawn

    task, others = release.task, small_users()[1][1].history[: ITEMS - 2]
    learned = []
    for own in (history, others):
        learner = Learner(release).under(QUICK, SameNoise())
        done = adapting.adapt(learner, PRIVATE, {task.name: (task, own)})
        learned.append(done.private(task.name))
    assert learned[0].keys() == learned[1].keys()
    assert all(torch.equal(learned[0][name], learned[1][name]) for name in learned[0])
    assert any(bool(learned[0][name].any()) for name in learned[0] if name.endswith(".B"))


def test_tasks_whose_items_stay_keep_their_adapter_and_spend_nothing(
    release: Release, history: tuple[HistoryItem, ...]
) -> None:
    mine, other = release.task, other_task(release.task)
    both = {mine.name: (mine, history), "other": (other, history[2:])}
    first = adapting.adapt(Learner(release), PRIVATE, both)
    assert [task.report["private_trainings"] for task in first.tasks.values()] == [1, 1]
    left = adapting.without(first, mine.name, [history[0].id])
    again = adapting.adapt(Learner(release), left, adapting.histories_of(left), changed=mine.name)
    kept, new = again.tasks["other"], again.tasks[mine.name]
    assert kept == first.tasks["other"]
    assert new.report["private_trainings"] == 2
    assert len(new.items) == ITEMS - 1
    assert any(
        not torch.equal(new.adapter[name], first.tasks[mine.name].adapter[name])
        for name in new.adapter
    )
    # Over another release, and under another promise, all are trained.
    assert standing(first, None) == frozenset()
    assert (
        standing(with_privacy(first, dataclasses.replace(QUICK, steps=4)), "other") == frozenset()
    )
    moved = adapting.adapt(Learner(release), first, adapting.histories_of(first))
    assert [task.report["private_trainings"] for task in moved.tasks.values()] == [2, 2]


def test_of_few_items_there_is_no_adapter_and_no_promise(
    release: Release, history: tuple[HistoryItem, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    task = release.task
    few = adapting.adapt(Learner(release), PRIVATE, {task.name: (task, history[:3])})
    assert not few.tasks[task.name].adapter
    assert promise_sentences(few.tasks[task.name].report) == []
    say_outcome(few, task.name, 4)
    assert "the average user's embedding" in capsys.readouterr().out
    row = Calibrated(6, 1e-2, 1, 0.0, 1.0, 1.0, 1.0)
    calibrated = Learner(dataclasses.replace(release, calibration=Calibration((row,), (row,))))
    assert [calibrated.under(QUICK).adapts("stage3", n) for n in (5, 6)] == [False, True]
    none = dataclasses.replace(row, weight=0.0)
    never = Learner(dataclasses.replace(release, calibration=Calibration((none,), (none,))))
    assert not never.under(QUICK).adapts("stage3", 100)


def test_what_cannot_be_protected_is_refused_before_training(
    release: Release, history: tuple[HistoryItem, ...]
) -> None:
    task = release.task
    with pytest.raises(ConfigError, match="own items before a question") as error:
        check_promise(QUICK, {task.name: (dataclasses.replace(task, retrieve=1), history)})
    assert "--retrieve 0" in str(error.value.hint)
    assert history[0].id not in error.value.message
    loose = dataclasses.replace(QUICK, delta=0.2)
    with pytest.raises(ConfigError, match="8 items"):
        check_promise(loose, {task.name: (task, history)})


def test_the_cost_is_that_of_the_passes(
    release: Release, history: tuple[HistoryItem, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """All are drawn in every step, so it is exact; oracle: tokens of every pass."""
    monkeypatch.setattr(cost, "_tokens_a_second", lambda *_: 1.0)
    always = dataclasses.replace(PRIVATE, privacy=dataclasses.replace(QUICK, sampling_rate=1.0))
    histories = {release.task.name: (release.task, history)}
    told = cost.estimate(Learner(release).under(always.privacy), histories)
    spent, plain = 0, AdaptedModel.answer_nll

    def counted(self: AdaptedModel, batch: Batch, now: object) -> torch.Tensor:
        nonlocal spent
        spent += sum(batch.layout.lengths)
        return plain(self, batch, now)  # type: ignore[arg-type]

    monkeypatch.setattr(AdaptedModel, "answer_nll", counted)
    adapting.adapt(Learner(release), always, histories)
    assert told.fastest_s == told.slowest_s == spent


# -- the document and the words ----------------------------------------------------------------


def test_the_document_keeps_the_promise(release: Release) -> None:
    assert decode(encode(PRIVATE)) == PRIVATE
    assert b"privacy" not in encode(ME), "without it, earlier versions read the document"
    for before, after in (
        (b'"steps":3', b'"steps":0'),
        (b'"noise_multiplier":2.0', b'"noise_multiplier":null'),
        (b'"delta"', b'"gamma"'),
    ):
        data = encode(PRIVATE)
        head = data[12 : 12 + int.from_bytes(data[8:12], "big")]
        other = head.replace(before, after)
        assert other != head
        altered = data[:8] + len(other).to_bytes(4, "big") + other + data[12 + len(head) :]
        with pytest.raises(VaultError):
            decode(altered)


def test_inspect_says_the_promise_in_words(
    release: Release, history: tuple[HistoryItem, ...]
) -> None:
    task = release.task
    done = adapting.adapt(Learner(release), PRIVATE, {task.name: (task, history)})
    shown = dict(fact_rows(adapter_facts(done, task.name, done.tasks[task.name])))
    assert shown["privacy of an item, epsilon"] == "8"
    assert shown["privacy, steps"] == "3"
    (said,) = promise_sentences(done.tasks[task.name].report)
    assert "epsilon 8, delta 1e-05" in said
    assert CANARY not in said
