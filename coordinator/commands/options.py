"""Arguments and options that commands of the publisher share, and what they print."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from coordinator.keys import Ask, load_key, read_private
from proper_model.errors import ConfigError, PassphraseError, StorageError

Folder = Annotated[
    Path, typer.Argument(metavar="FOLDER", help="A folder with root.json, for releases.")
]
Keys = Annotated[
    list[Path], typer.Option("--key", help="A key file to sign with; once for each key.")
]
Publics = list[Path] | None
PassphraseFile = Annotated[
    Path | None,
    typer.Option(
        "--passphrase-file", help="A file whose first line is the passphrase, instead of asking."
    ),
]


def now() -> datetime:
    """The one time of a command."""
    return datetime.now(UTC)


def asking(passphrase_file: Path | None) -> Ask:
    """The passphrase of an encrypted key: from the file, or asked for on the terminal."""

    def ask(path: Path) -> str:
        if passphrase_file is not None:
            return read_passphrase(passphrase_file)
        return _asked(f"Passphrase of {path.name}", twice=False)

    return ask


def new_passphrase(path: Path, passphrase_file: Path | None) -> str:
    """The passphrase for a key that is being made, asked for twice."""
    if passphrase_file is not None:
        return read_passphrase(passphrase_file)
    return _asked(f"New passphrase for {path.name}", twice=True)


def read_passphrase(path: Path) -> str:
    """The first line of a file that only its owner may use, without a byte order mark.

    Raises ConfigError, PassphraseError.
    """
    try:
        line = read_private(path, what="passphrase file").split(b"\n", 1)[0]
        return line.decode("utf-8-sig").rstrip("\r")
    except UnicodeDecodeError:
        raise PassphraseError(f"passphrase file {path.name}: not UTF-8 text") from None


def _asked(words: str, *, twice: bool) -> str:
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY))
        return str(typer.prompt(words, hide_input=True, confirmation_prompt=twice, err=True))
    except OSError:
        raise ConfigError(
            f"{words}: there is no terminal to ask on", hint="give --passphrase-file FILE"
        ) from None
    except UnicodeError:
        raise PassphraseError(f"{words}: what was typed is not UTF-8 text") from None


def load_keys(paths: Sequence[Path], passphrase_file: Path | None) -> list[Ed25519PrivateKey]:
    """The keys of these files. Raises as `coordinator.keys.load_key`."""
    return [load_key(path, asking(passphrase_file)) for path in paths]


def tell(text: str) -> None:
    """A line of data on stdout. Raises StorageError where that takes no more, or was never there."""
    try:
        sys.stdout.write(text + "\n")
        sys.stdout.flush()
    except (OSError, ValueError, AttributeError):
        sys.stdout = io.StringIO()  # or Python tries again at its end, and fails
        raise StorageError(
            "standard output takes no more; expected to write what was done",
            hint="what was done remains; proper-coordinator root show shows the root as it is now",
        ) from None


def say(text: str) -> None:
    """A remark on stderr; where that takes no more it is lost, and the exit code remains."""
    with suppress(OSError, ValueError, AttributeError):
        sys.stderr.write(f"proper-coordinator: {text}\n")
        sys.stderr.flush()
