"""Read a JSON array of records one at a time, in bounded memory (METHOD 2.1: files reach gigabytes).

The standard decoder parses a record as soon as the buffer holds all of it; when it does not, the
buffer is doubled and parsing starts again, so that the total work stays proportional to the file.
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

from proper_model.errors import DataError

CHUNK_BYTES = 1 << 18
MAX_RECORD_CHARS = 1 << 28
# A parse error this close to the end of the buffer may be a literal or an escape cut in two.
_TAIL = 16
_WHITESPACE = re.compile(r"[ \t\r\n]*")


class _ConstantError(ValueError):
    """NaN or Infinity, which JSON does not have and Python's decoder would accept."""


def _refuse_constant(_name: str) -> NoReturn:
    raise _ConstantError


_DECODER = json.JSONDecoder(parse_constant=_refuse_constant)


class _Buffer:
    """Decoded text of a file; everything before `position` has been used."""

    def __init__(
        self, path: Path, chunk_bytes: int, on_read: Callable[[int], None] | None = None
    ) -> None:
        self.path = path
        self.text = ""
        self.position = 0
        self.ended = False
        self._chunk_bytes = chunk_bytes
        self._decode = codecs.getincrementaldecoder("utf-8-sig")()
        self._handle = path.open("rb")
        self._read_bytes = 0
        self._on_read = on_read

    @property
    def ahead(self) -> int:
        """Characters not used yet."""
        return len(self.text) - self.position

    def close(self) -> None:
        self._handle.close()

    def fill(self, wanted_chars: int) -> None:
        """Drop what was used and read until `wanted_chars` are ahead or the file ends."""
        parts = [self.text[self.position :]]
        ahead = self.ahead
        while ahead < wanted_chars and not self.ended:
            data = self._handle.read(self._chunk_bytes)
            self.ended = not data
            try:
                text = self._decode.decode(data, final=self.ended)
            except UnicodeDecodeError as error:
                raise DataError(
                    f"{self.path.name}: not UTF-8 near byte {self._read_bytes + error.start}",
                    hint="convert the file to UTF-8",
                ) from None
            self._read_bytes += len(data)
            if self._on_read is not None:
                self._on_read(self._read_bytes)
            parts.append(text)
            ahead += len(text)
        self.text = "".join(parts)
        self.position = 0

    def next_character(self) -> str:
        """Skip whitespace; the next character without using it, '' at the end of the file."""
        while True:
            match = _WHITESPACE.match(self.text, self.position)
            self.position = match.end() if match else self.position
            if self.ahead or self.ended:
                return self.text[self.position : self.position + 1]
            self.fill(1)


def iter_array(
    path: Path,
    *,
    chunk_bytes: int = CHUNK_BYTES,
    on_read: Callable[[int], None] | None = None,
) -> Iterator[Any]:
    """Yield the elements of the JSON array in `path`, holding one element at a time.

    `on_read` is called with the bytes read so far whenever more are read.

    Raises DataError with file name and record index if the file is missing, empty, not UTF-8, not
    an array, malformed, truncated, followed by something else, or holds a record longer than
    `MAX_RECORD_CHARS`.
    """
    try:
        buffer = _Buffer(path, chunk_bytes, on_read)
    except OSError as error:
        raise DataError(f"{path.name}: cannot be read ({error.strerror})") from error
    try:
        yield from _elements(buffer)
    except OSError as error:
        raise DataError(f"{path.name}: cannot be read ({error.strerror})") from error
    finally:
        buffer.close()


def _elements(buffer: _Buffer) -> Iterator[Any]:
    name = buffer.path.name
    first = buffer.next_character()
    if not first:
        raise DataError(f"{name}: the file is empty", hint="expected a JSON array of records")
    if first != "[":
        html = "this looks like an HTML page; fetch the file again"
        hint = html if first == "<" else "expected '[' at the start"
        raise DataError(f"{name}: not a JSON array", hint=hint)
    buffer.position += 1
    record = 0
    if buffer.next_character() != "]":
        while True:
            buffer.next_character()
            yield _element(buffer, record)
            record += 1
            separator = buffer.next_character()
            if separator == "]":
                break
            if separator != ",":
                _fail(buffer, record, "expected ',' or ']' before it")
            buffer.position += 1
    buffer.position += 1
    if buffer.next_character():
        raise DataError(f"{name}: something follows the end of the JSON array")


def _element(buffer: _Buffer, record: int) -> Any:
    """Parse the element at the buffer's position and move past it."""
    while True:
        start = buffer.position
        try:
            value, end = _DECODER.raw_decode(buffer.text, start)
        except _ConstantError:
            _fail(buffer, record, "NaN and Infinity are not JSON")
        except json.JSONDecodeError as error:
            if buffer.ended or not _may_be_cut(error, len(buffer.text)):
                _fail(buffer, record, f"{error.msg} at its character {error.pos - start}")
        except RecursionError:
            _fail(buffer, record, "nested too deeply")
        else:
            # A number at the very end of the buffer may go on in the next chunk.
            if end < len(buffer.text) or buffer.ended:
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


def _fail(buffer: _Buffer, record: int, what: str) -> NoReturn:
    if buffer.ended:
        what = f"{what}; the file may be truncated"
    raise DataError(
        f"{buffer.path.name}, record {record}: malformed JSON, {what}",
        hint="fetch or write the file again",
    )


def read_object(path: Path, *, limit_bytes: int = 1 << 30) -> dict[str, Any]:
    """Parse a file that holds one JSON object, such as LaMP's golds.

    Raises DataError if it is missing, too large, not UTF-8, malformed or not an object.
    """
    try:
        size = path.stat().st_size
        data = path.read_bytes() if size <= limit_bytes else b""
    except OSError as error:
        raise DataError(f"{path.name}: cannot be read ({error.strerror})") from error
    if size > limit_bytes:
        raise DataError(f"{path.name}: {size} bytes, more than the limit of {limit_bytes}")
    try:
        value = json.loads(data.decode("utf-8-sig"), parse_constant=_refuse_constant)
    except UnicodeDecodeError as error:
        raise DataError(f"{path.name}: not UTF-8 near byte {error.start}") from None
    except _ConstantError:
        raise DataError(f"{path.name}: NaN and Infinity are not JSON") from None
    except (json.JSONDecodeError, RecursionError) as error:
        where = f" at character {error.pos}" if isinstance(error, json.JSONDecodeError) else ""
        raise DataError(f"{path.name}: malformed or truncated JSON{where}") from None
    if not isinstance(value, dict):
        raise DataError(f"{path.name}: expected a JSON object")
    return value
