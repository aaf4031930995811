"""Where a person's own history comes from: a regular file or standard input, as checked text.

Tables and JSON lines are read line by line; JSON that is one value is read whole, within a bound.
Nothing is copied to a file. Text is UTF-8, or UTF-16 with its mark; a carriage return alone counts as
a line's end. Anything else is refused with its place. Source: docs/security.md 6.
"""

from __future__ import annotations

import codecs
import errno
import fnmatch
import io
import os
import stat
import sys
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, NamedTuple

from client.history.layouts import LAYOUTS
from proper_model.bundle.limits import MIB
from proper_model.errors import DataError

CHUNK_BYTES = 1 << 18
HEAD_BYTES = 1 << 16  # the form is told by at least so many
MAX_RECORD_CHARS = 4 * MIB
MAX_LINE_BYTES = 4 * MAX_RECORD_CHARS  # no character of UTF-8 takes more than four
MAX_WHOLE_BYTES = 512 * MIB  # of what is read whole; in memory text takes up to four times as much
MAX_ARCHIVE_ENTRIES = 1_000_000
STANDARD_INPUT = "standard input"
TOO_LONG = f"longer than {MAX_RECORD_CHARS} characters"
# What a file begins with that is no text in UTF-8; longer marks first.
_MARKS: tuple[tuple[bytes, str, str], ...] = (
    (b"\xff\xfe\x00\x00", "UTF-32 text", "save it as UTF-8"),
    (b"\x00\x00\xfe\xff", "UTF-32 text", "save it as UTF-8"),
    (b"\x1f\x8b", "compressed by gzip", "unpack it first, or pipe it in: zcat FILE | proper ... -"),
    (b"\x28\xb5\x2f\xfd", "compressed by zstd", "unpack it first"),
    (b"\xfd7zXZ\x00", "compressed by xz", "unpack it first"),
    (b"BZh", "compressed by bzip2", "unpack it first"),
    (b"%PDF", "a PDF document", "give the data that it was made from, as CSV or JSON"),
    (b"SQLite format 3", "a database", "export its table as CSV"),
    (b"PAR1", "a table in Parquet", "export it as CSV or JSON lines"),
    (b"\xd0\xcf\x11\xe0", "an office document of before 2007", "save it as CSV"),
    (b"7z\xbc\xaf", "a 7z archive", "unpack it first"),
    (b"Rar!", "a RAR archive", "unpack it first"),
    (b"\x89PNG", "a picture", "this holds no text"),
    (b"\xff\xd8\xff", "a picture", "this holds no text"),
)
_ZIP = b"PK\x03\x04"
_ARCHIVE_HINT = "unpack it and give the file with your items, or export it as CSV"
_UTF16 = {codecs.BOM_UTF16_LE: "utf-16-le", codecs.BOM_UTF16_BE: "utf-16-be"}
_KINDS: tuple[tuple[Callable[[int], bool], str], ...] = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


class Record(NamedTuple):
    """One record as a form's reader found it.

    Attributes:
        number: counts from 1.
        raw: decoded fields by the task's names; anything else if the record is faulty.
        line: where it begins, from 1; None where lines mean nothing.
        faults: what is wrong with it as text; quotes nothing.
        anonymous: its id says nothing about the item.
    """

    number: int
    raw: Any
    line: int | None = None
    faults: tuple[str, ...] = ()
    anonymous: bool = False


