"""What `proper serve` does for a person: answers as the command line's, routing, forgetting.

Where forgetting fails or something was changed meanwhile, state and list tell what is stored.
"""

from __future__ import annotations

import errno
import io
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from client.home import Home
from client.person import adapting
from client.person.workspace import Keys, Memory, Workspace
from client.serving.person_session import ServedPerson
from client.serving.session import Ending, Manner, Session
from client.vault.opening import create_vault, destroy_vault
from client.vault.secrets import Passphrase
from proper_model.errors import BusyError, ConfigError, DataError, StorageError
from proper_model.tasks.records import User
from proper_model.text import ChatMessage, Encoder
from tests.device_cli import PASSPHRASE, Person, publish_release, quick_release, write_jsonl
from tests.releases import small_users

CHECKPOINTS = ("training-abc", ".training-abc.0123456789ab.tmp")


@pytest.fixture(scope="module")
def user() -> User:
    return small_users()[1][0]


@pytest.fixture(scope="module")
def person(user: User, tmp_path_factory: pytest.TempPathFactory) -> Person:
    """After an adaptation, whose vault lies beside the home."""
    folder = tmp_path_factory.mktemp("served")
    made = Person.make(folder)
    release = quick_release()
    assert made.run("bundle", "add", publish_release(release, folder / "published")) == 0
    assert made.run("adapt", write_jsonl(folder / "h.jsonl", user.history)) == 0
    (made.home / "vault").rename(folder / "vault")
    return made


@pytest.fixture
def session(person: Person) -> ServedPerson:
    return served(with_fresh_vault(person))


def with_fresh_vault(person: Person) -> Person:
    """On a copy of the vault that lies beside the home."""
    destroy_vault(person.home / "vault")
    shutil.copytree(person.home.parent / "vault", person.home / "vault")
    return person


def served(person: Person) -> ServedPerson:
    workspace = Workspace(Home(person.home), Keys(person.passphrase_file))
    vault = workspace.open() if workspace.has_vault else None
    return ServedPerson(workspace, vault, None, Memory())


def ids(session: ServedPerson) -> list[str]:
    return [row.id for row in session.items()]


def quiet(*_: object) -> None:
    pass


def whole(
    session: Session, prompt: str, stage: str, before: tuple[ChatMessage, ...] = ()
) -> tuple[str, Ending]:
    asked = [*before, ChatMessage("user", prompt)]
    pieces, answering = [], session.generate(asked, stage=stage, manner=Manner())
    while True:
        try:
            pieces.append(next(answering))
        except StopIteration as end:
            return "".join(pieces), end.value


def test_before_an_adaptation(person: Person) -> None:
    destroy_vault(person.home / "vault")
    before = served(person)
    assert not before.adapted
    assert dict(before.model_names) == {"proper": "2", "proper-stage1": "1", "proper-stage2": "2"}
    assert list(before.items()) == []
    with pytest.raises(DataError, match="nothing private"):
        before.forget(["x"], progress=quiet)


def test_answers_are_those_of_the_command_line(
    person: Person, session: ServedPerson, user: User, capsys: pytest.CaptureFixture[str]
) -> None:
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
        assert ending.prompt_tokens > 1
    routing = session.routing(question, stage="3")
    assert len(routing.sites) == len(routing.weights)
    assert all(abs(sum(row) - 1) < 1e-5 for row in routing.weights)
    with pytest.raises(ConfigError):
        session.routing(question, stage="1")


