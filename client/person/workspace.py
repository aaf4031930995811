"""What every private command starts with: the folder, the vault's key, the release.

A secret comes from a file named by an option or variable, the keyring, or the terminal, in this
order; it is never an argument itself, which other users' `ps` would show.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from client.home import Home
from client.releases.loading import ReleaseMemory
from client.settings.names import SETTINGS
from client.terminal.console import say
from client.terminal.time_left import ExpectedPhase
from client.vault.opening import (
    Vault,
    check_keys,
    create_vault,
    open_vault,
    slot_kinds,
    vault_exists,
)
from client.vault.passphrases import check_new, new_passphrase, read_passphrase, until_right
from client.vault.secrets import KeyFile, KeyringEntry, Secret
from proper_model.errors import (
    ConfigError,
    NotAdaptedError,
    NotInstalledError,
    VaultForeignError,
)

if TYPE_CHECKING:
    from client.person.state import PersonalState
    from client.releases.store import InstalledBundle
    from proper_model.release.contents import Release
    from proper_model.settings import BaseWeights

MOST_THREADS = 8


@dataclass(frozen=True)
class Keys:
    """Where the vault's key comes from, as the options say."""

    passphrase_file: Path | None = None
    key_file: Path | None = None
    weak: bool = False  # a new secret may be easily guessed
    unlock: str = "auto"  # where the key comes from without a file: auto, keyring or ask

    @property
    def has_file(self) -> bool:
        """Whether an option or variable names a file with the key."""
        return (self.key_file or self.passphrase_file) is not None

    def given(self) -> Secret | None:
        """The secret of an option or variable, None without one."""
        if self.key_file is not None and self.passphrase_file is not None:
            raise ConfigError(
                "give --key-file or --passphrase-file, not both",
                hint=f"leave one of them out, or unset one of {SETTINGS['passphrase_file'].variable} and "
                f"{SETTINGS['key_file'].variable} where variables name both",
            )
        if self.unlock != "auto" and self.has_file:
            raise ConfigError(
                f"--unlock {self.unlock} takes no file, and --key-file or --passphrase-file names one",
                hint="leave one of them out",
            )
        if self.key_file is not None:
            return KeyFile(self.key_file)
        return None if self.passphrase_file is None else read_passphrase(self.passphrase_file)


@dataclass(frozen=True)
class Memory:
    """What a command's options say about memory. Raises ConfigError for a way to hold a base that is none."""

    limit_bytes: int | None = None
    base_weights: str | None = None
    recompute: bool = False

    def __post_init__(self) -> None:
        setting = SETTINGS["base_weights"]
        if self.base_weights not in (None, *setting.choices):
            raise ConfigError(
                f"unknown --base-weights '{self.base_weights}'", hint=setting.expected
            )


