"""`proper` with own items before a question: the same in training, asking, updating, forgetting."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch

from client.commands.adapt import say_comparison, say_room
from client.commands.inspect import adapter_facts, fact_rows
from client.export.folder_readme import content
from client.export.request import Request
from client.home import Home
from client.person import adapting, cost
from client.person.answering import Personal
from client.person.learner import Learner
from client.person.state import PersonalState, TaskState, decode, encode
from client.person.stores import VaultStore
from client.person.workspace import Memory, Workspace
from client.vault.opening import Vault
from proper_model.errors import ConfigError, VaultError
from proper_model.release.contents import Release
from proper_model.settings import Calibrated, Calibration
from proper_model.tasks import ALL, Depth, Retriever
from proper_model.tasks.records import HistoryItem, User
from proper_model.text import Encoder
from tests.device_cli import Person, publish_release, quick_release, write_jsonl
from tests.exports import noisy_release
from tests.releases import small_users, with_user

ITEMS = 10
LINE = "{description} tag: {tag}\n"


@pytest.fixture(scope="module")
def user() -> User:
    return small_users()[1][0]


@pytest.fixture(scope="module")
def history(user: User) -> tuple[HistoryItem, ...]:
    return user.history[:ITEMS]


@pytest.fixture(scope="module")
def release() -> Release:
    """One pass of private training: what is asked matters here, not how well it is answered."""
    quick = with_user(quick_release(), epochs=1, embedding_epochs=1)
    return quick.retrieving(0, tokens=64)


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """Id (a question has none) and lines of all that is encoded."""
    found: list[tuple[str, str]] = []
    encoded, prompted = Encoder.encode, Encoder.prompt

    def watched(self, example):
        found.append((example.id, example.lines))
        return encoded(self, example)

    def asked(self, text, *, lines=""):
        found.append(("", lines))
        return prompted(self, text, lines=lines)

    monkeypatch.setattr(Encoder, "encode", watched)
    monkeypatch.setattr(Encoder, "prompt", asked)
    return found


def line(item: HistoryItem) -> str:
    return LINE.format(**item.fields)


def taken(seen: list[tuple[str, str]]) -> list[tuple[str, str]]:
    found = list(seen)
    seen.clear()
    return found


def test_from_adapting_to_forgetting(
    release: Release,
    user: User,
    history: tuple[HistoryItem, ...],
    tmp_path: Path,
    seen: list[tuple[str, str]],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(Vault, "number", lambda *_: 1)
    me, question = Person.make(tmp_path), user.queries[0]
    assert me.run("bundle", "add", publish_release(release, tmp_path / "published")) == 0
    assert me.run("generate", question.input, "--retrieve", "2") == 11
    assert "none are stored here" in capsys.readouterr().err
    taken(seen)

    def lines_of(*asked: tuple[str, Depth | None]) -> list[str]:
        """What stands before the question at each of these stages, by what is stored now."""
        state = VaultStore(me.vault()).read()
        people = [(stage, Personal.of(release, state, None, retrieve=k)) for stage, k in asked]
        return [mine.own_items(stage).ask(question.input).lines for stage, mine in people]

    def best(items: tuple[HistoryItem, ...], k: int) -> str:
        found = Retriever(release.task, items).best(release.task.search_text(question), k)
        return "".join(map(line, found))

    old, new = history[:-3], history[-3:]
    assert me.run("adapt", "--retrieve", "2", write_jsonl(tmp_path / "old.jsonl", old)) == 0
    told = "".join(capsys.readouterr())
    assert told.lower().count("loss on the same held-back items") == 1
    trained, retriever = dict(taken(seen)), Retriever(release.task, old)
    for place, item in enumerate(old):
        before = retriever.best(item.fields["description"], 2, before=place)
        assert trained[item.id] == "".join(map(line, before))
    asked = (("3", None), ("2", None), ("1", None), ("3", 0), ("1", 1), ("3", ALL))
    *lines, whole = lines_of(*asked)
    assert lines == [*(2 * [best(old, 2)]), "", "", best(old, 1)], "at stage 1 what others get"
    assert whole
    assert "".join(map(line, old)).endswith(whole)

    assert me.run("update", write_jsonl(tmp_path / "new.jsonl", new)) == 0
    assert dict(taken(seen))[new[0].id].count("tag:") == 2, "new items see the old ones"
    (now,) = lines_of(("3", None))
    assert now == best(history, 2)

    gone = next(item for item in history if line(item) in now)
    assert me.run("forget", "--yes", "--items", f"id:{gone.id}") == 0
    assert not any(gone.fields["description"] in lines for _, lines in taken(seen))
    left = tuple(item for item in history if item.id != gone.id)
    assert me.run("generate", question.input) == 0
    assert taken(seen)[-1] == ("", best(left, 2))

    assert me.run("inspect", "--json") == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["retrieve"] == 2
    exporting = ("export", "--format", "peft", "--approximate", "--out", tmp_path / "lora")
    assert me.run(*exporting) == 0
    assert "it expects 2 own items before every question" in capsys.readouterr().err
    assert all(lines.count("tag:") == 2 for _, lines in taken(seen)[-3:])
    assert me.run("evaluate") == 0
    tested = {item.id for item in left[-3:]}
    judged = [lines for name, lines in taken(seen) if name in tested]
    assert {lines.count("tag:") for lines in judged} == {0, 2}, "stage 1 is asked as others are"
    told = capsys.readouterr()
    assert not any(item.fields["description"] in told.err + told.out for item in history)


@pytest.mark.parametrize("depth", [0, 2, ALL])
def test_the_document_says_how_many(depth: Depth) -> None:
    task = TaskState("toml", "short", (), {}, {}, "2026-01-01T00:00:00Z", retrieve=depth)
    data = encode(PersonalState("cd" * 32, 1, seed=5, tasks={"t": task}))
    assert (b"retrieve" in data) == bool(depth), "without it, earlier versions read the document"
    assert decode(data).tasks["t"].retrieve == depth


@pytest.mark.parametrize("value", ["-1", "101", '"some"', "true", "2.0", "null", "[2]"])
def test_other_values_are_refused(value: str) -> None:
    task = TaskState("toml", "short", (), {}, {}, "2026-01-01T00:00:00Z", retrieve=2)
    data = encode(PersonalState("cd" * 32, 1, seed=5, tasks={"t": task}))
    start, length = 12, int.from_bytes(data[8:12], "big")
    head = data[start : start + length].replace(b'"retrieve":2', f'"retrieve":{value}'.encode())
    altered = data[:8] + len(head).to_bytes(4, "big") + head + data[start + length :]
    with pytest.raises(VaultError, match="field 'tasks'"):
        decode(altered)


def test_longer_prompts_cost_more(
    release: Release, user: User, history: tuple[HistoryItem, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Speed is one token a second; every item is read equally often, the newest only judged."""
    monkeypatch.setattr(cost, "_tokens_a_second", lambda *_: 1.0)
    told, read = [], []
    for depth in (0, 2):
        task = dataclasses.replace(release.task, retrieve=depth)
        learner = Learner(release)
        told.append(cost.estimate(learner, {task.name: (task, history)}).slowest_s)
        read.append(sum(len(one.tokens) for one in learner.encode(history, task)))
    assert read[1] > 1.5 * read[0]
    assert told[1] / told[0] == pytest.approx(read[1] / read[0], rel=0.1)


