"""What lies in a vault's folder: generations, damaged files, leftovers of killed commands.

Without a key only headers can be looked at, so a damaged ciphertext is not seen; with one it is.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from client.home import Home
from client.vault.contents import generation_name, list_generations, list_leftovers
from client.vault.key_slots import KeySet
from client.vault.keys_document import decode_keys
from client.vault.keys_file import read_keys
from client.vault.opening import WITHOUT_KEYS, WITHOUT_KEYS_HINT, open_vault, orphaned
from client.vault.sealing import MAGIC, MAX_HEADER_BYTES, TAG_BYTES, Header, read_header
from client.vault.secrets import KINDS, Secret
from client.vault.snapshot import at_rest
from client.vault.working_files import list_working
from proper_model.errors import (
    BusyError,
    PassphraseError,
    ProperError,
    StorageError,
    VaultError,
)
from proper_model.storage.files import read_private

UNFINISHED = "a change of the master key was interrupted; the next change ends it"
_START_BYTES = len(MAGIC) + 4 + MAX_HEADER_BYTES + TAG_BYTES


@dataclass(frozen=True)
class Shown:
    """Generations newest first; `damaged` says what is wrong with which.

    `unfinished` is whether a change of the master key has begun and not ended, `leftovers` counts
    files half written or not yet removed, by a command at work or a killed one, `working`
    checkpoints that --resume goes on from.
    """

    slots: tuple[tuple[str, str], ...]
    generations: tuple[int, ...]
    size_bytes: int
    damaged: tuple[str, ...]
    unfinished: bool
    leftovers: int
    working: int


def look_at(home: Home) -> Shown:
    """What lies in the vault of a home. Raises VaultError, StorageError for keys.json not whole.

    A change that a command at work has begun does not count as unfinished.
    """
    busy = home.is_busy()
    shown = at_rest(home.vault, lambda: _look(home.vault))
    return replace(shown, unfinished=False) if busy or home.is_busy() else shown


def judge(
    folder: Path, shown: Shown | None, given: Callable[[], Secret | None]
) -> tuple[str, list[str]]:
    """The state of the content, and sentences for the person; decrypted where a secret is given.

    The content is `none`, `whole`, `unchecked`, `older` (the newest generation is damaged and an
    earlier one is used) or `damaged` (nothing can be read).
    """
    if shown is None:
        told = f"{WITHOUT_KEYS}; {WITHOUT_KEYS_HINT}"
        return ("damaged", [told]) if orphaned(folder) else ("none", [])
    warnings = list(shown.damaged)
    if shown.unfinished:
        warnings.append(UNFINISHED)
    newest = shown.generations[0] if shown.generations else 0
    unopened = (
        "older" if any(w.startswith(generation_name(newest)) for w in warnings) else "unchecked"
    )
    try:
        secret = given()
        if secret is None:
            return unopened, warnings
        kind = KINDS[type(secret)]
        if kind not in {have for _, have in shown.slots}:
            return unopened, [*warnings, f"the content is not checked: no {kind} opens this vault"]
        vault = open_vault(folder, secret)
        content = vault.read()
    except (PassphraseError, StorageError, BusyError) as error:
        return unopened, [*warnings, f"the content is not checked: {error.message}"]
    except VaultError as error:
        return "damaged", [*warnings, error.message]
    if content is None:
        return "none", warnings
    return "older" if vault.warnings else "whole", [*warnings, *vault.warnings]


def _look(folder: Path) -> Shown:
    keys, _ = decode_keys(read_keys(folder))
    found = list_generations(folder)
    half_written = list_leftovers(folder)
    headers = {one: _header(folder, one) for one in found}
    whole = [one for one, header in headers.items() if _under(header, keys.current)]
    damaged, superseded = [], 0
    for generation, header in headers.items():
        if isinstance(header, ProperError):
            damaged.append(header.message)
        elif header.vault_id != keys.vault_id or header.generation != generation:
            name = generation_name(generation)
            damaged.append(f"{name}: holds another vault's or another generation's state")
        elif not any(_under(header, one) for one in keys.key_sets()):
            if generation < max(whole, default=0):
                superseded += 1  # forgetting removes these last
            else:
                damaged.append(f"{generation_name(generation)}: under another key, or damaged")
    return Shown(
        slots=keys.slot_kinds(),
        generations=tuple(found),
        size_bytes=sum((folder / generation_name(one)).lstat().st_size for one in found),
        damaged=tuple(damaged),
        unfinished=keys.next is not None,
        leftovers=len(half_written) + superseded,
        working=len(set(list_working(folder)) - set(half_written)),
    )


def _header(folder: Path, generation: int) -> Header | ProperError:
    """The header of a file, not authenticated, or the error of reading it."""
    where = generation_name(generation)
    try:
        return read_header(read_private(folder / where, limit_bytes=_START_BYTES), where=where)
    except ProperError as error:
        return error


def _under(header: Header | ProperError, keys: KeySet) -> bool:
    return isinstance(header, Header) and header.key_id == keys.key_id
