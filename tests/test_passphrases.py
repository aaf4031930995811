"""Passphrases in files as programs save them, and new ones that are too easily guessed."""

from __future__ import annotations

from pathlib import Path

import pytest
from vault_samples import BUNDLE, CHEAP, make_vault, put_key_file, put_private

from client.home import Home
from client.person.workspace import Keys, Workspace
from client.vault import passphrases
from client.vault.opening import Passphrase, create_vault, open_vault
from client.vault.passphrases import (
    MAX_PASSPHRASE_FILE_BYTES,
    check_new,
    estimated_guesses,
    read_passphrase,
    readable_guessing_time,
)
from client.vault.secrets import KeyringEntry
from proper_model.errors import PassphraseError, StorageError
from tests.device_cli import PASSPHRASE, Person

WORDS = "correct horse battery staple"
COMPOSED, DECOMPOSED = "caf\u00e9 am Markt", "cafe\u0301 am Markt"


def put(folder: Path, data: bytes, name: str = "passphrase") -> Path:
    return put_private(folder / name, data)


@pytest.mark.parametrize(
    ("data", "text"),
    {
        "plain": (b"correct horse\n", "correct horse"),
        "no line end": (b"correct horse", "correct horse"),
        "CRLF": (b"correct horse\r\n", "correct horse"),
        "CR": (b"correct horse\r", "correct horse"),
        "several lines": (b"correct horse\n\nnotes\n", "correct horse"),
        "white space counts": (b" correct horse \n", " correct horse "),
        "UTF-8 with its mark": (b"\xef\xbb\xbfcorrect horse\r\n", "correct horse"),
        "Notepad's Unicode": ("correct horse\r\n".encode("utf-16"), "correct horse"),
        "big endian": (b"\xfe\xff" + "caf\u00e9\n".encode("utf-16-be"), "caf\u00e9"),
        "line separators are text": ("a\u2028b\x0bc\n".encode(), "a\u2028b\x0bc"),
        "one mark only": (b"\xef\xbb\xbf\xef\xbb\xbfword\n", "\ufeffword"),
    }.values(),
)
def test_the_passphrase_in_a_file(data: bytes, text: str, tmp_path: Path) -> None:
    assert read_passphrase(put(tmp_path, data)).text == text


@pytest.mark.parametrize(
    ("data", "told"),
    {
        "empty": (b"", "first line is empty"),
        "a line end": (b"\n", "first line is empty"),
        "the second line": (b"\nword\n", "first line is empty"),
        "a mark alone": (b"\xef\xbb\xbf", "first line is empty"),
        "Latin 1": ("caf\u00e9".encode("latin-1"), "not UTF-8"),
        "UTF-16 without a mark": ("word".encode("utf-16-le"), "zero bytes"),
        "UTF-32": ("word".encode("utf-32"), "zero bytes"),
        "half a character": (b"\xff\xfea", "not UTF-16"),
        "a lone surrogate": (b"\xff\xfe\x00\xd8\x00\x00", "not UTF-16"),
        "too long": (bytes(MAX_PASSPHRASE_FILE_BYTES + 1), "larger than"),
    }.values(),
)
def test_what_is_no_passphrase_is_told_by_name(data: bytes, told: str, tmp_path: Path) -> None:
    file = put(tmp_path, data)
    with pytest.raises(PassphraseError, match=f"passphrase: .*{told}"):
        read_passphrase(file)
    (tmp_path / "link").symlink_to(file)
    with pytest.raises(StorageError, match="symbolic link"):
        read_passphrase(tmp_path / "link")


def test_both_normal_forms_open_one_vault(tmp_path: Path) -> None:
    make_vault(tmp_path / "vault", b"one", secrets=[Passphrase(COMPOSED)])
    for data in (
        DECOMPOSED.encode(),
        b"\xef\xbb\xbf" + COMPOSED.encode(),
        COMPOSED.encode("utf-16"),
    ):
        secret = read_passphrase(put(tmp_path, data))
        assert open_vault(tmp_path / "vault", secret).read().payload == b"one"


def test_a_vault_made_when_the_mark_was_a_part_of_it_still_opens(tmp_path: Path) -> None:
    make_vault(tmp_path / "vault", b"one", secrets=[Passphrase("\ufeff" + WORDS)])
    secret = read_passphrase(put(tmp_path, b"\xef\xbb\xbf" + WORDS.encode()))
    assert open_vault(tmp_path / "vault", secret).read().payload == b"one"
    with pytest.raises(PassphraseError):
        open_vault(tmp_path / "vault", Passphrase(WORDS))
    assert WORDS not in repr(secret)


POOR = ["a", "1234567", "caf\u00e9s", "12345678", "password1", "aaaaaaaaaaaaaaaaaaaa", "qwertyuiop"]
FAIR = ["correct horse", "Tr0ub4dor-3"]
GOOD = [
    WORDS,
    "\u043a\u043e\u0442 \u0441\u0438\u0434\u0435\u043b \u043d\u0430 \u043e\u043a\u043d\u0435",
    "zqv" + WORDS * 100,
]


