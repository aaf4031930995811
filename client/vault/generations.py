"""The vault's folder: `<generation>.vault` files, of which the newest two are kept.

Nothing here knows a key. Source: docs/security.md 3 (save; keep the previous generation).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from client.vault.private_files import read_private, save_private
from client.vault.sealing import MAX_FILE_BYTES, MAX_GENERATION
from proper_model.errors import VaultError
from proper_model.storage.files import storage_errors, sync_folder

_NAME = re.compile(r"([0-9]{8,16})\.vault")
# What a killed `write_atomic` leaves behind.
_LEFTOVER = re.compile(r"\.(keys\.json|[0-9]{8,16}\.vault|training-.+)\.[0-9a-f]{12}\.tmp")


def generation_name(generation: int) -> str:
    """The file name of a generation: at least eight digits."""
    return f"{generation:08d}.vault"


def list_generations(folder: Path) -> list[int]:
    """Numbers of the generation files there, newest first. Raises StorageError."""
    with storage_errors(folder):
        names = {path.name for path in folder.iterdir()}
    numbers = [int(match[1]) for match in map(_NAME.fullmatch, names) if match]
    valid = (n for n in numbers if 1 <= n <= MAX_GENERATION and generation_name(n) in names)
    return sorted(valid, reverse=True)


def read_generation(folder: Path, generation: int) -> bytes:
    """The bytes of a generation file. Raises StorageError."""
    return read_private(folder / generation_name(generation), limit_bytes=MAX_FILE_BYTES)


def save_generation(folder: Path, generation: int, data: bytes) -> None:
    """Write a generation that must not exist yet. Raises StorageError, VaultError."""
    path = folder / generation_name(generation)
    if generation > MAX_GENERATION or path.is_symlink() or path.exists():
        raise VaultError(
            f"{path.name}: expected no such file yet",
            hint="another program put a file into the vault's folder; remove it",
        )
    save_private(path, data)


def remove_generations(folder: Path, generations: Iterable[int]) -> None:
    """Delete these generation files. Raises StorageError."""
    with storage_errors(folder):
        for generation in generations:
            (folder / generation_name(generation)).unlink(missing_ok=True)
        sync_folder(folder)


def list_leftovers(folder: Path) -> list[Path]:
    """What a killed save has left behind, or what one is writing now. Raises StorageError."""
    with storage_errors(folder):
        return sorted(path for path in folder.iterdir() if _LEFTOVER.fullmatch(path.name))


def remove_leftovers(folder: Path) -> None:
    """Delete what a killed save has left behind; nobody else may be writing. Raises StorageError."""
    with storage_errors(folder):
        for path in list_leftovers(folder):
            path.unlink(missing_ok=True)
