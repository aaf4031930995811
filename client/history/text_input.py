"""Where a person's own history comes from: a regular file or standard input, as checked text.

Bytes are read in chunks, decoded and handed on; nothing is copied to a file. Text is UTF-8, or UTF-16
with its mark; lines that end with a carriage return alone end with a line feed afterwards. What is
no such text is refused with the place where that shows. Source: docs/security.md 6.
"""

from __future__ import annotations

import codecs
import errno
import os
import stat
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, NamedTuple

from client.history.archive import archive_hint
from proper_model.bundle.limits import MIB
from proper_model.errors import DataError

CHUNK_BYTES = 1 << 18
MAX_RECORD_CHARS = 4 * MIB
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
# Coding by the mark that a file begins with.
_CODINGS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_CODING_NAMES = {"utf-8": "UTF-8", "utf-16-le": "UTF-16", "utf-16-be": "UTF-16"}
_KINDS: tuple[tuple[Callable[[int], bool], str], ...] = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


class Record(NamedTuple):
    """One record as a format's reader found it.

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


@dataclass(frozen=True)
class Source:
    """An open history. `name` is fit for messages; `chunks` is its text and can be read once."""

    name: str
    suffix: str
    size_bytes: int
    chunks: Iterator[str]


@contextmanager
def open_history(
    path: Path | None, *, on_read: Callable[[int, int], None] | None = None
) -> Iterator[Source]:
    """Open a file, or standard input for None or `-`.

    `on_read` is called with the bytes read so far and their whole, 0 if that is unknown.

    Raises DataError, here or while `chunks` is read: no such file, no permission, not a regular
    file, changed or removed while it is read, no text, not UTF-8, NUL characters.
    """
    if path is None or str(path) == "-":
        if sys.stdin is None:
            raise DataError(f"{STANDARD_INPUT}: closed", hint="give the name of a file")
        handle: IO[bytes] = sys.stdin.buffer
        yield Source(STANDARD_INPUT, "", 0, _text(STANDARD_INPUT, handle, 0, on_read))
        return
    name = shown_name(path)
    try:
        with _reasons(name):
            handle = _open_regular(path, name)
    except ValueError:
        raise DataError("the path holds a NUL character", hint="check the path") from None
    with handle:
        before = os.fstat(handle.fileno())
        chunks = _text(
            name, handle, before.st_size, on_read, lambda: _check_same(name, handle, before)
        )
        yield Source(name, path.suffix.lower(), before.st_size, chunks)


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
    # Looked at before it is opened, because opening some devices does something, and again after.
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


def _text(
    name: str,
    handle: IO[bytes],
    size: int,
    on_read: Callable[[int, int], None] | None,
    at_end: Callable[[], None] = lambda: None,
) -> Iterator[str]:
    """Decoded chunks without a byte order mark, their lines ending with a line feed."""
    return _line_feeds(_decoded(name, handle, size, on_read, at_end))


def _decoded(
    name: str,
    handle: IO[bytes],
    size: int,
    on_read: Callable[[int, int], None] | None,
    at_end: Callable[[], None],
) -> Iterator[str]:
    decoder: codecs.IncrementalDecoder | None = None
    coding = "utf-8"
    done, line = 0, 1
    while True:
        with _reasons(name):
            data = handle.read(CHUNK_BYTES)
            if data is None:  # of a pipe that another program made non-blocking
                raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        start = 0
        if decoder is None:
            coding, start = _coding(name, data, handle)
            decoder = codecs.getincrementaldecoder(coding)()
        if coding == "utf-8":
            _check_no_nul(name, data, done, line)
        pending = len(decoder.getstate()[0])
        try:
            text = decoder.decode(data[start:], final=not data)
        except UnicodeDecodeError as error:
            offset = done + start - pending + error.start
            row = line + error.object[: error.start].decode(coding, "replace").count("\n")
            raise DataError(
                f"{name}: not {_CODING_NAMES[coding]} at byte {offset} (line {row})",
                hint="save the file as UTF-8; text of another coding cannot be guessed",
            ) from None
        if "\0" in text:
            row = line + text[: text.index("\0")].count("\n")
            raise DataError(
                f"{name}: a NUL character (line {row})",
                hint="the file is damaged; save it as UTF-8",
            )
        done += len(data)
        line += text.count("\n")
        if on_read is not None:
            on_read(done, size)
        if not data:
            if text:
                yield text
            at_end()
            return
        yield text


def _line_feeds(chunks: Iterator[str]) -> Iterator[str]:
    """Text as it is, or with a line feed for every carriage return where its first line ends so."""
    held, returns, quotes = "", None, 0
    for chunk in chunks:
        text = held + chunk
        held = ""
        if returns is None:
            place = text.find("\r")
            feed = text.find("\n")
            if place >= 0 and (feed < 0 or place < feed) and place == len(text) - 1:
                held = text  # what follows decides
                continue
            if place >= 0 or feed >= 0:
                alone = place >= 0 and (feed < 0 or place < feed - 1)
                returns = alone and (quotes + text.count('"', 0, place)) % 2 == 0
            quotes += text.count('"')  # a line may break inside them
        yield text.replace("\r", "\n") if returns else text
    if held:
        yield held


def _coding(name: str, data: bytes, handle: IO[bytes]) -> tuple[str, int]:
    """The coding of text, and the length of its mark; refuses other kinds of file."""
    for mark, what, hint in _MARKS:
        if data.startswith(mark):
            raise DataError(f"{name}: {what}, expected text in UTF-8", hint=hint)
    if data.startswith(_ZIP):
        raise DataError(f"{name}: a zip archive or an office document", hint=archive_hint(handle))
    for mark, coding in _CODINGS:
        if data.startswith(mark):
            return coding, len(mark)
    return "utf-8", 0


def _check_no_nul(name: str, data: bytes, done: int, line: int) -> None:
    place = data.find(b"\0")
    if place < 0:
        return
    row = line + data.count(b"\n", 0, place)
    raise DataError(
        f"{name}: a NUL character at byte {done + place} (line {row})",
        hint="this is no text, text in UTF-16 without its mark, or damaged; save it as UTF-8",
    )


def iter_lines(chunks: Iterator[str]) -> Iterator[str | None]:
    """Lines with their ends; None in place of one longer than `MAX_RECORD_CHARS`."""
    parts: list[str] = []
    length = 0
    for chunk in chunks:
        start = 0
        while start < len(chunk):
            end = chunk.find("\n", start) + 1
            piece = chunk[start : end or len(chunk)]
            start += len(piece)
            length += len(piece)
            if length <= MAX_RECORD_CHARS:
                parts.append(piece)
            else:
                parts.clear()  # the rest of the line is read, and not kept
            if end:
                yield "".join(parts) if parts else None
                parts.clear()
                length = 0
    if length:
        yield "".join(parts) if parts else None
