"""Forgetting from the page where something fails or was changed: state and list tell what is stored."""

from __future__ import annotations

import errno
import shutil
from pathlib import Path

import pytest

from client.home import Home
from client.person import adapting
from client.person.stores import VaultStore
from client.person.workspace import Keys, Workspace
from client.serving.person_session import ServedPerson
from client.vault.opening import create_vault, destroy_vault, open_vault
from client.vault.secrets import Passphrase
from proper_model.errors import BusyError, DataError, StorageError
from tests.device_cli import PASSPHRASE, Person, publish_release, quick_release, write_jsonl
from tests.releases import small_users


@pytest.fixture(scope="module")
def person(tmp_path_factory: pytest.TempPathFactory) -> Person:
    """After an adaptation."""
    folder = tmp_path_factory.mktemp("served")
    made = Person.make(folder)
    release = quick_release()
    assert made.run("bundle", "add", publish_release(release, folder / "published")) == 0
    assert made.run("adapt", write_jsonl(folder / "h.jsonl", small_users()[1][0].history)) == 0
    (made.home / "vault").rename(folder / "vault")
    return made


@pytest.fixture
def session(person: Person) -> ServedPerson:
    """On a copy of the person's vault."""
    destroy_vault(person.home / "vault")
    shutil.copytree(person.home.parent / "vault", person.home / "vault")
    return served(person)


def served(person: Person) -> ServedPerson:
    workspace = Workspace(Home(person.home), Keys(person.passphrase_file))
    return ServedPerson.load(workspace, workspace.open(), None)


def ids(session: ServedPerson) -> list[str]:
    return [row.id for row in session.items()]


def quiet(*_: object) -> None:
    pass


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
    vault = open_vault(person.home / "vault", Passphrase(PASSPHRASE))
    assert [item.id for item in VaultStore(vault).read().tasks["synth_tag"].items] == [other, *left]

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
    session: ServedPerson,
    person: Person,
    monkeypatch: pytest.MonkeyPatch,
    change: str,
) -> None:
    first, second, *_ = ids(session)
    vault = person.home / "vault"
    if change == "forget":
        assert person.run("forget", "--items", second) == 0
    elif change == "passwd":
        open_vault(vault, Passphrase(PASSPHRASE)).change_passphrase(Passphrase("another one, long"))
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
