"""A running `proper serve` follows what other commands store, or drops what it knew.

Oracles: the command line's own answers, and the vault read anew.
"""

from __future__ import annotations

import dataclasses
import gc
import shutil
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from serving import running, wait_until
from test_served import quiet, served, whole, with_fresh_vault

from client.home import Home
from client.person.answering import Personal
from client.person.state import PersonalState
from client.person.stores import VaultStore
from client.person.workspace import Keys, Memory, Workspace
from client.serving import server as server_module
from client.serving.person_session import ServedPerson
from client.vault.opening import destroy_vault, fingerprint
from client.vault.secrets import Passphrase
from proper_model.errors import BusyError, ConfigError
from proper_model.settings import BaseWeights
from proper_model.tasks.records import User
from tests.device_cli import Person, publish_release, quick_release, write_jsonl
from tests.releases import small_users
from tests.serving import FakeSession

KEYLESS = "this server's key does not open it any more"


@pytest.fixture(scope="module")
def user() -> User:
    return small_users()[1][0]


@pytest.fixture(scope="module")
def adapted(user: User, tmp_path_factory: pytest.TempPathFactory) -> Person:
    """After two adaptations, so that there is a state to go back to; the vault lies beside the home."""
    folder = tmp_path_factory.mktemp("followed")
    made = Person.make(folder)
    assert made.run("bundle", "add", publish_release(quick_release(), folder / "published")) == 0
    for count in (12, 20):
        history = write_jsonl(folder / f"{count}.jsonl", user.history[:count])
        assert made.run("adapt", history) == 0
    write_jsonl(folder / "all.jsonl", user.history)
    (made.home / "vault").rename(folder / "vault")
    return made


@pytest.fixture
def person(adapted: Person) -> Person:
    return with_fresh_vault(adapted)


@pytest.fixture
def session(person: Person) -> ServedPerson:
    return served(person)


def listed(session: ServedPerson) -> list[str]:
    return [row.id for row in session.items()]


def used(session: ServedPerson) -> dict[str, torch.Tensor]:
    return dict(session._mine.private)


def same(one: Any, other: Any) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


def other_command(person: Person, what: str) -> None:
    """What somebody does in another terminal."""
    folder = person.home.parent
    words: dict[str, list[str | Path]] = {
        "update": ["update", folder / "all.jsonl"],
        "adapt": ["adapt", folder / "12.jsonl"],
        "rollback": ["rollback"],
        "forget": ["forget", "--items", person.items()[0].id, "--yes"],
    }
    assert person.run(*words[what]) == 0


