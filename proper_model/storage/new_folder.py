"""A folder of files that appears whole or not at all.

It is written beside its place, synced and renamed. What a killed process leaves, a hidden folder
`.NAME.*.tmp` beside the place, is removed by the next one that writes there. Files are 0600 and folders
0700.
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import lock_descriptor

from proper_model.errors import StorageError
from proper_model.storage.durable import move_folder, remove_folder
from proper_model.storage.files import PRIVATE_FILE, PRIVATE_FOLDER, storage_errors, sync_file

_AS_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def is_taken(out: Path) -> bool:
    """Whether there is something but an empty folder. Raises OSError."""
    return out.is_symlink() or (
        out.exists() and (not out.is_dir() or any(True for _ in out.iterdir()))
    )


def check_new(out: Path) -> None:
    """Raise StorageError if there is something in the place of a folder that is to be made."""
    with storage_errors(out):
        taken = is_taken(out)
    if taken:
        raise StorageError(
            f"{out}: there is something else already, expected a new or an empty folder",
            hint="name another folder with --out, or remove this one first",
        )


def check_room(folder: Path, needed_bytes: int, what: str) -> None:
    """Raise StorageError unless the disk of `folder`, or of where it will be, has so many bytes free."""
    with storage_errors(folder):
        place = folder.absolute()
        while not place.exists():
            place = place.parent
        free = shutil.disk_usage(place).free
    if free < needed_bytes:
        raise StorageError(
            f"{folder}: {what} needs {needed_bytes:,} bytes there, and {free:,} are free",
            hint="make room on that disk, or name a place on another one",
        )


@contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """A private folder to fill, which becomes `out` at the end, or vanishes on any error."""
    target = Path(os.path.abspath(out))  # noqa: PTH100 - a link as the last part stays one
    with storage_errors(out):
        _remove_abandoned(target)
        building, lock = _begun(target)
        try:
            yield building
            for path in building.rglob("*"):
                _settle(path)
            move_folder(building, target)
        except BaseException:
            remove_folder(building)
            raise
        finally:
            os.close(lock)


def _begun(target: Path) -> tuple[Path, int]:
    """A new folder beside `target`, and the open file that keeps others from removing it."""
    while True:
        building = target.with_name(f".{target.name}.{secrets.token_hex(6)}.tmp")
        building.mkdir(mode=PRIVATE_FOLDER)
        # Before it is locked, somebody else may take it for an abandoned one.
        try:
            lock = os.open(building, _AS_FOLDER)
        except FileNotFoundError:
            continue
        with suppress(OSError):  # some network disks lock no folders, and none is removed there
            lock_descriptor(lock)
        if building.is_dir():
            return building, lock
        os.close(lock)


def _remove_abandoned(target: Path) -> None:
    """Remove what killed processes left beside `target`: folders of ours that nobody has locked."""
    found: list[Path] = []
    begun = re.compile(rf"\.{re.escape(target.name)}\.[0-9a-f]{{12}}\.tmp")
    with suppress(OSError):  # a folder may be written that cannot be listed
        found = [path for path in target.parent.iterdir() if begun.fullmatch(path.name)]
    for path in found:
        with suppress(OSError):  # no folder, or not ours, or being written, or gone meanwhile
            lock = os.open(path, _AS_FOLDER)
            try:
                free = lock_descriptor(lock, blocking=False)
                if free and os.fstat(lock).st_uid == os.geteuid():
                    remove_folder(path)
            finally:
                os.close(lock)


def _settle(path: Path) -> None:
    """Close what a library wrote to everybody else, and flush it."""
    mode = PRIVATE_FOLDER if path.is_dir() else PRIVATE_FILE
    if stat.S_IMODE(path.stat().st_mode) & ~mode:
        path.chmod(mode)
    sync_file(path)
