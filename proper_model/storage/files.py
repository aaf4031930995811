"""Files that are always either old or new, never half, and never readable by other users.

A write goes to a temporary file in the same folder, is flushed to the disk, renamed over the old
file, and the folder entry is flushed as well; a reader or a crash at any moment finds one of the
two complete versions.
"""

from __future__ import annotations

import errno
import io
import os
import secrets
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from proper_model.errors import ConfigError, StorageError

Buffer = bytes | bytearray | memoryview

PRIVATE_FILE = 0o600
PRIVATE_FOLDER = 0o700
_PIECE_BYTES = 16 << 20
_OTHERS = stat.S_IRWXG | stat.S_IRWXO


@contextmanager
def storage_errors(place: Path) -> Iterator[None]:
    """Raise what the system refuses about files as a StorageError with the path and the reason.

    `place` is named where the system names no file. Errors of a connection stay what they are.
    """
    try:
        yield
    except (ConnectionError, TimeoutError):
        raise
    except OSError as error:
        if error.errno is None:  # a library's own, whose text may hold anything
            raise
        path = error.filename2 or error.filename or place
        path = os.fsdecode(path) if isinstance(path, bytes | str | os.PathLike) else place
        raise StorageError(
            f"{path}: {os.strerror(error.errno)}; expected to write or read there",
            hint=_STORAGE_HINTS.get(error.errno, "check the path and its permissions"),
        ) from error


_STORAGE_HINTS = {
    errno.ENOSPC: "make room on that disk, then repeat the command (a run: with --resume)",
    errno.EDQUOT: "make room in that quota, then repeat the command (a run: with --resume)",
    errno.EFBIG: "no larger file may be written there (ulimit -f, or its file system); allow more, or name "
    "another place",
    errno.EROFS: "that disk can only be read; name another place",
    errno.EISDIR: "this is a folder; give the name of a file",
    errno.ENOTDIR: "a part of this path is a file; give a path below folders",
    errno.EEXIST: "something of that name is there already; give another name, or move it away",
}


def expanded(given: str | Path) -> Path:
    """A path as a person gave it, `~` and `~NAME` as home folders.

    Raises ConfigError where there is no such user, or this one has no home folder.
    """
    try:
        return Path(given).expanduser()
    except RuntimeError:
        raise ConfigError(
            f"{given}: no home folder is known of that user",
            hint="write the whole path; a name that begins with ~ is written ./~",
        ) from None


def make_private_folder(path: Path) -> Path:
    """Create `path` and its missing parents with mode 0700, each one's name flushed, and return it.

    Raises OSError if something other than a real folder is in the way.
    """
    missing = []
    folder = path
    while not folder.exists() and not folder.is_symlink():
        missing.append(folder)
        folder = folder.parent
    for folder in reversed(missing):
        folder.mkdir(mode=PRIVATE_FOLDER, exist_ok=True)
        with suppress(PermissionError):  # a folder one may write to but not list
            sync_folder(folder.parent)
    if path.is_symlink() or not path.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, "expected a folder, not a link or a file", path)
    return path


def write_atomic(path: Path, data: Buffer | Iterable[Buffer]) -> None:
    """Replace the file `path` by `data` with mode 0600; an existing link is replaced, not followed.

    `data` may come in parts, so that a large file need not be in memory as a whole.

    Raises OSError naming `path`, for example when the disk is full; the old file is intact then and
    no temporary file is left behind.
    """
    try:
        _replace(path, data)
    except OSError as error:
        # The system knows only the temporary file, or none.
        error.filename, error.filename2 = str(path), None
        raise


def _replace(path: Path, data: Buffer | Iterable[Buffer]) -> None:
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(6)}.tmp")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(temporary, flags, PRIVATE_FILE)
    try:
        with os.fdopen(descriptor, "wb") as handle:
            write_synced(handle, data)
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def write_synced(handle: BinaryIO, data: Buffer | Iterable[Buffer]) -> None:
    """Write data, or parts of it, to an open file and flush it to the disk."""
    handle.writelines((data,) if isinstance(data, Buffer) else data)
    handle.flush()
    os.fsync(handle.fileno())


