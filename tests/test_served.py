"""The person behind `proper serve`: the same answers as the command line, routing, forgetting."""

from __future__ import annotations

from pathlib import Path

import pytest

from client.home import Home
from client.person.stores import VaultStore
from client.person.workspace import Keys, Workspace
from client.serving.person_session import ServedPerson
from client.serving.session import Ending, Session
from client.vault.opening import open_vault
from client.vault.secrets import Passphrase
from proper_model.errors import ConfigError, DataError, StorageError
from proper_model.tasks.records import User
from tests.device_cli import PASSPHRASE, Person, publish_release, quick_release, write_jsonl
from tests.releases import small_users

CHECKPOINTS = ("training-abc", ".training-abc.0123456789ab.tmp")


@pytest.fixture(scope="module")
def user() -> User:
    return small_users()[1][0]


@pytest.fixture(scope="module")
def person(user: User, tmp_path_factory: pytest.TempPathFactory) -> Person:
    folder = tmp_path_factory.mktemp("served")
    made = Person.make(folder)
    release = quick_release()
    assert made.run("bundle", "add", publish_release(release, folder / "published")) == 0
    return made


def served(person: Person) -> ServedPerson:
    workspace = Workspace(Home(person.home), Keys(person.passphrase_file))
    return ServedPerson.load(workspace, workspace.open() if workspace.has_vault else None, None)


def whole(session: Session, prompt: str, stage: str) -> tuple[str, Ending]:
    pieces, answering = [], session.generate(prompt, stage=stage, max_tokens=None)
    while True:
        try:
            pieces.append(next(answering))
        except StopIteration as end:
            return "".join(pieces), end.value


def test_before_and_after_an_adaptation(
    person: Person, user: User, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = served(person)
    assert not before.adapted
    assert dict(before.model_names) == {"proper": "2", "proper-stage1": "1", "proper-stage2": "2"}
    assert list(before.items()) == []
    with pytest.raises(DataError):
        before.forget(["x"], progress=lambda *_: None)

    assert person.run("adapt", write_jsonl(tmp_path / "h.jsonl", user.history)) == 0
    session = served(person)
    assert session.adapted
    assert session.model_names["proper"] == "3"
    assert session.task == "synth_tag"
    assert session.label_choices
    question = user.queries[0].input
    for stage in session.stages:
        capsys.readouterr()
        assert person.run("generate", question, "--stage", stage) == 0
        text, ending = whole(session, question, stage)
        assert text == capsys.readouterr().out.strip()
        assert ending.tokens >= 1
    assert session.count_tokens(question) > 1
    routing = session.routing(question, stage="3")
    assert len(routing.sites) == len(routing.weights)
    assert all(abs(sum(row) - 1) < 1e-5 for row in routing.weights)
    with pytest.raises(ConfigError):
        session.routing(question, stage="1")

    rows = session.items()
    assert [row.number for row in rows] == list(range(1, len(user.history) + 1))
    heard: list[str] = []
    gone = [rows[0].id, rows[3].id]
    checkpoints = [person.home / "vault" / name for name in CHECKPOINTS]
    for path in checkpoints:
        path.write_bytes(b"of interrupted training, with every item")
    report = session.forget(gone, progress=lambda phase, *_: heard.append(phase))
    assert not any(path.exists() for path in checkpoints)
    assert (report.forgotten, report.kept) == (2, len(rows) - 2)
    assert heard
    assert not {row.id for row in session.items()} & set(gone)
    vault = open_vault(person.home / "vault", Passphrase(PASSPHRASE))
    assert len(VaultStore(vault).read().tasks["synth_tag"].items) == len(rows) - 2
    assert vault.read_previous() is None
    with pytest.raises(DataError, match="not in the history"):
        session.forget(gone, progress=lambda *_: None)

    def refused(*_: object) -> None:
        raise StorageError("refused")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("client.vault.contents.remove_working", refused)
        with pytest.raises(DataError, match="are forgotten"):
            session.forget([rows[1].id], progress=lambda *_: None)
    left = [row.id for row in session.items()]
    assert len(left) == len(rows) - 3, "what a failed removal leaves is what the vault holds"
    assert session.forget([left[0]], progress=lambda *_: None).kept == len(rows) - 4
    assert len(list((person.home / "vault").iterdir())) == 2

    report = session.forget(None, progress=lambda *_: None)
    assert report.forgotten == len(rows) - 4
    assert not (person.home / "vault").exists()
    assert not session.adapted
    assert whole(session, question, "1")[1].tokens >= 1
