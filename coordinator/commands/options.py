"""Arguments and options that commands of the publisher share, and what they print."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from coordinator.keys import MAX_PASSPHRASE_BYTES, Ask, load_key
from proper_model.errors import PassphraseError, StorageError
from proper_model.files import read_bounded

Folder = Annotated[
    Path, typer.Argument(metavar="FOLDER", help="A folder with root.json, for releases.")
]
Keys = Annotated[
    list[Path], typer.Option("--key", help="A key file to sign with; once for each key.")
]
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
        return str(typer.prompt(f"Passphrase of {path.name}", hide_input=True, err=True))

    return ask


def new_passphrase(path: Path, passphrase_file: Path | None) -> str:
    """The passphrase for a key that is being made, asked for twice."""
    if passphrase_file is not None:
        return read_passphrase(passphrase_file)
    text = f"New passphrase for {path.name}"
    return str(typer.prompt(text, hide_input=True, confirmation_prompt=True, err=True))


def read_passphrase(path: Path) -> str:
    """The first line of a file, without a byte order mark. Raises StorageError, PassphraseError."""
    try:
        line = read_bounded(path, 4 * MAX_PASSPHRASE_BYTES).split(b"\n", 1)[0]
        return line.decode("utf-8-sig").rstrip("\r")
    except OSError as error:
        raise StorageError(f"passphrase file {path.name}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise PassphraseError(f"passphrase file {path.name}: not UTF-8 text") from None


def load_keys(paths: Sequence[Path], passphrase_file: Path | None) -> list[Ed25519PrivateKey]:
    """The keys of these files. Raises as `coordinator.keys.load_key`."""
    return [load_key(path, asking(passphrase_file)) for path in paths]


def tell(text: str) -> None:
    """A line of data on stdout."""
    sys.stdout.write(text + "\n")


def say(text: str) -> None:
    """A remark on stderr."""
    sys.stderr.write(f"proper-coordinator: {text}\n")
