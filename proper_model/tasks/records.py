"""Users, their histories and queries, and problems in their files by place.

A record is what LaMP and OPPU files hold after parsing (docs/method.md 2.1 and 4.1): text fields by
name, ids as strings. Problems are collected by a `Report`, so that reading a file and validating it
walk the same path: a strict report raises at the first error, a collecting one goes on.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from proper_model.errors import DataError

Severity = Literal["error", "warning"]
FIRST_PLACES = 3  # of a repeated problem
_INDEX = re.compile(r"\[\d+\]")
_QUOTED = re.compile(r"""(?<!\w)(?:'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")(?!\w)""")
VALIDATE_HINT = "run `proper-sim validate DATA --task T` to list every problem at once"


@dataclass(frozen=True)
class HistoryItem:
    """One past item of a user: the task's text fields, and LaMP's date where there is one."""

    id: str
    fields: Mapping[str, str]
    date: str | None = None


@dataclass(frozen=True)
class Query:
    """One question of a user in LaMP's wording, and the answer this user gave."""

    id: str
    input: str
    gold: str


@dataclass(frozen=True)
class User:
    """One user: history in time order, oldest first, then the queries that follow it."""

    user_id: str
    history: tuple[HistoryItem, ...]
    queries: tuple[Query, ...]


@dataclass(frozen=True)
class Population:
    """Pooled users train stages 1 and 2; test users are personalized and scored."""

    name: str
    pooled: tuple[User, ...]
    test: tuple[User, ...]


@dataclass(frozen=True)
class Place:
    """Where something stands: file name, record, field path, line of the file. Never user text.

    Records count from 0 in files of a population, from 1 in a person's own history; lines from 1.
    """

    file: str
    record: int | None = None
    field: str | None = None
    line: int | None = None

    def __str__(self) -> str:
        return ", ".join(part for part in (self.file, self.within) if part)

    @property
    def within(self) -> str:
        """Record and field, without the file."""
        record = None if self.record is None else f"record {self.record}"
        if record is not None and self.line is not None:
            record = f"{record} (line {self.line})"
        name = None if self.field is None else f"field {self.field}"
        return ", ".join(part for part in (record, name) if part)

    def at(self, name: str) -> Place:
        """The same record, one field deeper."""
        path = name if self.field is None else f"{self.field}.{name}"
        return Place(self.file, self.record, path, self.line)


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong or unusual in a file."""

    place: Place
    severity: Severity
    message: str

    def __str__(self) -> str:
        return f"{self.place}: {self.message}"


@dataclass
class ProblemGroup:
    """One problem in all the places of a file where it was found; `places` are the first."""

    severity: Severity
    place: Place
    message: str
    places: list[Place] = field(default_factory=list)
    count: int = 0

    def add(self, place: Place) -> None:
        self.count += 1
        if len(self.places) < FIRST_PLACES:
            self.places.append(place)

    def __str__(self) -> str:
        if self.count == 1:
            return f"{self.place}: {self.message}"
        shared = Place(self.place.file, field=_without_indices(self.place.field))
        places = "; ".join(place.within for place in self.places if place.within)
        first = f", first in {places}" if places else ""
        return f"{shared}: {_without_ids(self.message)} ({self.count} times{first})"


def _without_indices(name: str | None) -> str | None:
    return None if name is None else _INDEX.sub("[]", name)


def _without_ids(message: str) -> str:
    return _QUOTED.sub("'...'", message)


@dataclass
class Report:
    """Takes problems as they are found.

    `strict` raises DataError at the first error and keeps only warnings. A collecting report keeps
    the first `limit` problems and counts the rest: a file of gigabytes may be wrong in every line.
    `groups` holds all problems that differ in more than record, index and quoted ids.
    """

    strict: bool = True
    limit: int = 1000
    problems: list[Problem] = field(default_factory=list)
    grouped: dict[tuple[str | None, ...], ProblemGroup] = field(default_factory=dict)
    errors: int = 0
    warnings: int = 0

    def error(self, place: Place, message: str, *, hint: str = VALIDATE_HINT) -> None:
        """Raise DataError if strict, otherwise keep the problem."""
        self.errors += 1
        if self.strict:
            raise DataError(f"{place}: {message}", hint=hint)
        self._keep(Problem(place, "error", message))

    def warn(self, place: Place, message: str) -> None:
        """Keep a warning, which does not stop reading."""
        self.warnings += 1
        self._keep(Problem(place, "warning", message))

    def _keep(self, problem: Problem) -> None:
        if len(self.problems) < self.limit:
            self.problems.append(problem)
        place, message = problem.place, problem.message
        key = (problem.severity, place.file, _without_indices(place.field), _without_ids(message))
        if key not in self.grouped and len(self.grouped) < self.limit:
            self.grouped[key] = ProblemGroup(problem.severity, place, message)
        if key in self.grouped:
            self.grouped[key].add(place)

    @property
    def groups(self) -> tuple[ProblemGroup, ...]:
        """Problems with their repetitions, in the order of the first of each."""
        return tuple(self.grouped.values())


def counted(count: int, singular: str, plural: str | None = None) -> str:
    """`1 error`, `2 errors`: a number with its noun, or with all that follows it."""
    return f"{count} {singular if count == 1 else plural or singular + 's'}"


def user_to_json(user: User) -> dict[str, Any]:
    """OPPU's form of one user; the inverse of `parsing.parse_user`."""
    profile = []
    for item in user.history:
        record = {"id": item.id, **item.fields}
        if item.date is not None:
            record["date"] = item.date
        profile.append(record)
    queries = [{"id": q.id, "input": q.input, "gold": q.gold} for q in user.queries]
    return {"user_id": user.user_id, "profile": profile, "query": queries}


def users_to_json(users: tuple[User, ...]) -> list[dict[str, Any]]:
    """OPPU's form of several users: the content of one of its files."""
    return [user_to_json(user) for user in users]