@dataclass
class Workspace:
    """One person's folder, opened as far as a command needs it."""

    home: Home
    keys: Keys = field(default_factory=Keys)
    releases: ReleaseMemory = field(default_factory=ReleaseMemory)
    expected: list[ExpectedPhase] = field(default_factory=list)  # of the training that runs
    threads: int | None = None  # None: as many as help a base of its size

    @contextmanager
    def changing(self, *, create: bool = True) -> Iterator[Vault]:
        """The open vault, made on first use, while no other command changes the folder.

        What an interrupted command left is finished or removed first. Warnings are said.
        """
        with self.home.working():
            vault = self._create() if create and not self.has_vault else self.open()
            vault.finish_interrupted()
            yield vault

    @property
    def has_vault(self) -> bool:
        """Whether something private is stored. Raises VaultError where it is, and its keys.json is not."""
        check_keys(self.home.vault)
        return vault_exists(self.home.vault)

    def open(self) -> Vault:
        """The vault. Raises NotAdaptedError if there is none, PassphraseError for a wrong key."""
        if not self.has_vault:
            raise NotAdaptedError(
                "nothing private is stored here yet",
                hint="start with: proper adapt HISTORY",
            )
        secret = self._secret()
        if secret is None:
            vault = until_right("The vault's passphrase", partial(open_vault, self.home.vault))
        else:
            vault = open_vault(self.home.vault, secret)
        vault.tell_by(say_warning)
        return vault

    def open_unasked(self) -> Vault | None:
        """The vault, None where there is none or only the person could say its key.

        For a program that has begun and must not ask. Raises as `open`.
        """
        kinds = {kind for _, kind in slot_kinds(self.home.vault)} if self.has_vault else set()
        from_keyring = "keyring" in kinds and self.keys.unlock != "ask"
        return self.open() if kinds and (self.keys.has_file or from_keyring) else None

    def _secret(self) -> Secret | None:
        """What opens the vault; None for a passphrase that is to be asked for."""
        given = self.keys.given()
        if given is not None:
            return given
        kinds = {kind for _, kind in slot_kinds(self.home.vault)}
        if self.keys.unlock == "keyring" and "keyring" not in kinds:
            raise ConfigError(
                "the keyring does not open this vault, and --unlock keyring asks for it",
                hint="proper passwd --add-keyring lets it; or proper config set unlock auto",
            )
        if "keyring" in kinds and self.keys.unlock != "ask":
            return KeyringEntry()
        if kinds == {"key-file"}:
            raise ConfigError("this vault opens with a key file", hint="give --key-file FILE")
        return None

    def _create(self) -> Vault:
        given = self.keys.given()
        if given is None:
            say("your adapter will be encrypted; a lost passphrase cannot be recovered")
            given = new_passphrase("A new passphrase", None, weak=self.keys.weak)
        else:
            check_new(given, weak=self.keys.weak)
        vault = create_vault(self.home.vault, [given])
        vault.tell_by(say_warning)
        return vault

    def installed(self) -> InstalledBundle:
        """The installed release. Raises NotInstalledError if there is none."""
        from client.releases.store import installed

        bundle = installed(self.home.path)
        if bundle is None:
            raise NotInstalledError(
                "no release is installed",
                hint="install one with: proper bundle add PATH_OR_URL; or make one of your own over any "
                "base: proper start --base BASE --task TASK",
            )
        return bundle

    def bundle_of(self, state: PersonalState | None) -> InstalledBundle:
        """The release a state was made over; the installed one for a person without a state.

        An adapter works over its own release alone, which stays here when a newer one is installed.

        Raises:
            NotInstalledError: there is no release.
            VaultForeignError: the state's release is not on this machine.
        """
        from client.releases.store import stored

        newest = self.installed()
        if state is None or not state.tasks or state.bundle_id == newest.bundle_id:
            return newest
        bundle = stored(self.home.path, state.bundle_id)
        if bundle is None:
            raise VaultForeignError(
                f"this adapter was made over release {state.bundle_version} "
                f"({state.bundle_id[:16]}), which is not here; installed is release "
                f"{newest.version} ({newest.bundle_id[:16]})",
                hint="proper rebase trains it again over the installed release; until then nothing "
                "is lost",
            )
        say(
            f"your adapter goes on over {bundle.called}; {newest.called} is installed, and proper "
            "rebase moves to it"
        )
        return bundle

    def load(
        self,
        bundle: InstalledBundle,
        *,
        memory_bytes: int | None = None,
        base_weights: BaseWeights | None = None,
    ) -> Release:
        """A release, verified and loaded; warnings are said before that takes its time.

        Raises as `ReleaseMemory.load`; BaseModelError if its base is not on this machine.
        """
        import torch

        from client.releases.bases import base_of
        from client.releases.installed_list import warnings_of
        from proper_model.base.config import size
        from proper_model.federation.machine import usable_cores, useful_threads

        for warning in warnings_of(self.home, bundle):
            say_warning(warning)
        reference = bundle.manifest.base_reference
        release = self.releases.load(
            bundle,
            None if reference is None else base_of(self.home, reference),
            threads=self.threads or min(MOST_THREADS, usable_cores()),  # loading and hashing
            memory_bytes=memory_bytes,
            base_weights=base_weights,
        )
        useful = useful_threads(size(release.base.config, "hidden_size"))
        torch.set_num_threads(self.threads or useful)
        return release


def say_warning(text: str) -> None:
    """What a person should hear of, whichever command finds it."""
    say(f"warning: {text}")
