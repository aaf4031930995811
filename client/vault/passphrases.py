"""Passphrases as people give them: in a file or on the terminal, and how strong a new one is.

A new passphrase is refused if it has fewer than 8 characters (NIST SP 800-63B, 3.1.1.2) or is among
the first million that a guesser tries, by the estimate of zxcvbn (Wheeler, USENIX Security 2016);
`--weak-passphrase` takes it all the same. A passphrase that opens a vault already is not judged. The
estimate is made in this process, and the passphrase goes nowhere else.
"""

from __future__ import annotations

import codecs
import getpass
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from client.terminal.console import say
from client.vault.secrets import KeyFile, Passphrase, Secret
from proper_model.errors import ConfigError, PassphraseError
from proper_model.storage.files import read_private

Result = TypeVar("Result")

MAX_PASSPHRASE_FILE_BYTES = 8192
TRIES = 3  # at a wrong passphrase on the terminal
MIN_CHARACTERS = 8
LEAST_GUESSES = 1e6
GOOD_GUESSES = 1e10
GUESSES_A_SECOND = 1e4  # of Argon2id with 64 MiB, by a few graphics cards
VAULT_OPTIONS = "--passphrase-file FILE or --key-file FILE before the command"
LEAST_KINDS_OF_BYTES = 16  # 32 random bytes have fewer with a probability below 1e-8

_JUDGED_CHARACTERS = 72  # zxcvbn takes no more; more makes no passphrase weaker
_LINE_END = re.compile(r"\r\n|\n|\r")
_MARK = "\ufeff"
_AGAIN = "choose another one, of several words; --weak-passphrase before the command takes this one"
_UNITS = (("year", 31_557_600), ("day", 86_400), ("hour", 3600), ("minute", 60), ("second", 1))


def read_passphrase(path: Path) -> Passphrase:
    """The first line of a text file that only its owner may use, as for key files.

    UTF-8, or UTF-16 where a byte-order mark says so; the mark is no part of the passphrase. White
    space at the end is.

    Raises StorageError or PassphraseError.
    """
    data = read_private(path, limit_bytes=MAX_PASSPHRASE_FILE_BYTES)
    if len(data) > MAX_PASSPHRASE_FILE_BYTES:
        raise PassphraseError(
            f"{path.name}: larger than {MAX_PASSPHRASE_FILE_BYTES} bytes; expected a passphrase in "
            "its first line"
        )
    wide = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        text = data.decode("utf-16" if wide else "utf-8")
    except UnicodeDecodeError:
        raise PassphraseError(
            f"{path.name}: the passphrase is not {'UTF-16' if wide else 'UTF-8'} text",
            hint="save the file as UTF-8",
        ) from None
    marked = text.startswith(_MARK)
    line = _LINE_END.split(text.removeprefix(_MARK), maxsplit=1)[0]
    if "\0" in line:
        raise PassphraseError(
            f"{path.name}: zero bytes in the first line, as UTF-16 or UTF-32 has them; expected UTF-8",
            hint="save the file as UTF-8",
        )
    if not line:
        raise PassphraseError(
            f"{path.name}: the first line is empty; expected the passphrase there"
        )
    # Versions before took the mark as a part of the passphrase, and a vault may have been made so.
    return Passphrase(line, earlier=(_MARK + line,) if marked else ())


def ask_passphrase(words: str, *, instead: str = VAULT_OPTIONS, twice: bool = False) -> Passphrase:
    """Ask on the terminal, whatever stdin is; `instead` are the options that answer beforehand.

    Raises ConfigError without a terminal, PassphraseError if two entries differ.
    """
    if not _has_terminal():
        raise ConfigError(
            f"a passphrase is needed ({words.lower()}), and there is no terminal to ask on",
            hint=f"give {instead}",
        )
    first = getpass.getpass(f"{words}: ")
    if twice and getpass.getpass("The same again: ") != first:
        raise PassphraseError("the two passphrases differ; nothing was changed")
    return Passphrase(first)


def until_right(
    words: str, use: Callable[[Passphrase], Result], *, instead: str = VAULT_OPTIONS
) -> Result:
    """What `use` makes of a passphrase that is asked for, again where it is wrong, `TRIES` times at most.

    Raises as `ask_passphrase` and `use`.
    """
    for left in reversed(range(TRIES)):
        given = ask_passphrase(words, instead=instead)
        try:
            return use(given)
        except PassphraseError as error:
            if not left:
                raise
            say(f"{error.message}; {'once' if left == 1 else 'twice'} more")
    raise AssertionError("the last try returns or raises")


def new_passphrase(
    words: str, file: Path | None, *, weak: bool, instead: str = VAULT_OPTIONS
) -> Passphrase:
    """A passphrase for a new key slot or backup. Raises as `check_new` and as reading it."""
    if file is None:
        given = ask_passphrase(words, instead=instead, twice=True)
    else:
        given = read_passphrase(file)
    check_new(given, weak=weak)
    return given


def check_new(secret: Secret, *, weak: bool) -> None:
    """Say how strong a new secret is. Raises PassphraseError for a weak one, unless `weak` allows it."""
    if isinstance(secret, KeyFile):
        _check_key_file(secret, weak=weak)
    if not isinstance(secret, Passphrase):
        return
    text = secret.material().decode()  # in normal form C, where a letter is one character
    if len(text) < MIN_CHARACTERS and not weak:
        raise PassphraseError(
            f"a new passphrase of fewer than {MIN_CHARACTERS} characters", hint=_AGAIN
        )
    guesses = estimated_guesses(text)
    told = f"{readable_guessing_time(guesses)} at {GUESSES_A_SECOND:,.0f} guesses a second"
    if guesses < LEAST_GUESSES and not weak:
        raise PassphraseError(f"a new passphrase that is easily guessed, in {told}", hint=_AGAIN)
    if text != text.strip():
        say("warning: the passphrase begins or ends in white space, which is a part of it")
    if guesses < GOOD_GUESSES:
        say(f"warning: a weak passphrase: guessing it takes {told}; another word or two help most")
    else:
        say(f"guessing the passphrase takes {told}")


def estimated_guesses(text: str) -> float:
    """How many guesses a good guesser needs, by zxcvbn; a lower bound for long passphrases."""
    from zxcvbn import zxcvbn

    return float(zxcvbn(text[:_JUDGED_CHARACTERS])["guesses"])


def readable_guessing_time(guesses: float) -> str:
    """1e8 -> 'about 2 hours': the largest unit of which there are at least two, or seconds."""
    seconds = guesses / GUESSES_A_SECOND
    if seconds < 1:
        return "less than a second"
    if seconds > 1e6 * _UNITS[0][1]:
        return "millions of years"
    name, size = next((unit for unit in _UNITS if seconds >= 2 * unit[1]), _UNITS[-1])
    count = round(seconds / size)
    return f"about {count:,} {name}{'s' if count > 1 else ''}"


def _check_key_file(secret: KeyFile, *, weak: bool) -> None:
    if len(set(secret.material())) < LEAST_KINDS_OF_BYTES and not weak:
        raise PassphraseError(
            f"key file {secret.path.name}: does not look random, and a key file is not stretched",
            hint="make one with: head -c 32 /dev/urandom > FILE; --weak-passphrase before the command "
            "takes this one",
        )


def _has_terminal() -> bool:
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY))
    except OSError:
        return False
    return True
