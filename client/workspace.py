"""What every private command starts with: the folder, the vault's key, the state, the release.

A secret comes from a file named by an option or variable, the keyring, or the terminal, in this
order; it is never an argument itself, which other users' `ps` would show.
"""

from __future__ import annotations

import getpass
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from client.console import say
from client.home import Home
from client.personal_state import PersonalState, decode, encode
from client.vault import Vault, create_vault, open_vault, slot_kinds, vault_exists
from client.vault_secrets import KeyFile, KeyringEntry, Passphrase, Secret
from proper_model.errors import (
    ConfigError,
    NotAdaptedError,
    PassphraseError,
    VaultForeignError,
)
from proper_model.files import read_regular, storage_errors

if TYPE_CHECKING:
    from client.bundle_store import InstalledBundle
    from proper_model.artifact import Release
    from proper_model.config import BaseWeights

PASSPHRASE_FILE_VARIABLE = "PROPER_PASSPHRASE_FILE"
KEY_FILE_VARIABLE = "PROPER_KEY_FILE"
MAX_PASSPHRASE_FILE_BYTES = 8192
MOST_THREADS = 8


@dataclass(frozen=True)
class Keys:
    """Where the vault's key comes from, as the options say."""

    passphrase_file: Path | None = None
    key_file: Path | None = None

    def given(self) -> Secret | None:
        """The secret of an option or variable, None without one."""
        if self.key_file is not None and self.passphrase_file is not None:
            raise ConfigError("give --key-file or --passphrase-file, not both")
        if self.key_file is not None:
            return KeyFile(self.key_file)
        return None if self.passphrase_file is None else read_passphrase(self.passphrase_file)


def read_passphrase(path: Path) -> Passphrase:
    """The first line of a file. Raises StorageError or PassphraseError."""
    with storage_errors(path):
        data = read_regular(path, limit_bytes=MAX_PASSPHRASE_FILE_BYTES)
    try:
        return Passphrase(data.decode().split("\n")[0].removesuffix("\r"))
    except UnicodeDecodeError:
        raise PassphraseError(f"{path.name}: the passphrase is not UTF-8 text") from None


def ask_passphrase(words: str, *, twice: bool = False) -> Passphrase:
    """Ask on the terminal, whatever stdin is.

    Raises ConfigError without a terminal, PassphraseError if two entries differ.
    """
    if not _has_terminal():
        raise ConfigError(
            "the vault needs its key, and there is no terminal to ask on",
            hint="give --passphrase-file FILE or --key-file FILE",
        )
    first = getpass.getpass(f"{words}: ")
    if twice and getpass.getpass("The same again: ") != first:
        raise PassphraseError("the two passphrases differ; nothing was changed")
    return Passphrase(first)


def _has_terminal() -> bool:
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY))
    except OSError:
        return False
    return True


@dataclass
class Workspace:
    """One person's folder, opened as far as a command needs it."""

    home: Home
    keys: Keys = field(default_factory=Keys)

    @contextmanager
    def changing(self) -> Iterator[Vault]:
        """The open vault, made on first use, while no other command changes the folder."""
        with self.home.working():
            yield self.open() if self.has_vault else self._create()

    @property
    def has_vault(self) -> bool:
        return vault_exists(self.home.vault)

    def open(self) -> Vault:
        """The vault. Raises NotAdaptedError if there is none, PassphraseError for a wrong key."""
        if not self.has_vault:
            raise NotAdaptedError(
                "nothing private is stored here yet",
                hint="start with: proper adapt HISTORY",
            )
        vault = open_vault(self.home.vault, self._secret())
        for warning in vault.warnings:
            say(f"warning: {warning}")
        return vault

    def _secret(self) -> Secret:
        given = self.keys.given()
        if given is not None:
            return given
        kinds = {kind for _, kind in slot_kinds(self.home.vault)}
        if "keyring" in kinds:
            return KeyringEntry()
        if kinds == {"key-file"}:
            raise ConfigError("this vault opens with a key file", hint="give --key-file FILE")
        return ask_passphrase("Passphrase")

    def _create(self) -> Vault:
        given = self.keys.given()
        if given is None:
            say("your adapter will be encrypted; a lost passphrase cannot be recovered")
            given = ask_passphrase("A new passphrase", twice=True)
        return create_vault(self.home.vault, [given])

    def load(
        self, *, memory_bytes: int | None = None, base_weights: BaseWeights | None = None
    ) -> tuple[Release, InstalledBundle]:
        """The installed release, verified and loaded; warnings are said."""
        import torch

        from client.bundles import load_release
        from proper_model.machine import usable_cores, useful_threads

        release, bundle = load_release(
            self.home,
            threads=min(MOST_THREADS, usable_cores()),  # loading and hashing
            memory_bytes=memory_bytes,
            base_weights=base_weights,
        )
        torch.set_num_threads(useful_threads(release.base.config.hidden_size))
        for warning in bundle.warnings:
            say(f"warning: {warning}")
        return release, bundle


def read_state(vault: Vault) -> PersonalState:
    """What the vault holds. Raises NotAdaptedError if that is nothing."""
    content = vault.read()
    if content is None:
        raise NotAdaptedError(
            "nothing was adapted here yet", hint="start with: proper adapt HISTORY"
        )
    return decode(content.payload)


def write_state(vault: Vault, state: PersonalState) -> int:
    """Store the state as a new generation; returns its number."""
    return vault.write(encode(state), bundle_id=state.bundle_id)


def check_bundle(state: PersonalState, bundle: InstalledBundle) -> None:
    """Raises VaultForeignError if the state was made over another release than the installed one."""
    if state.tasks and state.bundle_id != bundle.bundle_id:
        raise VaultForeignError(
            f"this adapter was made over release {state.bundle_version} ({state.bundle_id[:16]}), "
            f"installed is release {bundle.version} ({bundle.bundle_id[:16]})",
            hint="proper rebase trains it again over the installed release; until then nothing "
            "is lost",
        )