class Source:
    """An open history, whose text can be read once: by `lines` or by `text`.

    Attributes:
        name: fit for messages.
        suffix: of the file's name, in lower case.
        head: the beginning of the text, for telling its form.
    """

    def __init__(self, name: str, suffix: str, file: _File) -> None:
        self.name, self.suffix = name, suffix
        head = file.ahead
        for mark, what, hint in _MARKS:
            if head.startswith(mark):
                raise DataError(f"{name}: {what}, expected text in UTF-8", hint=hint)
        if head.startswith(_ZIP):
            hint = _archive_hint(file.handle)
            raise DataError(f"{name}: a zip archive or an office document", hint=hint)
        self._stream: io.BufferedReader | io.BytesIO = io.BufferedReader(file, CHUNK_BYTES)
        self._begin = len(codecs.BOM_UTF8) if head.startswith(codecs.BOM_UTF8) else 0
        self._stream.read(self._begin)
        head = head[self._begin :]
        if coding := _UTF16.get(head[:2]):
            self._stream = io.BytesIO(self._from_utf16(coding))
            head = self._stream.getvalue()[:HEAD_BYTES]
        if _ends_lines_with_returns(head):
            self._stream = io.BytesIO(self._whole().replace(b"\r", b"\n"))
            head = self._stream.getvalue()[:HEAD_BYTES]
        self.head = self._decoded(head, self._begin, 1, final=False)
        if not self.head.strip():
            raise DataError(f"{name}: the file is empty", hint="an empty history is written as: []")

    def lines(self) -> Iterator[str | None]:
        """Lines with their ends; None in place of one longer than `MAX_RECORD_CHARS`."""
        done, number, beginning = self._begin, 1, True
        while data := self._stream.readline(MAX_LINE_BYTES + 1):
            ends = data.endswith(b"\n")
            if beginning and len(data) <= MAX_LINE_BYTES:
                text = self._decoded(data, done, number)
                yield text if len(text) <= MAX_RECORD_CHARS else None
            else:  # what is left of a line that is too long is read, and not kept
                self._check_no_nul(data, done, number)
                if beginning:
                    yield None
            beginning = ends
            done += len(data)
            number += ends

    def text(self) -> str:
        """All of it. Raises DataError if that is more than `MAX_WHOLE_BYTES`."""
        return self._decoded(self._whole(), self._begin, 1)

    def _whole(self) -> bytearray:
        data = bytearray()
        while chunk := self._stream.read(CHUNK_BYTES):
            data += chunk
            if len(data) > MAX_WHOLE_BYTES:
                raise DataError(
                    f"{self.name}: more than {MAX_WHOLE_BYTES >> 20} MiB in one piece",
                    hint="give the items as JSON lines or CSV, or export a shorter time",
                )
        return data

    def _from_utf16(self, coding: str) -> bytes:
        data = self._whole()
        try:
            text = data[2:].decode(coding)
        except UnicodeDecodeError as error:
            before = data[2 : 2 + error.start].decode(coding, "replace")
            raise self._not("UTF-16", 2 + error.start, 1 + before.count("\n")) from None
        if "\0" in text:
            row = 1 + text.count("\n", 0, text.index("\0"))
            raise DataError(
                f"{self.name}: a NUL character (line {row})",
                hint="the file is damaged; save it as UTF-8",
            )
        return text.encode()

    def _decoded(
        self, data: bytes | bytearray, done: int, number: int, *, final: bool = True
    ) -> str:
        """`data` as text, which begins at byte `done` and in line `number`.

        Without `final` its last character may be cut, and is left out.
        """
        self._check_no_nul(data, done, number)
        try:
            return codecs.utf_8_decode(data, "strict", final)[0]
        except UnicodeDecodeError as error:
            row = number + data.count(b"\n", 0, error.start)
            raise self._not("UTF-8", done + error.start, row) from None

    def _not(self, coding: str, place: int, row: int) -> DataError:
        return DataError(
            f"{self.name}: not {coding} at byte {place} (line {row})",
            hint="save the file as UTF-8; text of another coding cannot be guessed",
        )

    def _check_no_nul(self, data: bytes | bytearray, done: int, number: int) -> None:
        place = data.find(b"\0")
        if place >= 0:
            row = number + data.count(b"\n", 0, place)
            raise DataError(
                f"{self.name}: a NUL character at byte {done + place} (line {row})",
                hint="this is no text, text in UTF-16 without its mark, or damaged; save it as "
                "UTF-8",
            )


class _File(io.RawIOBase):
    """Bytes of an open file, with its beginning looked at; tells how much was read.

    Raises DataError for what the system refuses, and for a file that is not as `before` where it ends.
    """

    def __init__(
        self,
        name: str,
        handle: IO[bytes],
        on_read: Callable[[int, int], None],
        before: os.stat_result | None = None,
    ) -> None:
        self.handle = handle
        self._name, self._on_read, self._before = name, on_read, before
        self._done = 0
        self.ahead = b""
        while len(self.ahead) < HEAD_BYTES or self._begins_blank():
            data = self._read()
            self.ahead += data
            if not data:
                break
            if len(self.ahead) > MAX_RECORD_CHARS and self._begins_blank():
                raise DataError(
                    f"{name}: begins with more than {MAX_RECORD_CHARS} blanks",
                    hint="this is no history; check the file",
                )

    def _begins_blank(self) -> bool:
        return not self.ahead.removeprefix(codecs.BOM_UTF8).strip()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self.ahead or self._read()
        part = data[: len(buffer)]
        self.ahead = data[len(part) :]
        buffer[: len(part)] = part
        return len(part)

    def _read(self) -> bytes:
        with _reasons(self._name):
            data = self.handle.read(CHUNK_BYTES)
            if data is None:  # of a pipe that another program made non-blocking
                raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        self._done += len(data)
        self._on_read(self._done, self._before.st_size if self._before else 0)
        if not data and self._before:
            _check_same(self._name, self.handle, self._before)
        return data


