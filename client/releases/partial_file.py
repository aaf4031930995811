"""An unfinished download on the disk: what came so far, and how to ask for the rest.

`KEY` holds the bytes; `KEY.json` beside it the server's validator (an ETag or a date), the total
size and the key, without which nothing is continued. The key is a hash of the address, which may
hold a token. Nothing in here is trusted: the caller checks a finished file.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from proper_model.errors import StorageError
from proper_model.storage.documents import parse_object
from proper_model.storage.files import (
    PRIVATE_FILE,
    make_private_folder,
    read_bounded,
    read_regular,
    storage_errors,
    sync_file,
    sync_folder,
    write_atomic,
)

_VALIDATOR = re.compile(r"[\x20-\x7e]{1,256}")
_MAX_NOTE_BYTES = 1024


class PartialFile:
    """One file on its way. Every method raises StorageError if the disk refuses.

    Attributes:
        size: bytes so far.
        total: bytes in all, None if the server did not say.
        validator: '' if the file cannot be continued.
    """

    def __init__(
        self, folder: Path, address: str, name: str, max_bytes: int, *, file: str | None = None
    ) -> None:
        self.name, self.max_bytes = name, max_bytes
        self._key = hashlib.sha256(address.encode()).hexdigest()[:32]
        self._path = folder / (file or self._key)
        self._note = self._path.with_name(self._path.name + ".json")
        self.size = 0
        self.total: int | None = None
        self.validator = ""
        with self._storage():
            make_private_folder(folder)
            self._recall()

    @property
    def is_full(self) -> bool:
        """More came than was asked for; the caller refuses the file."""
        return self.size > self.max_bytes

    def restart(self, validator: str, total: int | None) -> None:
        """Begin again with the server's present file."""
        self.discard()
        usable = _VALIDATOR.fullmatch(validator) is not None
        self.validator, self.total = (validator if usable else ""), total
        with self._storage():
            note = json.dumps({"key": self._key, "validator": self.validator, "total": total})
            write_atomic(self._note, note.encode())

    def add(self, data: bytes) -> None:
        """Append, up to one byte more than was asked for."""
        data = data[: self.max_bytes + 1 - self.size]
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
        with self._storage(), open(os.open(self._path, flags, PRIVATE_FILE), "wb") as file:  # noqa: PTH123 - by descriptor
            file.write(data)
        self.size += len(data)

    def read(self) -> bytes:
        """The finished file, which stays here until it is stored or discarded."""
        with self._storage():
            return read_bounded(self._path, self.max_bytes) if self.size else b""

    def store(self, target: Path) -> bool:
        """Move the finished file there, so that the disk never holds its bytes twice.

        False, and nothing is changed, if the disk is another one or there is no byte to move.
        """
        if not self.size:
            return False
        with self._storage():
            make_private_folder(target.parent)
            sync_file(self._path)
            try:
                self._path.replace(target)
            except OSError as error:
                if error.errno != errno.EXDEV:
                    raise
                return False
            sync_folder(target.parent)
        self.discard()
        return True

    def settle(self) -> Path:
        """The finished file's path; it is the caller's now, and forgotten here."""
        with self._storage():
            if not self.size:
                write_atomic(self._path, b"")
            self._note.unlink(missing_ok=True)
        return self._path

    def discard(self) -> None:
        """Forget what came."""
        with self._storage():
            self._path.unlink(missing_ok=True)
            self._note.unlink(missing_ok=True)
        self.size, self.total, self.validator = 0, None, ""

    def _recall(self) -> None:
        """Go on from an earlier attempt, if it can be told what it is a part of."""
        try:
            note = parse_object(read_regular(self._note, limit_bytes=_MAX_NOTE_BYTES))
            validator, total = note["validator"], note["total"]
            size = self._path.lstat().st_size
            whole = note["key"] == self._key and size <= self.max_bytes
            usable = whole and _VALIDATOR.fullmatch(validator) is not None
        except (OSError, ValueError, TypeError, KeyError):
            usable = False
        if usable and (total is None or (type(total) is int and total >= size)):
            self.size, self.total, self.validator = size, total, validator
        else:
            self.discard()

    @contextmanager
    def _storage(self) -> Iterator[None]:
        try:
            with storage_errors(self._path.parent):
                yield
        except StorageError as error:
            cause = error.__cause__
            if isinstance(cause, OSError) and cause.errno in (errno.ENOSPC, errno.EDQUOT):
                left = self.max_bytes - self.size
                raise StorageError(
                    f"{self.name}: {os.strerror(cause.errno)}; the download needs {left} bytes more",
                    hint="make room, then repeat the command: it goes on where this one ended",
                ) from None
            raise
