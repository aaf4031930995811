"""A backup in the place of what is stored: what is lost is counted, said and asked about."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyrage
import pytest
import torch
from age_files import seal
from vault_samples import BUNDLE, CHEAP, put_private, tree

from client.cli import run_cli
from client.export.formats import Format, check_writable
from client.home import Home
from client.person.replacing import losses
from client.person.state import Event, PersonalState, TaskState
from client.person.state import encode as state_bytes
from client.person.stores import VaultStore
from client.person.workspace import Workspace
from client.releases.store import InstalledBundle
from client.vault.backup import Backup, encode
from client.vault.opening import Passphrase, create_vault, open_vault
from proper_model.errors import StorageError
from proper_model.tasks.records import HistoryItem
from tests.device_cli import CANARY, PASSPHRASE, Person

MADE = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
BEFORE, AFTER = "2026-02-01T00:00:00Z", "2026-04-01T00:00:00Z"


def task(*ids: str, adapter: bool = False, text: str = CANARY) -> TaskState:
    items = tuple(HistoryItem(one, {"text": text}, None) for one in ids)
    tensors = {"lora.x.A": torch.zeros(1, 1)} if adapter else {}
    return TaskState("", "", items, tensors, {}, BEFORE)


def state(*events: tuple[str, str], seed: int = 1, **tasks: TaskState) -> PersonalState:
    told = tuple(Event(at, what, CANARY, 1, BUNDLE) for what, at in events)  # type: ignore[arg-type]
    return PersonalState(BUNDLE, 1, seed=seed, tasks=tasks, events=told)


HERE = state(("adapt", BEFORE), a=task("1", "2", "3", adapter=True), b=task("9"))

CASES = {
    "the same": (HERE, HERE, []),
    "more of it": (HERE, state(a=task("1", "2", "3", "4", adapter=True), b=task("9")), []),
    "nothing here": (state(), HERE, []),
    "nothing in it": (
        HERE,
        state(),
        [
            "the backup holds no item; here are 2 tasks with 4 items",
            "not in the backup: 2 tasks, 4 items, 1 adapter stored here",
        ],
    ),
    "an empty task": (
        HERE,
        state(a=task(), b=task("9")),
        ["not in the backup: 3 items, 1 adapter stored here"],
    ),
    "other text under the same id": (
        HERE,
        state(a=task("1", "2", "3", adapter=True), b=task("9", text="something else")),
        ["not in the backup: 1 item stored here"],
    ),
    "forgotten and written anew under the same id": (
        state(("forget", AFTER), a=task("1", text="corrected")),
        state(a=task("1")),
        [
            "the backup was made 2026-03-01 12:00, before the last change here, 2026-04-01 00:00",
            "not in the backup: 1 item stored here",
            "items were forgotten here since; the backup brings 1 item back",
        ],
    ),
    "fewer items": (
        HERE,
        state(a=task("1", "3", adapter=True), b=task("9")),
        ["not in the backup: 1 item stored here"],
    ),
    "other items, as many": (
        HERE,
        state(a=task("1", "2", "4", adapter=True), b=task("9")),
        ["not in the backup: 1 item stored here"],
    ),
    "no adapter": (
        HERE,
        state(a=task("1", "2", "3"), b=task("9")),
        ["not in the backup: 1 adapter stored here"],
    ),
    "another person's": (
        HERE,
        state(seed=2, a=task("1", "2", "3", adapter=True), b=task("9")),
        ["the backup is of another vault, perhaps another person's"],
    ),
    "older": (
        state(("adapt", BEFORE), ("update", AFTER), a=task("1")),
        state(("adapt", BEFORE), a=task("1")),
        ["the backup was made 2026-03-01 12:00, before the last change here, 2026-04-01 00:00"],
    ),
    "forgotten since": (
        state(("adapt", BEFORE), ("forget", AFTER), a=task("1")),
        state(("adapt", BEFORE), a=task("1", "2", "3")),
        [
            "the backup was made 2026-03-01 12:00, before the last change here, 2026-04-01 00:00",
            "items were forgotten here since; the backup brings 2 items back",
        ],
    ),
    "forgotten before": (
        state(("forget", BEFORE), a=task("1")),
        state(("forget", BEFORE), a=task("1", "2")),
        [],
    ),
    "times that are none": (state(("adapt", "yesterday"), a=task("1")), state(a=task("1")), []),
    "unreadable": (
        None,
        state(),
        ["what is stored here cannot be read; whatever it is, the backup takes its place"],
    ),
}


@pytest.mark.parametrize(("present", "backup", "told"), CASES.values(), ids=CASES)
def test_what_a_backup_would_lose(
    present: PersonalState | None, backup: PersonalState, told: list[str]
) -> None:
    assert losses(present, backup, MADE) == told


@pytest.fixture
def person(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Person:
    """With a state stored, and a release said to be installed, which importing needs no file of."""
    made = Person.make(tmp_path)
    Home(made.home).make()
    create_vault(made.home / "vault", [Passphrase(PASSPHRASE)], cost=CHEAP).write(
        state_bytes(HERE), bundle_id=BUNDLE
    )
    other = InstalledBundle("cd" * 32, 2, made.home, None)  # type: ignore[arg-type]
    monkeypatch.setattr(Workspace, "installed", lambda _: other)
    monkeypatch.setattr("client.person.state_check.check_state", lambda _: None)
    return made


def backup_of(folder: Path, content: PersonalState, passphrase: str = PASSPHRASE) -> Path:
    path = folder / "backup.age"
    path.write_bytes(seal(encode(Backup(state_bytes(content), MADE, BUNDLE)), passphrase))
    return path


def import_it(person: Person, path: Path, *words: str) -> int:
    secret = ("--backup-passphrase-file", str(person.passphrase_file))
    return person.run("import", path, "--replace", *secret, *words)


def stored(person: Person) -> PersonalState:
    return VaultStore(open_vault(person.home / "vault", Passphrase(PASSPHRASE))).read()


def test_a_backup_without_tasks_replaces_nothing_without_a_word(
    person: Person, tmp_path: Path, capsys
) -> None:
    path, before = backup_of(tmp_path, state()), tree(person.home / "vault")
    assert import_it(person, path) == 11
    told = capsys.readouterr().err
    assert "warning: the backup holds no item; here are 2 tasks with 4 items" in told
    assert "--yes" in told
    assert CANARY not in told
    assert tree(person.home / "vault") == before
    assert import_it(person, path, "--yes") == 0
    assert "here are 2 tasks with 4 items" in capsys.readouterr().err
    assert stored(person).tasks == {}
    assert person.run("rollback") == 0
    assert stored(person).tasks.keys() == HERE.tasks.keys()


@pytest.mark.parametrize(("answer", "code"), [(True, 0), (False, 130)])
def test_on_a_terminal_it_asks(
    answer: bool, code: int, person: Person, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("typer.confirm", lambda *_, **__: answer)
    assert import_it(person, backup_of(tmp_path, state())) == code
    assert bool(stored(person).tasks) is not answer


def test_a_backup_that_holds_everything_is_not_asked_about(person: Person, tmp_path: Path) -> None:
    more = state(a=task("1", "2", "3", "4", adapter=True), b=task("9"))
    assert import_it(person, backup_of(tmp_path, more)) == 0
    assert len(stored(person).tasks["a"].items) == 4


def test_a_backup_mends_what_cannot_be_read(person: Person, tmp_path: Path, capsys) -> None:
    (person.home / "vault" / "00000001.vault").write_bytes(b"")
    path = backup_of(tmp_path, HERE)
    assert import_it(person, path) == 11
    assert "what is stored here cannot be read" in capsys.readouterr().err
    assert import_it(person, path, "--yes") == 0
    assert stored(person).tasks.keys() == HERE.tasks.keys()


def test_a_mark_at_the_begin_of_the_passphrase_file(person: Person, tmp_path: Path) -> None:
    """As Notepad writes it; and as earlier versions took it, for a part of the passphrase."""
    person.passphrase_file.write_bytes(b"\xef\xbb\xbf" + PASSPHRASE.encode() + b"\r\n")
    for passphrase in (PASSPHRASE, "\ufeff" + PASSPHRASE):
        assert import_it(person, backup_of(tmp_path, HERE, passphrase), "--yes") == 0


@pytest.mark.parametrize("passphrase", ["short", "12345678"])
def test_a_poor_passphrase_for_a_backup(
    passphrase: str, person: Person, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pyrage.passphrase, "encrypt", seal)
    poor, out = put_private(tmp_path / "poor", passphrase.encode()), tmp_path / "out.age"
    words = ["export", "--format", "age-backup", "--out", out, "--backup-passphrase-file", poor]
    assert person.run(*words) == 45
    assert not out.exists()
    assert person.run("--weak-passphrase", *words) == 0
    assert out.exists()


@pytest.mark.parametrize("command", ["export", "import", "passwd"])
def test_without_a_terminal_the_option_for_that_passphrase_is_named(
    command: str,
    person: Person,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The vault's own is given: naming its option again would help nobody."""
    monkeypatch.setattr("client.vault.passphrases._has_terminal", lambda: False)
    words: dict[str, list[Any]] = {
        "export": ["--format", "age-backup", "--out", tmp_path / "out.age"],
        "import": ["--replace", backup_of(tmp_path, HERE)],
        "passwd": [],
    }
    assert person.run(command, *words[command]) == 11
    told = capsys.readouterr().err
    option = "--new-passphrase-file" if command == "passwd" else "--backup-passphrase-file"
    assert f"give {option} FILE" in told
    assert "the vault needs" not in told