def test_a_conversation_is_made_into_tokens_once(
    session: ServedPerson, user: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To be refused if it is too long, answered and counted."""
    made: list[list[int]] = []
    conversation = Encoder.conversation

    def counted(encoder: Encoder, messages: Sequence[ChatMessage]) -> list[int]:
        made.append(conversation(encoder, messages))
        return made[-1]

    monkeypatch.setattr(Encoder, "conversation", counted)
    before = (ChatMessage("system", "be brief"),)
    _, ending = whole(session, user.queries[0].input, "3", before)
    assert [len(tokens) for tokens in made] == [ending.prompt_tokens]


def test_forgetting_items_and_then_everything(
    person: Person, session: ServedPerson, user: User
) -> None:
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
    assert not set(ids(session)) & set(gone)
    assert len(person.items()) == len(rows) - 2
    assert person.vault().read_previous() is None
    with pytest.raises(DataError, match="not in the history"):
        session.forget(gone, progress=quiet)

    def refused(*_: object) -> None:
        raise StorageError("refused")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("client.vault.contents.remove_working", refused)
        with pytest.raises(DataError, match="are forgotten"):
            session.forget([rows[1].id], progress=quiet)
    left = ids(session)
    assert len(left) == len(rows) - 3, "what a failed removal leaves is what the vault holds"
    assert session.forget([left[0]], progress=quiet).kept == len(rows) - 4
    assert len(list((person.home / "vault").iterdir())) == 2

    report = session.forget(None, progress=quiet)
    assert report.forgotten == len(rows) - 4
    assert not (person.home / "vault").exists()
    assert not session.adapted
    assert whole(session, user.queries[0].input, "1")[1].tokens >= 1


def refuse_to_remove(monkeypatch: pytest.MonkeyPatch, suffix: str) -> None:
    unlink = Path.unlink

    def refusing(path: Path, missing_ok: bool = False) -> None:
        if path.suffix == suffix:
            raise PermissionError(errno.EPERM, "no")
        unlink(path, missing_ok=missing_ok)

    monkeypatch.setattr(Path, "unlink", refusing)


def test_what_is_stored_counts_although_the_state_before_could_not_be_removed(
    session: ServedPerson, person: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone, other, *left = ids(session)
    with monkeypatch.context() as patch:
        refuse_to_remove(patch, ".vault")
        with pytest.raises(DataError, match="are forgotten, but a stored state that knows them"):
            session.forget([gone], progress=quiet)
    assert ids(session) == [other, *left]
    assert [item.id for item in person.items()] == [other, *left]

    assert session.forget([other], progress=quiet).kept == len(left)  # it goes on from there
    assert ids(session) == left
    assert len(list((person.home / "vault").glob("*.vault"))) == 1


def test_a_write_that_failed_changes_nothing(
    session: ServedPerson, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = ids(session)

    def full(*_: object, **__: object) -> None:
        raise StorageError("no space left")

    with monkeypatch.context() as patch:
        patch.setattr("client.vault.contents.save_private", full)
        with pytest.raises(StorageError):
            session.forget(before[:1], progress=quiet)
    assert ids(session) == before
    assert session.adapted


@pytest.mark.parametrize("change", ["forget", "passwd", "removed"])
def test_a_change_by_another_command_is_told_before_the_training(
    session: ServedPerson, person: Person, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    first, second, *_ = ids(session)
    vault = person.home / "vault"
    if change == "forget":
        assert person.run("forget", "--yes", "--items", second) == 0
    elif change == "passwd":
        person.vault().change_passphrase(Passphrase("another one, long"))
    else:
        destroy_vault(vault)
    monkeypatch.setattr(adapting, "adapt", lambda *_: pytest.fail("it was trained"))
    with pytest.raises(BusyError, match="since this server started"):
        session.forget([first], progress=quiet)
    if session.stored:
        session.forget(None, progress=quiet)
    assert not vault.exists()


def test_a_vault_without_a_state_can_be_removed(person: Person) -> None:
    vault = person.home / "vault"
    destroy_vault(vault)
    create_vault(vault, [Passphrase(PASSPHRASE)])
    session = served(person)
    assert (session.stored, list(session.items())) == (True, [])
    assert session.forget(None, progress=quiet).forgotten == 0
    assert (session.stored, vault.exists()) == (False, False)
    with pytest.raises(DataError, match="nothing private"):
        session.forget(None, progress=quiet)


def test_a_removal_that_fails_behind_the_keys_can_be_repeated(
    session: ServedPerson, person: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_: Path) -> None:
        raise PermissionError(errno.EPERM, "no")

    with monkeypatch.context() as patch:
        patch.setattr("client.vault.opening.remove_folder", broken)
        with pytest.raises(StorageError):
            session.forget(None, progress=quiet)
    assert (session.stored, session.adapted, ids(session)) == (True, False, [])
    session.forget(None, progress=quiet)
    assert not (person.home / "vault").exists()


def test_the_address_is_there_before_the_server_ends(
    person: Person, session: ServedPerson, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where stdout is a pipe or a file, which Python buffers."""
    said = io.BytesIO()
    seen: list[bytes] = []

    def serve(*_: object, ready: Callable[[str], None], **_more: object) -> None:
        ready("http://127.0.0.1:1")
        seen.append(said.getvalue())

    assert session.adapted
    monkeypatch.setattr("client.serving.server.serve", serve)
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(said))
    assert person.run("serve") == 0
    assert seen[0].startswith(b"http://127.0.0.1:1/#token=")
