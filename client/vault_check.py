"""What a vault's folder shows: what lies there, what is damaged, what a killed command left.

Without a key only headers can be looked at, so a damaged ciphertext is not seen; with one it is.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from client.generations import generation_name, list_generations, list_leftovers
from client.keys_file import read_keys
from client.private_files import read_private
from client.sealing import MAGIC, MAX_HEADER_BYTES, TAG_BYTES, read_header
from client.vault import WITHOUT_KEYS, open_vault, vault_exists
from client.vault_keys import Keys, decode_keys
from client.vault_secrets import Secret
from client.vault_snapshot import at_rest
from client.working_files import list_working
from proper_model.errors import PassphraseError, ProperError, StorageError, VaultError

_START_BYTES = len(MAGIC) + 4 + MAX_HEADER_BYTES + TAG_BYTES


@dataclass(frozen=True)
class Shown:
    """Generations newest first; `damaged` says what is wrong with which.

    `unfinished` is whether a change of the master key has begun and not ended, `leftovers` counts
    files that a killed command left half written, `working` checkpoints that --resume goes on from.
    """

    slots: tuple[tuple[str, str], ...]
    generations: tuple[int, ...]
    size_bytes: int
    damaged: tuple[str, ...]
    unfinished: bool
    leftovers: int
    working: int


def look_at(folder: Path) -> Shown:
    """What a vault's folder shows. Raises VaultError, StorageError for keys.json that is not whole."""
    return at_rest(folder, lambda: _look(folder))


def judge(
    folder: Path, shown: Shown | None, given: Callable[[], Secret | None]
) -> tuple[str, list[str]]:
    """What the content is, and what a person should hear; checked whole where a secret is given.

    The content is `none`, `whole`, `unchecked`, `older` (the newest generation is damaged and an
    earlier one is used) or `damaged` (nothing can be read).
    """
    if shown is None:
        return ("damaged", [WITHOUT_KEYS]) if orphaned(folder) else ("none", [])
    warnings = list(shown.damaged)
    if shown.unfinished:
        warnings.append("a change of the master key has not ended; the next change ends it")
    newest = shown.generations[0] if shown.generations else 0
    unopened = (
        "older" if any(w.startswith(generation_name(newest)) for w in warnings) else "unchecked"
    )
    try:
        secret = given()
        if secret is None:
            return unopened, warnings
        vault = open_vault(folder, secret)
        content = vault.read()
    except (PassphraseError, StorageError) as error:
        return unopened, [*warnings, f"the content is not checked: {error.message}"]
    except VaultError as error:
        return "damaged", [*warnings, error.message]
    if content is None:
        return "none", warnings
    return "older" if vault.warnings else "whole", [*warnings, *vault.warnings]


def orphaned(folder: Path) -> bool:
    """Whether generations lie there without the keys.json that opens them."""
    return folder.is_dir() and not vault_exists(folder) and bool(list_generations(folder))


def _look(folder: Path) -> Shown:
    keys, _ = decode_keys(read_keys(folder))
    found = list_generations(folder)
    half_written = list_leftovers(folder)
    return Shown(
        slots=tuple((slot.id, slot.kind) for one in keys.key_sets() for slot in one.slots),
        generations=tuple(found),
        size_bytes=sum((folder / generation_name(one)).lstat().st_size for one in found),
        damaged=tuple(problem for one in found if (problem := _problem(folder, one, keys))),
        unfinished=keys.next is not None,
        leftovers=len(half_written),
        working=len(set(list_working(folder)) - set(half_written)),
    )


def _problem(folder: Path, generation: int, keys: Keys) -> str | None:
    """What the header tells of damage, if anything."""
    where = generation_name(generation)
    try:
        header = read_header(read_private(folder / where, limit_bytes=_START_BYTES), where=where)
        if header.vault_id != keys.vault_id or header.generation != generation:
            raise VaultError(f"{where}: holds another vault's or another generation's state")
        if header.key_id not in {one.key_id for one in keys.key_sets()}:
            raise VaultError(f"{where}: under an earlier master key; the next change removes it")
    except ProperError as error:
        return error.message
    return None