@pytest.mark.parametrize(
    "words",
    [
        ("age-backup", "--approximate"),
        ("age-backup", "--task", "any"),
        ("peft", "--backup-passphrase-file", "any"),
    ],
)
def test_options_that_do_not_go_with_the_format_are_refused(
    words: tuple[str, ...], person: Person, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert person.run("export", "--format", words[0], "--out", out, *words[1:]) == 11
    assert words[1] in capsys.readouterr().err
    assert not out.exists()


@pytest.mark.parametrize("closed", [False, True])
def test_a_place_that_cannot_be_written_is_told_before_a_model_is_loaded(
    closed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if closed:
        monkeypatch.setattr("os.access", lambda *_: False)
    out = tmp_path / "out" if closed else tmp_path / "no" / "such" / "out"
    with pytest.raises(StorageError, match="cannot be written" if closed else "no such") as caught:
        check_writable(Format.PEFT, out)
    assert str(out.parent) in caught.value.message


def test_a_file_in_the_place_of_the_folder_is_told_by_every_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "file"
    file.touch()
    for command in ("status", "doctor", "inspect", "path"):
        assert run_cli(["--home", str(file), command]) == 20
        told = capsys.readouterr().err
        assert f"{file}: found a file, expected the folder" in told
        assert "--home" in told
