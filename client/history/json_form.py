"""A person's history as JSON: an array of items, lines of items, or a user record of OPPU or LaMP.

Everything streams, the `profile` inside a user record too: one item is in memory at a time. Names
that occur twice in an object and NaN, which Python's decoder accepts, are faults of their record.
Forms: docs/method.md 2.1 (OPPU) and 4.1 (raw LaMP).
"""

from __future__ import annotations

import json
from collections.abc import Generator, Iterator
from typing import Any, NoReturn

from client.history.text_input import MAX_RECORD_CHARS, TOO_LONG, Record, iter_lines
from proper_model.errors import DataError
from proper_model.storage.json_stream import TextBuffer, decode_key, decode_value, more_follows

MAX_KEYS = 256  # of a user record, whose keys are walked
MAX_DEPTH = 64  # of objects and arrays inside each other that are walked
MAX_DIGITS = 100  # of an integer; Python would refuse 4300, after quadratic time
PROFILE, USER, QUESTION = "profile", "user_id", "input"
HINT = "expected an array of items, one item a line, or one user record with a profile"
BLANKS = " \t\r\n"


class Checks:
    """A decoder that notes what JSON does not have and goes on, so that a record can be left out."""

    def __init__(self) -> None:
        self._found: dict[str, None] = {}
        self.decoder = json.JSONDecoder(
            object_pairs_hook=self._unique,
            parse_constant=self._constant,
            parse_int=self._integer,
        )

    def take(self) -> tuple[str, ...]:
        """Faults since the last call."""
        found = tuple(self._found)
        self._found.clear()
        return found

    def note(self, fault: str) -> None:
        self._found[fault] = None

    def _unique(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        fields = dict(pairs)
        if len(fields) != len(pairs):
            self.note("an object has the same key twice")
        return fields

    def _constant(self, _name: str) -> None:
        self.note("NaN and Infinity are not JSON")

    def _integer(self, text: str) -> int:
        if len(text) > MAX_DIGITS:
            self.note(f"a number of more than {MAX_DIGITS} digits")
            return 0
        return int(text)


def jsonl_records(chunks: Iterator[str]) -> Generator[Record, None, None]:
    """Items from lines; a malformed line is a record with a fault. Blank lines are skipped."""
    checks = Checks()
    number = 0
    for row, line in enumerate(iter_lines(chunks), start=1):
        if line is not None and not line.strip(BLANKS):
            continue
        number += 1
        raw = None if line is None else _line_value(line, checks)
        if line is None:
            checks.note(TOO_LONG)
        elif isinstance(raw, dict) and isinstance(raw.get(PROFILE), list):
            checks.note("a user record, expected an item; read it with the form lamp")
        yield Record(number, raw, row, checks.take())


def _line_value(line: str, checks: Checks) -> Any:
    try:
        return checks.decoder.decode(line)
    except json.JSONDecodeError as error:
        checks.note(f"malformed JSON, {error.msg} at its character {error.pos}")
    except RecursionError:
        checks.note("malformed JSON, nested too deeply")
    return None


def json_records(name: str, chunks: Iterator[str], *, users: bool) -> Generator[Record, None, None]:
    """Items of an array, or of the profile of one person's user records, alone or in an array.

    `users` asks for user records. Raises DataError with the record's number where the text is no
    JSON and cannot be followed any further, and where it holds more than one person.
    """
    yield from _Reader(TextBuffer(name, chunks), users).records()


class _Reader:
    """Walks user records key by key and decodes everything else as a whole."""

    def __init__(self, buffer: TextBuffer, users: bool) -> None:
        self.buffer = buffer
        self.checks = Checks()
        self.number = 0  # of items
        self.of_users: bool | None = True if users else None  # None: not known yet
        self.user: Any = None
        self.user_count = 0

    def records(self) -> Iterator[Record]:
        buffer = self.buffer
        if buffer.next_character() == "[":
            yield from self._array(self._entry)
            if buffer.next_character():
                raise DataError(f"{buffer.name}: something follows the JSON array", hint=HINT)
            return
        while first := buffer.next_character():
            if first != "{":
                raise DataError(f"{buffer.name}: not a JSON array or object", hint=HINT)
            yield from self._entry()

    def _array(self, element: Any) -> Iterator[Record]:
        """Walk the array at the buffer's position; `element` reads one and yields its items."""
        buffer = self.buffer
        buffer.position += 1
        more = buffer.next_character() != "]"
        while more:
            buffer.next_character()
            yield from element()
            more = more_follows(buffer, "]", self._fail)
        buffer.position += 1

    def _entry(self) -> Iterator[Record]:
        if self.of_users is False or self.buffer.next_character() != "{":
            yield from self._item()
        else:
            yield from self._walk()

    def _item(self, *, anonymous: bool = False) -> Iterator[Record]:
        value = self._value()
        self.number += 1
        yield Record(self.number, value, None, self.checks.take(), anonymous)

    def _skip(self) -> Iterator[Record]:
        self._value()
        yield from ()

    def _walk(self) -> Iterator[Record]:
        """A user record, or the first item, which the keys tell apart."""
        buffer = self.buffer
        head: dict[str, Any] = {}
        profiles = 0
        buffer.position += 1
        more = buffer.next_character() != "}"
        while more:
            key = decode_key(buffer, self._value, self._fail)
            if key in head:
                self.checks.note("an object has the same key twice")
            head[key] = None
            if len(head) > MAX_KEYS:
                self._fail(f"an object of more than {MAX_KEYS} keys")
            is_list = buffer.next_character() == "["
            if is_list and key == PROFILE:
                profiles += 1
                self._begin_user(head, profiles)
                anonymous = QUESTION in head
                yield from self._array(lambda a=anonymous: self._item(anonymous=a))
            elif is_list and self.of_users and key != USER:
                yield from self._array(self._skip)  # queries, which may be many
            else:
                head[key] = self._value()
            more = more_follows(buffer, "}", self._fail)
        buffer.position += 1
        if self.of_users:
            self._end_user(head, profiles)
            return
        self.of_users = False
        self.number += 1
        yield Record(self.number, head, None, self.checks.take())

    def _value(self) -> Any:
        return decode_value(
            self.buffer, self._fail, decoder=self.checks.decoder, limit_chars=MAX_RECORD_CHARS
        )

    def _begin_user(self, head: dict[str, Any], profiles: int) -> None:
        """Before a profile is read: refuse another person's as soon as it can be known."""
        self._check_sound(head)
        self.of_users = True
        if profiles > 1:
            raise DataError(f"{self.buffer.name}: a user record has two profiles", hint=HINT)
        if self.user_count and USER in head:
            self._check_same_user(head)

    def _end_user(self, head: dict[str, Any], profiles: int) -> None:
        self._check_sound(head)
        if not profiles:
            raise DataError(
                f"{self.buffer.name}, user record {self.user_count + 1}, field profile: missing or "
                "not a list",
                hint=HINT,
            )
        if self.user_count:
            self._check_same_user(head)
        self.user = head.get(USER)
        self.user_count += 1

    def _check_sound(self, head: dict[str, Any]) -> None:
        for fault in self.checks.take():
            raise DataError(
                f"{self.buffer.name}, user record {self.user_count + 1}: {fault}", hint=HINT
            )
        if isinstance(head.get(USER), dict | list):
            raise DataError(
                f"{self.buffer.name}, user record {self.user_count + 1}, field {USER}: expected a "
                "string",
                hint=HINT,
            )

    def _check_same_user(self, head: dict[str, Any]) -> None:
        user = head.get(USER)
        if user is None or str(user) != str(self.user):
            raise DataError(
                f"{self.buffer.name}: user records 1 and {self.user_count + 1} belong to more than "
                f"one person{'' if user is not None else ', or have no user_id that says whose'}",
                hint="give the history of one person; take that person's records out first",
            )

    def _fail(self, what: str) -> NoReturn:
        if self.buffer.ended:
            what = f"{what}; the file may be truncated"
        raise DataError(
            f"{self.buffer.name}, record {self.number + 1}: malformed JSON, {what}",
            hint="what follows such a fault cannot be read; write the file again",
        )