@pytest.mark.parametrize("text", POOR)
def test_a_poor_new_passphrase_is_refused(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(PassphraseError, match="fewer than 8|easily guessed") as caught:
        check_new(Passphrase(text), weak=False)
    assert "--weak-passphrase" in caught.value.hint
    check_new(Passphrase(text), weak=True)
    told = capsys.readouterr().err
    assert "warning: a weak passphrase: guessing it takes" in told
    assert len(text) < 2 or text not in told + caught.value.message + caught.value.hint


@pytest.mark.parametrize(("text", "warned"), [(t, t in FAIR[:1]) for t in FAIR + GOOD])
def test_the_strength_of_a_new_passphrase_is_told(
    text: str, warned: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    check_new(Passphrase(text), weak=False)
    told = capsys.readouterr().err
    assert ("a weak passphrase" in told) is warned
    assert "guesses a second" in told
    assert text not in told


def test_white_space_at_the_ends_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    check_new(Passphrase(WORDS + " "), weak=False)
    assert "ends in white space, which is a part of it" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["", "\ud800" * 9])
def test_what_cannot_be_a_passphrase_is_refused_even_as_a_weak_one(text: str) -> None:
    with pytest.raises(PassphraseError):
        check_new(Passphrase(text), weak=True)


def test_a_key_file_that_is_not_random_is_refused(tmp_path: Path) -> None:
    poor = put_key_file(tmp_path / "poor", b"0123456789" * 4)
    with pytest.raises(PassphraseError, match="poor: does not look random"):
        check_new(poor, weak=False)
    check_new(poor, weak=True)
    check_new(put_key_file(tmp_path / "good", bytes(range(3, 250, 7))), weak=False)
    check_new(KeyringEntry(), weak=False)
    with pytest.raises(PassphraseError, match="expected 32 to"):
        check_new(put_key_file(tmp_path / "short", bytes(range(31))), weak=True)


@pytest.mark.parametrize(
    ("guesses", "words"),
    [
        (10, "less than a second"),
        (1e4, "about 1 second"),
        (1.19e6, "about 119 seconds"),
        (1.2e6, "about 2 minutes"),
        (1e4 * 3600 * 2, "about 2 hours"),
        (1e4 * 86400 * 2, "about 2 days"),
        (1e4 * 31557600 * 1500, "about 1,500 years"),
        (1e30, "millions of years"),
    ],
)
def test_guessing_times_in_words(guesses: float, words: str) -> None:
    assert readable_guessing_time(guesses) == words


def test_longer_is_never_judged_weaker_for_its_length() -> None:
    assert estimated_guesses(WORDS * 40) >= estimated_guesses((WORDS * 40)[:72])


# --- the program ----------------------------------------------------------------------------------


@pytest.fixture
def person(tmp_path: Path) -> Person:
    return Person.make(tmp_path, "short")


def test_a_vault_that_has_a_poor_passphrase_opens_and_gets_a_better_one(
    person: Person, tmp_path: Path, capsys
) -> None:
    home = Home(person.home)
    home.make()
    vault = create_vault(home.vault, [Passphrase("short")], cost=CHEAP)
    vault.write(b"", bundle_id=BUNDLE)
    assert person.run("status") == 0
    poor = put(tmp_path, b"a\n", "new")
    assert person.run("passwd", "--new-passphrase-file", poor) == 45
    told = capsys.readouterr().err
    assert "fewer than 8 characters" in told
    assert "--weak-passphrase" in told
    assert open_vault(home.vault, Passphrase("short")).read().payload == b""
    assert person.run("--weak-passphrase", "passwd", "--new-passphrase-file", poor) == 0
    assert open_vault(home.vault, Passphrase("a")).read().payload == b""
    person.passphrase_file.write_text("a\n")
    put(tmp_path, PASSPHRASE.encode(), "new")
    assert person.run("passwd", "--new-passphrase-file", poor) == 0
    assert "guessing the passphrase takes millions of years" in capsys.readouterr().err


@pytest.mark.parametrize(("typed", "asked", "code"), [
    (["typo1", "short"], 2, 0), (["typo1", "", "short"], 3, 0), (["typo1", "typo2", "typo3", "short"], 3, 45),
])  # fmt: skip
def test_a_wrong_passphrase_at_the_terminal_may_be_given_again(
    person: Person, typed: list[str], asked: int, code: int, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    """Up to three times; from a file it is told at once."""
    home = Home(person.home)
    home.make()
    create_vault(home.vault, [Passphrase("short")], cost=CHEAP)
    answers, prompts = iter(typed), []

    def ask(prompt: str) -> str:
        prompts.append(prompt)
        return next(answers)

    monkeypatch.setattr(passphrases, "_has_terminal", lambda: True)
    monkeypatch.setattr(passphrases.getpass, "getpass", ask)
    workspace = Workspace(home, Keys())
    if code:
        with pytest.raises(PassphraseError, match="wrong passphrase"):
            workspace.open()
    else:
        assert workspace.open().newest == 0
    assert prompts == ["The vault's passphrase: "] * asked
    told = capsys.readouterr().err
    assert told.count(" more\n") == min(asked - (code == 0), 2)
    assert not any(word in told for word in typed if word)
    person.passphrase_file.write_text("wrong\n")
    with pytest.raises(PassphraseError):
        Workspace(home, Keys(person.passphrase_file)).open()
    assert len(prompts) == asked
