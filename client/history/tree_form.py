"""Records anywhere inside one JSON value, streamed: the elements of the arrays at given paths.

A path names keys with dots and every element of an array with `[]`, as in `chats.list[].messages[]`.
What lies on no path is walked over in bounded memory.
"""

from __future__ import annotations

from collections.abc import Collection, Generator, Iterator
from typing import Any, NoReturn

from client.history.json_form import MAX_DEPTH, Checks
from client.history.text_input import MAX_RECORD_CHARS
from proper_model.errors import DataError
from proper_model.storage.json_stream import TextBuffer, decode_key, decode_value, more_follows

Found = tuple[str, Any, tuple[str, ...]]


def values_at(
    name: str, chunks: Iterator[str], paths: Collection[str]
) -> Generator[Found, None, None]:
    """(path, value, faults) of every value at one of `paths`, in the order of the file.

    Raises DataError where the text is no JSON, is nested too deeply, or something follows it.
    """
    walker = _Walker(TextBuffer(name, chunks), paths)
    yield from walker.walk("", 0)
    if walker.buffer.next_character() == ";":  # of a script, such as tweets.js
        walker.buffer.position += 1
    if walker.buffer.next_character():
        raise DataError(
            f"{name}: something follows the end of the JSON",
            hint="give one file as the program exported it",
        )


class _Walker:
    def __init__(self, buffer: TextBuffer, paths: Collection[str]) -> None:
        self.buffer = buffer
        self.paths = frozenset(paths)
        self.checks = Checks()
        self.number = 0
        # Every beginning of a path: worth walking into.
        self.ways = frozenset(path[:end] for path in paths for end in _ends(path))

    def walk(self, path: str, depth: int) -> Iterator[Found]:
        """What is found in the value at the buffer's position, which stands at `path`."""
        first = self.buffer.next_character()
        if path in self.paths:
            self.number += 1
            yield path, self._value(), self.checks.take()
        elif first not in ("{", "["):
            self._value()
            self.checks.take()
        elif depth >= MAX_DEPTH:
            self._fail("nested too deeply")
        else:
            on_way = path in self.ways or not path
            for inner in self._inside(first, path):
                yield from self.walk(inner if on_way else "\0", depth + 1)

    def _inside(self, first: str, path: str) -> Iterator[str]:
        """The path of every value in an object or array, with the buffer standing before it."""
        buffer = self.buffer
        end = "}" if first == "{" else "]"
        buffer.position += 1
        more = buffer.next_character() != end
        while more:
            if first == "{":
                key = decode_key(buffer, self._value, self._fail)
                yield f"{path}.{key}" if path else key
            else:
                buffer.next_character()
                yield f"{path}[]"
            more = more_follows(buffer, end, self._fail)
        buffer.position += 1

    def _value(self) -> Any:
        return decode_value(
            self.buffer, self._fail, decoder=self.checks.decoder, limit_chars=MAX_RECORD_CHARS
        )

    def _fail(self, what: str) -> NoReturn:
        if self.buffer.ended:
            what = f"{what}; the file may be truncated"
        raise DataError(
            f"{self.buffer.name}, after record {self.number}: malformed JSON, {what}",
            hint="what follows such a fault cannot be read; export the file again",
        )


def _ends(path: str) -> Iterator[int]:
    """Where the beginnings of a path end: before every `[]` and every dot."""
    for place, sign in enumerate(path):
        if sign in ".[":
            yield place
    yield len(path)
