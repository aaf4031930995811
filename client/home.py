"""Where `proper` keeps its things: one folder, private to its owner.

    HOME/root.json          the trust root this device pins
    HOME/bundles/           installed releases (`client.releases`)
    HOME/bases.json         where bases that releases refer to lie on this machine
    HOME/vault/             everything private, encrypted (`client.vault`)

HOME is `--home`, else the variable PROPER_HOME, else the platform's folder for a program's data.
Source: docs/security.md 2 (same-device user).
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from platformdirs import user_data_path

from proper_model.errors import BusyError, StorageError
from proper_model.storage.durable import is_locked, locked
from proper_model.storage.files import expanded, make_private_folder, storage_errors

VARIABLE = "PROPER_HOME"
_GRACE_S = 0.2  # another program's `is_busy` holds the lock for a moment
# Of a `write_atomic` that was killed.
_LEFTOVER = re.compile(r"\.(root|bases)\.json\.[0-9a-f]{12}\.tmp")


@dataclass(frozen=True)
class Home:
    """One user's folder."""

    path: Path

    @classmethod
    def find(cls, option: Path | None = None) -> Home:
        """By option, variable or platform. Creates nothing."""
        named = option or os.environ.get(VARIABLE)
        return cls(expanded(named) if named else user_data_path("proper", appauthor=False))

    @property
    def root_file(self) -> Path:
        return self.path / "root.json"

    @property
    def bases_file(self) -> Path:
        return self.path / "bases.json"

    @property
    def vault(self) -> Path:
        return self.path / "vault"

    def make(self) -> None:
        """Create the folder, 0700, or check the one there is.

        Raises StorageError if it cannot be created or others may enter it.
        """
        self.check_folder()
        with storage_errors(self.path):
            make_private_folder(self.path)
        check_private_folder(self.path)

    def check_folder(self) -> None:
        """Raise StorageError where a file stands in the folder's place."""
        if self.path.exists() and not self.path.is_dir():
            raise StorageError(
                f"{self.path}: found a file, expected the folder in which everything is kept",
                hint="name a folder with --home or PROPER_HOME",
            )

    def is_busy(self) -> bool:
        """Whether a command that changes something is at work. Creates nothing, waits for nothing."""
        return is_locked(self.path / ".lock")

    @contextmanager
    def working(self, *, timeout_s: float = _GRACE_S) -> Iterator[None]:
        """Hold the folder for one process that changes something.

        Raises BusyError if another one holds it for `timeout_s`.
        """
        self.make()
        with ExitStack() as stack:
            with storage_errors(self.path):
                try:
                    stack.enter_context(locked(self.path / ".lock", timeout_s=timeout_s))
                except TimeoutError:
                    raise BusyError(
                        f"{self.path}: another proper command is working in this folder",
                        hint="wait for it to end, then repeat the command",
                    ) from None
                # Nobody else writes now, so these are of commands that were killed.
                for path in self.path.iterdir():
                    if _LEFTOVER.fullmatch(path.name):
                        path.unlink(missing_ok=True)
            yield


def check_private_folder(folder: Path) -> None:
    """Raise StorageError for a link, a missing folder, and one that others may enter."""
    with storage_errors(folder):
        mode = folder.lstat().st_mode
    if not stat.S_ISDIR(mode):
        raise StorageError(
            f"{folder}: expected a folder, not a link or a file",
            hint="remove it, or give another place with --home",
        )
    if mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise StorageError(
            f"{folder}: other users may enter this folder",
            hint=f"close it with: chmod 700 {folder}",
        )
