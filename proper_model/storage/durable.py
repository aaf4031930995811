"""What releases and keys need beyond `files`: new names, whole folders, one writer at a time.

Source: docs/security.md 3 ("Save") and 6. The order is always: content synced, then the name, then
the folder that holds the name.
"""

from __future__ import annotations

import errno
import math
import os
import secrets
import shutil
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from proper_model.storage.files import (
    PRIVATE_FILE,
    Buffer,
    make_private_folder,
    sync_folder,
    write_atomic,
    write_synced,
)

_POLL_S = 0.05
_ASKED, _ASK_PAUSE_S = 4, 0.001
_DESCRIPTORS = Path("/proc/self/fd")


def write_file(path: Path, data: bytes) -> None:
    """`write_atomic` that also makes the folders above.

    Raises OSError: the old file is intact.
    """
    make_private_folder(path.parent)
    write_atomic(path, data)


def create_file(path: Path, data: Buffer | Iterable[Buffer]) -> None:
    """Create a private file that must not exist yet; it appears whole, also if `data` is in parts.

    Killed meanwhile nothing is left where the system has files without a name (Linux).

    Raises FileExistsError: something of that name is there; it is untouched.
    """
    make_private_folder(path.parent)
    descriptor = _unnamed(path.parent)
    if descriptor is not None:
        _fill_and_name(descriptor, path, data)
        sync_folder(path.parent)
        return
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(6)}.new")
    try:
        write_atomic(temporary, data)
        # link, unlike rename, fails when the name is taken: no check that could be overtaken.
        os.link(temporary, path, follow_symlinks=False)
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(path.parent)


def _unnamed(folder: Path) -> int | None:
    """A new file in the folder that has no name yet, None where that is not possible."""
    flag = getattr(os, "O_TMPFILE", None)
    if flag is None or not _DESCRIPTORS.is_dir():
        return None
    try:
        return os.open(folder, flag | os.O_WRONLY | os.O_CLOEXEC, PRIVATE_FILE)
    except OSError as error:
        # Old kernels see a folder opened for writing, file systems without it an unknown operation.
        if error.errno in (errno.EISDIR, errno.EOPNOTSUPP, errno.EINVAL, errno.ENOENT):
            return None
        raise


def _fill_and_name(descriptor: int, path: Path, data: Buffer | Iterable[Buffer]) -> None:
    try:
        with os.fdopen(descriptor, "wb") as handle:
            write_synced(handle, data)
            # With a folder's descriptor, as only `linkat` follows the link to the open file.
            folder = os.open(_DESCRIPTORS, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                os.link(str(descriptor), path, src_dir_fd=folder, follow_symlinks=True)
            finally:
                os.close(folder)
    except OSError as error:
        error.filename, error.filename2 = str(path), None
        raise


def move_folder(source: Path, target: Path) -> None:
    """Give a finished folder, whose files have been synced, its name.

    Raises OSError: the target exists and is not empty.
    """
    for folder, _, _ in os.walk(source):
        sync_folder(Path(folder))
    source.rename(target)
    sync_folder(target.parent)


def remove_folder(path: Path) -> None:
    """Delete a folder tree or file if it is there; a link is removed, not followed."""
    if path.is_symlink() or path.is_file():
        path.unlink()
    elif path.exists():
        shutil.rmtree(path)


@contextmanager
def locked(path: Path, *, timeout_s: float) -> Iterator[None]:
    """Hold an exclusive lock that the system releases when this process ends, however it ends.

    Raises TimeoutError: another process, or thread of this one, held it for `timeout_s`;
    RuntimeError: this thread holds it, and `timeout_s` is infinite.
    """
    from filelock import FileLock, Timeout  # late: `proper path` needs no lock

    # Kept, a lock is never a file whose existence counts: nobody would remove a killed holder's.
    lock = FileLock(path, mode=PRIVATE_FILE, thread_local=False, preserve_lock_file=True)
    try:
        lock.acquire(-1 if math.isinf(timeout_s) else timeout_s, _POLL_S)
    except Timeout:
        raise TimeoutError(f"{path.name} is locked by another process") from None
    try:
        yield
    finally:
        lock.release()


def is_locked(path: Path) -> bool:
    """Whether a process holds this lock now; also on a disk that cannot be written."""
    from filelock import lock_descriptor

    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:
        return False
    try:
        # Who asks holds it for a moment as well, so one refusal is not yet a holder.
        for _ in range(_ASKED):
            if lock_descriptor(handle, blocking=False):
                return False
            time.sleep(_ASK_PAUSE_S)
        return True
    except OSError:  # a file system without locks, on which no process holds one
        return False
    finally:
        os.close(handle)