def save_private(path: Path, data: bytes) -> None:
    """Replace a file by `data`, whole or not at all, 0600 from creation.

    Raises StorageError with the system's reason and the bytes needed.
    """
    try:
        with storage_errors(path):
            write_atomic(path, data)
    except StorageError as error:
        raise StorageError(
            f"{error.message}; {len(data)} bytes are needed; the old or the new one is there, whole",
            hint=error.hint,
        ) from error.__cause__


def sync_folder(folder: Path) -> None:
    """Flush a folder's entries, so that a rename survives a power cut."""
    _sync(folder, os.O_DIRECTORY)


def sync_file(path: Path) -> None:
    """Flush what another writer put into a file; a link is not followed."""
    _sync(path, os.O_NOFOLLOW)


def _sync(path: Path, flag: int) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | flag)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_bounded(path: Path, max_bytes: int) -> bytes:
    """Bytes of a regular file, at most `max_bytes + 1` of them, so that a caller sees the excess.

    Raises FileNotFoundError, or OSError for a link, a pipe or another thing that is no regular file.
    """
    with _opened(path, os.O_NOFOLLOW) as handle:
        return _up_to(handle, max_bytes + 1)


def read_regular(path: Path, *, limit_bytes: int) -> bytes:
    """The whole of a regular file, refusing what `read_bounded` does and more than `limit_bytes`."""
    return _within(read_bounded(path, limit_bytes), limit_bytes, path)


def open_regular(path: Path) -> io.FileIO:
    """A file for reading, links followed, as hub caches consist of them.

    Raises OSError if it is not there, or no regular file: a pipe would block for ever.
    """
    return _opened(path, 0)


def read_followed(path: Path, *, limit_bytes: int) -> bytes:
    """The whole of a file that may be a link to a regular one. Raises OSError, also if larger."""
    with open_regular(path) as handle:
        return _within(_up_to(handle, limit_bytes + 1), limit_bytes, path)


def read_private(path: Path, *, limit_bytes: int) -> bytes:
    """A regular file that only its owner may use; at most `limit_bytes` + 1, to show the excess.

    Raises StorageError for anything else; its cause is the system's error where there was one.
    """
    with storage_errors(path):
        try:
            handle = _opened(path, os.O_NOFOLLOW)
        except OSError as error:
            if error.errno == errno.EINVAL:
                raise StorageError(f"{path.name}: expected a regular file") from None
            if error.errno != errno.ELOOP:
                raise
            raise StorageError(
                f"{path.name}: a symbolic link, which is not followed; expected a regular file",
                hint="remove the link, or put the file itself there",
            ) from error
        with handle:
            if os.fstat(handle.fileno()).st_mode & _OTHERS:
                raise StorageError(
                    f"{path.name}: other users may read or write this file",
                    hint=f"close it with: chmod 600 {path}",
                )
            return _up_to(handle, limit_bytes + 1)


def _opened(path: Path, flag: int) -> io.FileIO:
    """A regular file for reading. Raises OSError, with EINVAL for anything else."""
    # Without O_NONBLOCK a named pipe planted here would block the open for ever.
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | flag)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "expected a regular file", path)
    # Made only now: of a folder `FileIO` makes no file object, and closes nothing either.
    return io.FileIO(descriptor)


def _up_to(handle: io.FileIO, most: int) -> bytes:
    """At most so many bytes, in pieces: asked for all at once, Python sets aside the limit."""
    parts = []
    while most and (part := handle.read(min(most, _PIECE_BYTES))):
        parts.append(part)
        most -= len(part)
    return b"".join(parts)


def _within(data: bytes, limit_bytes: int, path: Path) -> bytes:
    if len(data) > limit_bytes:
        raise OSError(errno.EFBIG, f"larger than {limit_bytes} bytes", path)
    return data