@contextmanager
def open_history(
    path: Path | None, *, on_read: Callable[[int, int], None] = lambda _done, _size: None
) -> Iterator[Source]:
    """Open a file, or standard input for None or `-`.

    `on_read` is called with the bytes read so far and their whole, 0 if that is unknown.

    Raises DataError, here or while the text is read: no such file, no permission, not a regular
    file, changed or removed while it is read, empty, no text, not UTF-8, NUL characters.
    """
    if path is None or str(path) == "-":
        if sys.stdin is None:
            raise DataError(f"{STANDARD_INPUT}: closed", hint="give the name of a file")
        yield Source(STANDARD_INPUT, "", _File(STANDARD_INPUT, sys.stdin.buffer, on_read))
        return
    name = shown_name(path)
    try:
        with _reasons(name):
            handle = _open_regular(path, name)
    except ValueError:
        raise DataError("the path holds a NUL character", hint="check the path") from None
    with handle:
        file = _File(name, handle, on_read, os.fstat(handle.fileno()))
        yield Source(name, path.suffix.lower(), file)


def check_readable(path: Path) -> None:
    """Raise DataError unless there is a regular file; nothing of it is read."""
    name = shown_name(path)
    with _reasons(name):
        _check_regular(path.stat(), name)


def shown_name(path: Path) -> str:
    """The last part of a path, printable, for messages."""
    return "".join(sign if sign.isprintable() else "?" for sign in path.name) or str(path)


@contextmanager
def _reasons(name: str) -> Iterator[None]:
    """Tell what the system refuses as a DataError."""
    try:
        yield
    except FileNotFoundError:
        raise DataError(
            f"{name}: no such file", hint="check the path; - reads standard input"
        ) from None
    except PermissionError:
        raise DataError(f"{name}: no permission to read it", hint="check who owns it") from None
    except OSError as error:
        raise DataError(
            f"{name}: cannot be read ({error.strerror})", hint="check the path and its disk"
        ) from None


def _open_regular(path: Path, name: str) -> IO[bytes]:
    # Checked before it is opened, because opening some devices has an effect, and again after.
    _check_regular(path.stat(), name)
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    try:
        _check_regular(os.fstat(descriptor), name)
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def _check_regular(status: os.stat_result, name: str) -> None:
    if stat.S_ISREG(status.st_mode):
        return
    kind = next((words for test, words in _KINDS if test(status.st_mode)), "something else")
    raise DataError(
        f"{name}: expected a regular file, found {kind}",
        hint="give the name of a file, or - to read standard input",
    )


def _check_same(name: str, handle: IO[bytes], before: os.stat_result) -> None:
    with _reasons(name):
        now = os.fstat(handle.fileno())
    if now.st_nlink == 0 < before.st_nlink:
        raise DataError(
            f"{name}: was removed or replaced while it was read", hint="repeat the command"
        )
    if (now.st_size, now.st_mtime_ns) != (before.st_size, before.st_mtime_ns):
        raise DataError(
            f"{name}: changed while it was read",
            hint="wait until the program that writes it is done, then repeat the command",
        )


def _ends_lines_with_returns(head: bytes) -> bool:
    """Whether the first line ends with a carriage return alone; a line may break inside quotes."""
    place, feed = head.find(b"\r"), head.find(b"\n")
    alone = place >= 0 and (feed < 0 or place < feed - 1)
    return alone and head.count(b'"', 0, place) % 2 == 0


def _archive_hint(handle: IO[bytes]) -> str:
    """Which member of the zip archive at `handle` to unpack; names only files of known exports."""
    try:
        if not handle.seekable():
            return _ARCHIVE_HINT
        with zipfile.ZipFile(handle) as archive:
            names = {name.rpartition("/")[2] for name in archive.namelist()[:MAX_ARCHIVE_ENTRIES]}
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError, RuntimeError):
        return _ARCHIVE_HINT
    found = [
        f"{file} ({layout.name})"
        for layout in LAYOUTS
        for file in layout.files
        if fnmatch.filter(names, file.replace("…", "*"))
    ]
    return f"unpack it and give {' or '.join(found)}" if found else _ARCHIVE_HINT
