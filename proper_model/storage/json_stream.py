"""Read a JSON array of records one at a time, in bounded memory: LaMP's files reach gigabytes.

The standard decoder parses a record as soon as the buffer holds all of it; when it does not, the
buffer is doubled and parsing starts again, so that the total work stays proportional to the file.
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, NoReturn

from proper_model.errors import DataError
from proper_model.storage.documents import DocumentError, parse_object, refuse_constant
from proper_model.storage.files import read_followed

CHUNK_BYTES = 1 << 18
MAX_RECORD_CHARS = 1 << 28
MAX_OBJECT_BYTES = 1 << 30
_BEFORE_MORE_DIGITS = frozenset(("", ".", "e", "E", "e+", "e-", "E+", "E-"))
# A parse error this close to the end of the buffer may be a literal or an escape cut in two.
_TAIL = 16
_WHITESPACE = re.compile(r"[ \t\r\n]*")
_DECODER = json.JSONDecoder(parse_constant=refuse_constant)


class TextBuffer:
    """Text that arrives in chunks; everything before `position` has been used."""

    def __init__(self, name: str, chunks: Iterator[str]) -> None:
        self.name = name
        self.text = ""
        self.position = 0
        self.ended = False
        self._chunks = chunks

    @property
    def ahead(self) -> int:
        """Characters not used yet."""
        return len(self.text) - self.position

    def fill(self, wanted_chars: int) -> None:
        """Drop what was used and read until `wanted_chars` are ahead or the text ends."""
        parts = [self.text[self.position :]]
        ahead = self.ahead
        while ahead < wanted_chars and not self.ended:
            text = next(self._chunks, None)
            self.ended = text is None
            parts.append(text or "")
            ahead += len(parts[-1])
        self.text = "".join(parts)
        self.position = 0

    def next_character(self) -> str:
        """Skip whitespace; the next character without using it, '' at the end of the text."""
        while True:
            match = _WHITESPACE.match(self.text, self.position)
            self.position = match.end() if match else self.position
            if self.ahead or self.ended:
                return self.text[self.position : self.position + 1]
            self.fill(1)


def _decoded(
    path: Path, chunk_bytes: int, on_read: Callable[[int], None] | None
) -> Generator[str, None, None]:
    """The text of a file in chunks, without a byte order mark."""
    decode = codecs.getincrementaldecoder("utf-8-sig")()
    read_bytes = 0
    with path.open("rb") as handle:
        while True:
            data = handle.read(chunk_bytes)
            try:
                text = decode.decode(data, final=not data)
            except UnicodeDecodeError as error:
                raise DataError(
                    f"{path.name}: not UTF-8 near byte {read_bytes + error.start}",
                    hint="convert the file to UTF-8",
                ) from None
            read_bytes += len(data)
            if on_read is not None:
                on_read(read_bytes)
            yield text
            if not data:
                return


def iter_array(
    path: Path, *, chunk_bytes: int = CHUNK_BYTES, on_read: Callable[[int], None] | None = None
) -> Iterator[Any]:
    """Yield the elements of the JSON array in `path`, holding one element at a time.

    `on_read` is called with the bytes read so far whenever more are read.

    Raises DataError with file name and record index if the file is missing, empty, not UTF-8, not
    an array, malformed, truncated, followed by something else, or holds a record longer than
    `MAX_RECORD_CHARS`.
    """
    with closing(_decoded(path, chunk_bytes, on_read)) as chunks:
        try:
            yield from _elements(TextBuffer(path.name, chunks))
        except OSError as error:
            raise DataError(f"{path.name}: cannot be read ({error.strerror})") from error


def _elements(buffer: TextBuffer) -> Iterator[Any]:
    name = buffer.name
    first = buffer.next_character()
    if not first:
        raise DataError(f"{name}: the file is empty", hint="expected a JSON array of records")
    if first != "[":
        html = "this looks like an HTML page; fetch the file again"
        hint = html if first == "<" else "expected '[' at the start"
        raise DataError(f"{name}: not a JSON array", hint=hint)
    buffer.position += 1
    record = 0
    more = buffer.next_character() != "]"
    while more:
        buffer.next_character()
        yield _decode_value(buffer, record)
        record += 1
        separator = buffer.next_character()
        if separator not in ("]", ","):
            _fail(buffer, record, "expected ',' or ']' before it")
        more = separator == ","
        buffer.position += more
    buffer.position += 1
    if buffer.next_character():
        raise DataError(f"{name}: something follows the end of the JSON array")


def _decode_value(buffer: TextBuffer, record: int) -> Any:
    """Parse the JSON value at the buffer's position and move past it. Raises DataError."""
    while True:
        start = buffer.position
        try:
            value, end = _DECODER.raw_decode(buffer.text, start)
        except DocumentError as error:
            _fail(buffer, record, str(error))
        except json.JSONDecodeError as error:
            if buffer.ended or not _may_be_cut(error, len(buffer.text)):
                _fail(buffer, record, f"{error.msg} at its character {error.pos - start}")
        except RecursionError:
            _fail(buffer, record, "nested too deeply")
        except ValueError:  # Python's own limit, against quadratic time
            _fail(buffer, record, "a number has too many digits")
        else:
            # A number at the end of the buffer may go on in the next chunk: "4" and "4." are read as 4.
            cut = buffer.text[end : end + 3] in _BEFORE_MORE_DIGITS and not buffer.ended
            if not cut and end - start <= MAX_RECORD_CHARS:
                buffer.position = end
                return value
        if buffer.ahead > MAX_RECORD_CHARS:
            _fail(buffer, record, f"longer than {MAX_RECORD_CHARS} characters")
        buffer.fill(2 * max(buffer.ahead, 1))


def _may_be_cut(error: json.JSONDecodeError, length: int) -> bool:
    """True if more text could repair the error.

    A cut string is reported at its opening quote, which may lie far from the end of the buffer.
    """
    return error.msg.startswith("Unterminated string") or error.pos + _TAIL >= length


def _fail(buffer: TextBuffer, record: int, what: str) -> NoReturn:
    if buffer.ended:
        what = f"{what}; the file may be truncated"
    raise DataError(
        f"{buffer.name}, record {record}: malformed JSON, {what}",
        hint="fetch or write the file again",
    )


def read_object(path: Path) -> dict[str, Any]:
    """Parse a file that holds one JSON object, such as LaMP's golds.

    Raises DataError if it is missing, too large, not UTF-8, malformed or not an object.
    """
    try:
        data = read_followed(path, limit_bytes=MAX_OBJECT_BYTES)
        return parse_object(data.removeprefix(codecs.BOM_UTF8), surrogates=True)
    except OSError as error:
        raise DataError(f"{path.name}: cannot be read ({error.strerror})") from error
    except DocumentError as error:
        raise DataError(
            f"{path.name}: {error}", hint="expected one JSON object; fetch the file again"
        ) from None
