"""A person's history as JSON: lines or an array of items, user records of OPPU or LaMP, or a tree.

A tree is one value with records somewhere inside, as programs export it; a path names keys with dots
and every element of an array with `[]`, as in `chats.list[].messages[]`. What leads to records is
walked, and each record is decoded as a whole. Names that occur twice in an object and NaN, which
Python's decoder accepts, are faults of their record. User records: docs/method.md 2.1 (OPPU) and 4.1
(raw LaMP).
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Generator, Iterator
from typing import Any, NoReturn

from client.history.text_input import MAX_RECORD_CHARS, TOO_LONG, Record
from proper_model.errors import DataError

MAX_KEYS = 256  # of a user record, whose keys are walked
MAX_DEPTH = 64  # of objects and arrays inside each other that are walked
MAX_DIGITS = 100  # of an integer; Python would refuse 4300, after quadratic time
PROFILE, USER, QUESTION = "profile", "user_id", "input"
HINT = "expected an array of items, one item a line, or one user record with a profile"
BLANKS = " \t\r\n"
_BLANKS = re.compile(f"[{BLANKS}]*")
# An error so close to the end may be of a literal or an escape that is cut in two.
_TAIL = 16

Found = tuple[str, Any, tuple[str, ...]]


class _Decoder(json.JSONDecoder):
    """Notes what JSON does not have and goes on, so that a record can be left out."""

    def __init__(self) -> None:
        super().__init__(
            object_pairs_hook=self._unique,
            parse_constant=lambda _name: self.note("NaN and Infinity are not JSON"),
            parse_int=self._integer,
        )
        self._found: dict[str, None] = {}

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

    def _integer(self, text: str) -> int:
        if len(text) > MAX_DIGITS:
            self.note(f"a number of more than {MAX_DIGITS} digits")
            return 0
        return int(text)


def jsonl_records(lines: Iterator[str | None]) -> Generator[Record, None, None]:
    """Items from lines; a malformed line is a record with a fault. Blank lines are skipped."""
    decoder = _Decoder()
    number = 0
    for row, line in enumerate(lines, start=1):
        if line is not None and not line.strip(BLANKS):
            continue
        number += 1
        raw = None
        try:
            raw = None if line is None else decoder.decode(line)
        except json.JSONDecodeError as error:
            decoder.note(f"malformed JSON, {error.msg} at its character {error.pos}")
        except RecursionError:
            decoder.note("malformed JSON, nested too deeply")
        if line is None:
            decoder.note(TOO_LONG)
        elif isinstance(raw, dict) and isinstance(raw.get(PROFILE), list):
            decoder.note("a user record, expected an item; read it with the form lamp")
        yield Record(number, raw, row, decoder.take())


class _Walk:
    """A reader's place in JSON text. `where` says it in messages: a record's number."""

    def __init__(self, name: str, text: str, position: int) -> None:
        self.name, self.text, self.position = name, text, position
        self.where = ""
        self.decoder = _Decoder()

    def next(self) -> str:
        """Skip blanks; the next character without using it, empty at the end."""
        match = _BLANKS.match(self.text, self.position)
        assert match is not None, "nothing matches too"
        self.position = match.end()
        return self.text[self.position : self.position + 1]

    def value(self, max_chars: int = MAX_RECORD_CHARS) -> Any:
        """Decode the value that stands here. Raises DataError if it is malformed or too long."""
        self.next()
        start = self.position
        try:
            value, end = self.decoder.raw_decode(self.text, start)
        except json.JSONDecodeError as error:
            cut = error.msg.startswith("Unterminated") or error.pos + _TAIL >= len(self.text)
            self.fail(f"{error.msg} at its character {error.pos - start}", cut=cut)
        except RecursionError:
            self.fail("nested too deeply")
        if end - start > max_chars:
            self.fail(TOO_LONG)
        self.position = end
        return value

    def members(self) -> Iterator[str]:
        """Walk the object that stands here: its keys, each with its value next."""
        for _ in self._parts("}"):
            if self.next() != '"':
                self.fail("expected a key in quotes")
            key: str = self.value()
            if self.next() != ":":
                self.fail("expected ':' after a key")
            self.position += 1
            yield key

    def elements(self) -> Iterator[None]:
        """Walk the array that stands here; each element is next in turn."""
        return self._parts("]")

    def objects(self) -> Iterator[None]:
        """Walk objects that follow one another to the end of the text."""
        while first := self.next():
            if first != "{":
                raise DataError(f"{self.name}: not a JSON array or object", hint=HINT)
            yield

    def _parts(self, end: str) -> Iterator[None]:
        self.next()
        self.position += 1
        more = self.next() != end
        while more:
            yield
            separator = self.next()
            if separator not in (end, ","):
                self.fail(f"expected ',' or '{end}' before it")
            more = separator == ","
            self.position += more
        self.position += 1

    def fail(self, what: str, *, cut: bool = False) -> NoReturn:
        if cut or self.position >= len(self.text):
            what = f"{what}; the file may be truncated"
        raise DataError(
            f"{self.name}, {self.where}: malformed JSON, {what}",
            hint="what follows such a fault cannot be read; write or export the file again",
        )


def tree_values(
    name: str, text: str, paths: Collection[str], position: int
) -> Generator[Found, None, None]:
    """(path, value, faults) of every value at one of `paths`, in the order of the text.

    Raises DataError where the text is no JSON, is nested too deeply, or something follows it.
    """
    walk = _Walk(name, text, position)
    found = 0
    walk.where = "after record 0"

    def inside(path: str, depth: int) -> Iterator[Found]:
        nonlocal found
        first = walk.next()
        if path in paths or first not in ("{", "["):
            value, faults = walk.value(), walk.decoder.take()
            if path in paths:
                found += 1
                walk.where = f"after record {found}"
                yield path, value, faults
            return
        if depth >= MAX_DEPTH:
            walk.fail("nested too deeply")
        if first == "[":
            inner = (f"{path}[]" for _ in walk.elements())
        else:
            inner = (f"{path}.{key}" if path else key for key in walk.members())
        for each in inner:
            yield from inside(each, depth + 1)

    yield from inside("", 0)
    if walk.next() == ";":  # of a script, such as tweets.js
        walk.position += 1
    if walk.next():
        raise DataError(
            f"{name}: something follows the end of the JSON",
            hint="give one file as the program exported it",
        )


def json_records(
    name: str, text: str, position: int, *, users: bool
) -> Generator[Record, None, None]:
    """Items of an array, or of the profile of one person's user records, alone or in an array.

    `users` asks for user records. Raises DataError with the record's number where the text is no
    JSON and cannot be followed any further, and where it holds more than one person.
    """
    walk = _Walk(name, text, position)
    walk.where = "record 1"
    in_array = walk.next() == "["
    person = _Person(walk) if users or _begins_with_user(_Walk(name, text, position)) else None
    number = 0

    def item(*, anonymous: bool = False) -> Record:
        nonlocal number
        value = walk.value()
        number += 1
        walk.where = f"record {number + 1}"
        return Record(number, value, None, walk.decoder.take(), anonymous)

    for _ in walk.elements() if in_array else walk.objects():
        if person is None or walk.next() != "{":
            yield item()
            continue
        for question in person.profile():
            yield item(anonymous=question)
    if in_array and walk.next():
        raise DataError(f"{name}: something follows the JSON array", hint=HINT)


def _begins_with_user(walk: _Walk) -> bool:
    """Whether the first object is a user record, which its keys tell."""
    walk.where = "record 1"
    if walk.next() == "[":
        walk.position += 1
    if walk.next() != "{":
        return False
    for count, key in enumerate(walk.members(), start=1):
        if count > MAX_KEYS:
            walk.fail(f"an object of more than {MAX_KEYS} keys")
        if key == PROFILE and walk.next() == "[":
            return True
        walk.value()
    return False


class _Person:
    """User records, which must be of one person."""

    def __init__(self, walk: _Walk) -> None:
        self._walk = walk
        self._number = 0  # of the user record
        self._user: Any = None

    def profile(self) -> Iterator[bool]:
        """Walk the user record that stands here: each item of its profile is next in turn.

        Yields whether it is the record of a question, whose items' ids say nothing.
        """
        self._number += 1
        head: dict[str, Any] = {}
        for key in self._walk.members():
            if key in head:
                self._walk.decoder.note("an object has the same key twice")
            if is_profile := key == PROFILE and self._walk.next() == "[":
                self._check_sound(head)
                if USER in head:
                    self._check_same(head)
                for _ in self._walk.elements():
                    yield QUESTION in head
            head[key] = is_profile or self._walk.value(max_chars=len(self._walk.text))
        self._check_sound(head)
        if head.get(PROFILE) is not True:
            raise self._fault("missing or not a list", PROFILE)
        self._check_same(head)
        self._user = head.get(USER)

    def _check_sound(self, head: dict[str, Any]) -> None:
        for fault in self._walk.decoder.take():
            raise self._fault(fault)
        if isinstance(head.get(USER), dict | list):
            raise self._fault("expected a string", USER)

    def _check_same(self, head: dict[str, Any]) -> None:
        """Refuse another person's record, before its items where that can be known."""
        user = head.get(USER)
        if self._number > 1 and (user is None or str(user) != str(self._user)):
            raise DataError(
                f"{self._walk.name}: user records 1 and {self._number} belong to more than "
                f"one person{'' if user is not None else ', or have no user_id that says whose'}",
                hint="give the history of one person; take that person's records out first",
            )

    def _fault(self, what: str, field: str | None = None) -> DataError:
        place = f"{self._walk.name}, user record {self._number}"
        return DataError(f"{place}{f', field {field}' if field else ''}: {what}", hint=HINT)
