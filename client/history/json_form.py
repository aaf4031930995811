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

    def __init__(self, name: str, text: str, position: int = 0) -> None:
        self.name, self.text, self.position = name, text, position
        self.where = ""
        self.decoder = _Decoder()

    def next(self) -> str:
        """Skip blanks; the next character without using it, empty at the end."""
        match = _BLANKS.match(self.text, self.position)
        assert match is not None, "nothing matches too"
        self.position = match.end()
        return self.text[self.position : self.position + 1]

    def value(self) -> Any:
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
        if end - start > MAX_RECORD_CHARS:
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
    name: str, text: str, paths: Collection[str], position: int = 0
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
    name: str, text: str, position: int = 0, *, users: bool
) -> Generator[Record, None, None]:
    """Items of an array, or of the profile of one person's user records, alone or in an array.

    `users` asks for user records. Raises DataError with the record's number where the text is no
    JSON and cannot be followed any further, and where it holds more than one person.
    """
    yield from _Records(_Walk(name, text, position), users).records()


class _Records:
    """Walks user records key by key and decodes everything else as a whole."""

    def __init__(self, walk: _Walk, users: bool) -> None:
        self.name, self.walk = walk.name, walk
        self.number = 0  # of items
        self.of_users: bool | None = True if users else None  # None: not known yet
        self.user: Any = None
        self.user_count = 0

    def records(self) -> Iterator[Record]:
        self._count(0)
        if self.walk.next() == "[":
            for _ in self.walk.elements():
                yield from self._entry()
            if self.walk.next():
                raise DataError(f"{self.name}: something follows the JSON array", hint=HINT)
            return
        while first := self.walk.next():
            if first != "{":
                raise DataError(f"{self.name}: not a JSON array or object", hint=HINT)
            yield from self._entry()

    def _count(self, more: int) -> None:
        self.number += more
        self.walk.where = f"record {self.number + 1}"

    def _entry(self) -> Iterator[Record]:
        if self.of_users is False or self.walk.next() != "{":
            yield self._item()
        else:
            yield from self._first_or_user()

    def _item(self, *, anonymous: bool = False) -> Record:
        value = self.walk.value()
        self._count(1)
        return Record(self.number, value, None, self.walk.decoder.take(), anonymous)

    def _first_or_user(self) -> Iterator[Record]:
        """A user record, or the first item, which the keys tell apart."""
        walk = self.walk
        head: dict[str, Any] = {}
        profiles = 0
        for key in walk.members():
            if key in head:
                walk.decoder.note("an object has the same key twice")
            head[key] = None
            if len(head) > MAX_KEYS:
                walk.fail(f"an object of more than {MAX_KEYS} keys")
            is_list = walk.next() == "["
            if is_list and key == PROFILE:
                profiles += 1
                self._begin_user(head, profiles)
                for _ in walk.elements():
                    yield self._item(anonymous=QUESTION in head)
            elif is_list and self.of_users and key != USER:
                for _ in walk.elements():  # queries, which may be many
                    walk.value()
            else:
                head[key] = walk.value()
        if self.of_users:
            self._end_user(head, profiles)
            return
        self.of_users = False
        self._count(1)
        yield Record(self.number, head, None, walk.decoder.take())

    def _begin_user(self, head: dict[str, Any], profiles: int) -> None:
        """Before a profile is read: refuse another person's as soon as it can be known."""
        self._check_sound(head)
        self.of_users = True
        if profiles > 1:
            raise DataError(f"{self.name}: a user record has two profiles", hint=HINT)
        if self.user_count and USER in head:
            self._check_same_user(head)

    def _end_user(self, head: dict[str, Any], profiles: int) -> None:
        self._check_sound(head)
        if not profiles:
            raise self._fault("missing or not a list", PROFILE)
        if self.user_count:
            self._check_same_user(head)
        self.user = head.get(USER)
        self.user_count += 1

    def _check_sound(self, head: dict[str, Any]) -> None:
        for fault in self.walk.decoder.take():
            raise self._fault(fault)
        if isinstance(head.get(USER), dict | list):
            raise self._fault("expected a string", USER)

    def _check_same_user(self, head: dict[str, Any]) -> None:
        user = head.get(USER)
        if user is None or str(user) != str(self.user):
            raise DataError(
                f"{self.name}: user records 1 and {self.user_count + 1} belong to more than "
                f"one person{'' if user is not None else ', or have no user_id that says whose'}",
                hint="give the history of one person; take that person's records out first",
            )

    def _fault(self, what: str, field: str | None = None) -> DataError:
        place = f"{self.name}, user record {self.user_count + 1}"
        return DataError(f"{place}{f', field {field}' if field else ''}: {what}", hint=HINT)
