"""One committed state of a vault, read while another process may be writing.

Readers hold no lock: they must work on a read-only disk, and while a command trains for minutes. What
looks damaged, old or absent counts only if nothing changed while it was looked at. keys.json is never
the same twice and a generation's number is never used twice, so keys and names tell whether anything
changed. docs/vault-format.md 5.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from client.vault.contents import Content, Contents, list_generations
from client.vault.keys_document import KEYS_FILE
from client.vault.keys_file import KeysFile, read_keys
from proper_model.errors import BusyError, ProperError, StorageError, VaultError

PATIENCE_S = 30.0
_PAUSE_S = 0.002

Warn = Callable[[str], None]
Result = TypeVar("Result")


def contents_of(file: KeysFile) -> Contents:
    """The generations under the current master key of an opened keys.json."""
    keys = file.keys
    pending = None if keys.next is None else keys.next.key_id
    return Contents(file.folder, keys.vault_id, keys.current.key_id, file.key, pending)


def consistent(
    file: KeysFile, look: Callable[[Contents, Warn], Content | None], warn: Warn
) -> Content | None:
    """What `look` finds in one committed state, the present one or one that was current meanwhile.

    Raises:
        BusyError: the vault was removed, its keys were changed, or it changes without pause.
        VaultError, StorageError: as `look`, of a state that nobody is changing.
    """
    folder, deadline = file.folder, time.monotonic() + PATIENCE_S
    while True:
        before = _stamp(folder)
        if before[0] != file.raw:
            file = file.reopened()
        remarks: list[str] = []
        failure: VaultError | StorageError | None = None
        found: Content | None = None
        try:
            found = look(contents_of(file), remarks.append)
        except (VaultError, StorageError) as error:
            failure = error
        # A whole generation that none is newer than was current at some moment since the start.
        if found is not None and not remarks:
            return found
        if before[0] == file.raw and _stamp(folder) == before:
            for remark in remarks:
                warn(remark)
            if failure is not None:
                raise failure
            return found
        if time.monotonic() > deadline:
            raise BusyError(
                f"{folder.name}: other commands change the vault without pause",
                hint="repeat the command when they have ended; nothing is damaged",
            )
        time.sleep(_PAUSE_S)


def at_rest(folder: Path, look: Callable[[], Result]) -> Result:
    """What `look` returns, or raises, while nobody changes the vault. Raises BusyError as `consistent`."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        before = _stamp(folder)
        failure: ProperError | OSError | None = None
        try:
            found = look()
        except (ProperError, OSError) as error:
            failure = error
        if _stamp(folder) == before or time.monotonic() > deadline:
            if failure is not None:
                raise failure
            return found
        time.sleep(_PAUSE_S)


def _stamp(folder: Path) -> tuple[bytes, list[int]]:
    """What is different after every change."""
    try:
        return read_keys(folder), list_generations(folder)
    except StorageError as error:
        if isinstance(error.__cause__, FileNotFoundError):
            raise BusyError(
                f"{folder.name}: {KEYS_FILE} was there and is no more: another command has removed "
                "what was stored",
                hint="proper status says what is there",
            ) from error
        raise