@pytest.mark.parametrize("what", ["update", "adapt", "rollback", "forget"])
def test_what_another_command_stores_is_used(
    person: Person,
    session: ServedPerson,
    user: User,
    what: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    before, items = used(session), listed(session)
    question = user.queries[0].input
    whole(session, question, "3")
    old = [weakref.ref(session._mine), weakref.ref(session._state)]
    session.refresh()
    assert old[0]() is not None, "nothing was changed, nothing is read again"
    other_command(person, what)
    session.refresh()
    gc.collect()
    assert [one() for one in old] == [None, None], "nothing of the state before is kept"

    now = VaultStore(person.vault()).read()
    assert same(used(session), now.private("synth_tag"))
    assert what == "update" or not same(used(session), before)
    assert listed(session) == [item.id for item in person.items()] != items
    capsys.readouterr()
    assert person.run("generate", question, "--stage", "3") == 0
    assert whole(session, question, "3")[0] == capsys.readouterr().out.strip()
    left = listed(session)
    assert session.forget([left[0]], progress=quiet).kept == len(left) - 1, "it goes on from there"
    kept = weakref.ref(session._mine)
    session.refresh()
    assert kept() is not None, "what it stored itself it need not read again"


def test_after_everything_was_forgotten_it_is_as_for_nobody(
    person: Person, session: ServedPerson, user: User
) -> None:
    old: weakref.ref[PersonalState] = weakref.ref(session._state)  # type: ignore[arg-type]
    vault = weakref.ref(session._vault)
    assert person.run("forget", "--all", "--yes") == 0
    session.refresh()
    gc.collect()
    assert (old(), vault(), listed(session), session.adapted) == (None, None, [], False)
    assert dict(session.model_names) == {"proper": "2", "proper-stage1": "1", "proper-stage2": "2"}
    with pytest.raises(ConfigError, match="no private adapter"):
        whole(session, user.queries[0].input, "3")
    assert whole(session, user.queries[0].input, "2")[1].tokens >= 1
    # Adapted anew: the file says the new vault's key, and nobody is asked.
    assert person.run("adapt", person.home.parent / "12.jsonl") == 0
    session.refresh()
    assert same(used(session), VaultStore(person.vault()).read().private("synth_tag"))


def test_a_first_adaptation_is_noticed_if_nobody_must_be_asked(person: Person) -> None:
    destroy_vault(person.home / "vault")
    from_file = served(person)
    asked = ServedPerson(Workspace(Home(person.home), Keys()), None, None, Memory())
    assert person.run("adapt", person.home.parent / "12.jsonl") == 0
    for session, stages in ((from_file, ("1", "2", "3")), (asked, ("1", "2"))):
        session.refresh()
        assert session.stages == stages


def test_a_key_that_opens_it_no_longer_drops_everything(
    person: Person, session: ServedPerson, tmp_path: Path
) -> None:
    secret = tmp_path / "new"
    secret.write_text("another one, long\n")
    secret.chmod(0o600)
    moving = Person(person.home, tmp_path / "moving")
    shutil.copy2(person.passphrase_file, moving.passphrase_file)
    with_new_file = served(moving)
    old = [weakref.ref(session._state), weakref.ref(session._vault)]
    person.vault().change_passphrase(Passphrase("another one, long"))
    for _ in range(2):
        with pytest.raises(BusyError, match=KEYLESS) as refused:
            session.refresh()
        assert refused.value.hint == "start proper serve again"
    gc.collect()
    assert [one() for one in old] == [None, None]
    assert (listed(session), session.stages) == ([], ("1", "2"))
    with pytest.raises(BusyError, match="since this server started"):
        session.refresh()
    shutil.copy2(secret, moving.passphrase_file)  # its file says the passphrase of now
    with_new_file.refresh()
    assert with_new_file.adapted
    assert session.stored
    session.forget(None, progress=quiet)
    session.refresh()
    assert not (person.home / "vault").exists()


def test_what_cannot_be_loaded_is_dropped_and_told_by_its_kind(
    person: Person, session: ServedPerson, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Planted: an adapter over a release that is not here, over other weights, a damaged vault."""
    vault = person.vault()
    state = VaultStore(vault).read()

    def refuses(kind: str) -> None:
        with pytest.raises(BusyError, match=rf"cannot be loaded \({kind}\)") as refused:
            session.refresh()
        assert str(person.home) not in refused.value.message
        assert (listed(session), session.adapted) == ([], False)

    VaultStore(vault).write(dataclasses.replace(state, bundle_id="c" * 64))
    refuses("VaultForeignError")
    VaultStore(vault).write(dataclasses.replace(state, base_weights=BaseWeights.FOUR_BIT))
    refuses("DataError")
    VaultStore(vault).write(state)
    session.refresh()
    assert same(used(session), state.private("synth_tag")), "what can be loaded again is"
    monkeypatch.setattr(Personal, "of", classmethod(lambda *_, **__: pytest.fail("read again")))
    session.refresh()
    monkeypatch.undo()
    files = sorted((person.home / "vault").glob("*.vault"))
    for path in (*files, files[0].with_name("00000999.vault")):
        path.touch(0o600)
        path.write_bytes(b"x" * 300)
    refuses("VaultError")


def test_a_fingerprint_is_another_one_after_every_change(person: Person) -> None:
    folder = person.home / "vault"
    seen = {fingerprint(folder)}
    assert fingerprint(folder) in seen
    vault = person.vault()
    content = vault.read()
    assert content is not None
    vault.write(content.payload, bundle_id=content.bundle_id)
    seen.add(fingerprint(folder))
    vault.write(content.payload, bundle_id=content.bundle_id, alone=True)
    seen.add(fingerprint(folder))
    vault.change_passphrase(Passphrase("another one, long"))
    seen.add(fingerprint(folder))
    destroy_vault(folder)
    seen.add(fingerprint(folder))
    assert len(seen) == 5
    assert None in seen


def test_over_the_wire(person: Person, session: ServedPerson, user: User) -> None:
    asked = {"model": "proper-stage3", "prompt": user.queries[0].input}
    with running(session) as server:  # type: ignore[arg-type]
        client = server.client
        rows = client.get("/api/items").json()["items"]
        gone = rows[0]["id"]
        assert person.run("forget", "--items", gone, "--yes") == 0
        now = client.get("/api/items").json()["items"]
        assert [row["id"] for row in now] == [row["id"] for row in rows[1:]]
        assert client.post("/v1/completions", json=asked).status_code == 200
        assert person.run("forget", "--all", "--yes") == 0
        assert client.post("/v1/completions", json=asked).status_code == 404
        assert client.get("/api/items").json() == {"items": []}
        assert client.get("/api/status").json()["stages"] == ["1", "2"]


CONFLICT = BusyError("what is stored was changed", hint="start proper serve again")
TEXT = {"model": "proper", "prompt": "a b"}


def refuse(_: FakeSession) -> None:
    raise CONFLICT


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/completions", TEXT),
        ("/v1/completions", {**TEXT, "stream": True}),
        ("/api/compare", {"prompt": "a"}),
        ("/api/routing", {"prompt": "a", "stage": "3"}),
        ("/api/items", None),
    ],
)
def test_every_request_looks_first(path: str, body: dict[str, Any] | None) -> None:
    session = FakeSession(changes=[refuse] * 2)  # one look before its turn, one within it
    with running(session) as server:
        method = "GET" if body is None else "POST"
        response = server.client.request(method, path, json=body)
        if response.status_code != 409:  # asked without a look before
            response = server.client.request(method, path, json=body)
        assert response.status_code == 409
        assert "start proper serve again" in response.json()["error"]["message"]
        assert session.calls == []


def test_a_request_that_waited_is_answered_by_the_stage_of_now() -> None:
    """Planted: while it waits, the adapter goes, so that `proper` is stage 2."""

    def nothing(_: FakeSession) -> None: ...

    def lose(session: FakeSession) -> None:
        session.stages, session.model_names = ("1", "2"), {"proper": "2"}

    session = FakeSession(changes=[nothing, lose])
    with running(session) as server:
        answer = server.client.post("/v1/completions", json=TEXT).json()
        assert answer["choices"][0]["text"] == "2: a b"
        session.changes += [lambda one: setattr(one, "model_names", {"proper": "1"})]
        models = server.client.get("/v1/models").json()["data"]
        assert [model["id"] for model in models] == ["proper"]
        assert server.client.get("/api/status").json()["models"] == {"proper": "1"}


def test_it_looks_while_nobody_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module, "LOOK_S", 0.01)
    session = FakeSession(changes=[refuse] * 2)
    with running(session):
        wait_until(lambda: session.refreshes > 3)
    assert len(session.threads) == 1, "in the session's own thread"
