"""Users, their histories and queries, and where a problem in their files stands.

A record is what LaMP and OPPU files hold after parsing (METHOD 2.1 and 4.1): text fields by name,
ids as strings. Problems are collected by a `Report`, so that reading a file and validating it walk
the same path: a strict report raises at the first error, a collecting one goes on.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from proper_model.errors import DataError

Severity = Literal["error", "warning"]
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
    """Where something stands: file name, zero-based record, field path. Never user text."""

    file: str
    record: int | None = None
    field: str | None = None

    def __str__(self) -> str:
        parts = [self.file]
        if self.record is not None:
            parts.append(f"record {self.record}")
        if self.field is not None:
            parts.append(f"field {self.field}")
        return ", ".join(parts)

    def at(self, name: str) -> Place:
        """The same record, one field deeper."""
        path = name if self.field is None else f"{self.field}.{name}"
        return Place(self.file, self.record, path)


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong or odd in a file."""

    place: Place
    severity: Severity
    message: str

    def __str__(self) -> str:
        return f"{self.place}: {self.message}"


@dataclass
class Report:
    """Takes problems as they are found.

    `strict` raises DataError at the first error and keeps only warnings. A collecting report keeps
    the first `limit` problems and counts the rest: a file of gigabytes may be wrong in every line.
    """

    strict: bool = True
    limit: int = 1000
    problems: list[Problem] = field(default_factory=list)
    errors: int = 0
    warnings: int = 0

    def error(self, place: Place, message: str, *, hint: str = VALIDATE_HINT) -> None:
        """Raise DataError if strict, otherwise keep the problem."""
        self.errors += 1
        if self.strict:
            raise DataError(f"{place}: {message}", hint=hint)
        self._keep(Problem(place, "error", message))

    def warn(self, place: Place, message: str) -> None:
        """Keep something odd that does not stop reading."""
        self.warnings += 1
        self._keep(Problem(place, "warning", message))

    def _keep(self, problem: Problem) -> None:
        if len(self.problems) < self.limit:
            self.problems.append(problem)


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