def test_adapting_with_own_items_compares_with_adapting_without(
    release: Release, history: tuple[HistoryItem, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The oracle is adapting twice; what is kept is what adapting alone gives, bit for bit."""
    name, me = release.task.name, PersonalState("cd" * 32, 1, seed=5)
    ways = [{name: (dataclasses.replace(release.task, retrieve=k), history)} for k in (0, 2)]
    plain, lined = (adapting.adapt(Learner(release), me, way).tasks[name] for way in ways)
    both = adapting.adapt_comparing(name, Learner(release), me, ways[1]).tasks[name]
    assert both.report == {**lined.report, adapting.LOSS_WITHOUT: plain.report["lora_loss_after"]}
    shown = dict(fact_rows(adapter_facts(me, name, both)))
    assert (
        shown["held-back loss without own items before"]
        == f"{both.report[adapting.LOSS_WITHOUT]:.4g}"
    )
    assert len(fact_rows(adapter_facts(me, name, lined))) == len(shown) - 1
    assert both.adapter.keys() == lined.adapter.keys()
    assert all(torch.equal(both.adapter[one], lined.adapter[one]) for one in both.adapter)

    monkeypatch.setattr(cost, "_tokens_a_second", lambda *_: 1.0)
    spent = [cost.estimate(Learner(release), way).slowest_s for way in ways]
    told = cost.estimate(Learner(release), ways[1], compared=name)
    assert told.slowest_s == pytest.approx(sum(spent))
    assert cost.estimate(Learner(release), ways[0], compared=name).slowest_s == spent[0]


def test_where_no_item_is_held_back_nothing_is_compared(
    release: Release, history: tuple[HistoryItem, ...]
) -> None:
    name, task = release.task.name, dataclasses.replace(release.task, retrieve=2)
    few = {name: (task, history[:3])}
    assert not adapting.compares(Learner(release), few, name)
    assert adapting.compares(Learner(release), {name: (task, history)}, name)
    row = Calibrated(1, 1e-2, 1, 0.0, 1.0, 1.0, 1.0)
    once = dataclasses.replace(release, calibration=Calibration((row,), (row,)))
    assert not adapting.compares(Learner(once), {name: (task, history)}, name)
    many = tuple(dataclasses.replace(history[0], id=str(n)) for n in range(100))
    assert adapting.compares(Learner(once), {name: (task, many)}, name)


@pytest.mark.parametrize(
    ("retrieve", "report", "said"),
    [
        (0, {"lora_loss_after": 0.6}, None),
        (2, {"lora_loss_after": 0.6}, "was not compared"),
        (2, {"lora_loss_after": 0.6, adapting.LOSS_WITHOUT: 0.5}, "0.600 with own items"),
        (2, {"lora_loss_after": 0.5, adapting.LOSS_WITHOUT: 0.6}, ""),
        (
            2,
            {
                "lora_doubted": 1,
                "lora_loss_before": 0.4,
                "lora_loss_after": 0.6,
                adapting.LOSS_WITHOUT: 0.5,
            },
            "",
        ),
    ],
)
def test_own_items_that_hurt_are_warned_of_in_one_line(
    retrieve: int,
    report: dict[str, float | int | str],
    said: str | None,
    capsys: pytest.CaptureFixture[str],
) -> None:
    task = TaskState("toml", "short", (), {}, report, "2026-01-01T00:00:00Z", retrieve=retrieve)
    say_comparison(PersonalState("cd" * 32, 1, seed=5, tasks={"t": task}), "t")
    out, err = capsys.readouterr()
    if said:
        assert err.count("\n") == err.count("warning: ") == 1
        assert said in err
    else:
        assert not err
        assert bool(out) == (said is not None)


@pytest.fixture
def requests() -> dict[Depth, str]:
    release = noisy_release()
    task = release.task
    return {
        depth: content(
            Request(release, {}, "ab" * 32, asked=dataclasses.replace(task, retrieve=depth)), None
        )
        for depth in (0, 1, 4, ALL)
    }


def test_an_export_says_what_must_stand_before_a_question(requests: dict[Depth, str]) -> None:
    assert "own item" not in requests[0]
    assert "1 own item, the best" in requests[1]
    assert "4 own items, the best" in requests[4]
    assert "the whole history, oldest first" in requests[ALL]
    assert r'    "review: {text} score: {score}\n"' in requests[4]


def test_more_than_there_is_room_for_is_cut_at_the_limit(release: Release, user: User) -> None:
    asked = release.retrieving(100)
    learner = Learner(asked)
    most = asked.settings.max_prompt_tokens + 64
    lengths = [one.prompt_tokens for one in learner.encode(user.history, asked.task)]
    assert most - 30 < max(lengths) <= most
    assert asked.settings.longest_tokens(retrieval=True) == most + asked.settings.max_answer_tokens
    with pytest.raises(ConfigError, match="or all"):
        release.retrieving(-1)


def test_a_release_without_room_for_own_items_is_told(
    release: Release, history: tuple[HistoryItem, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    for tokens, warned in ((64, False), (0, True)):
        asked = release.retrieving(2, tokens=tokens)
        settings = dataclasses.replace(asked.settings, max_prompt_tokens=8)
        say_room(Learner(dataclasses.replace(asked, settings=settings)), asked.task, history)
        assert ("leaves no room" in capsys.readouterr().err) == warned


def test_a_server_without_items_refuses(tmp_path: Path) -> None:
    from client.serving.person_session import ServedPerson

    empty = Workspace(Home(tmp_path))
    with pytest.raises(ConfigError, match="none are stored"):
        ServedPerson(empty, None, None, Memory(), retrieve=2)
