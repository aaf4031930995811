"""People out of a dataset whose rows are items: grouped by user, oldest first, the newest as questions.

A dataset has no questions of its own, so that a user's newest fifth (at least one item, of two or more)
takes their place: each is asked as the task's histories are worded, and its answer is the user's. Every
row stands for one item of one user; users come in the order of their first rows. Rows without a user are
counted and left out.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, time
from typing import Any

from proper_model.data import date_key, identifier, normal_date, text_of
from proper_model.progress import Progress, silent
from proper_model.tasks import (
    HistoryItem,
    Place,
    Population,
    Query,
    Report,
    Task,
    User,
    counted,
)
from simulations.setup.columns import Columns, find_columns
from simulations.setup.dataset_rows import DatasetName, Rows, open_rows

ASKED_SHARE = 0.2  # of a user's items, the newest
SAID_EVERY = 1000  # rows
# Numbers from here on are seconds since 1970, and from there on milliseconds; below stand years.
FIRST_SECOND, FIRST_MILLISECOND = 10**8, 10**11


@dataclass(frozen=True)
class _Item:
    """An item as read: when, as (a moment to sort by, a date), and where it stands."""

    item: HistoryItem
    moment: datetime | None
    place: Place


@dataclass
class _Reader:
    """Takes rows and says what is wrong with them, by dataset, row and column."""

    rows: Rows
    columns: Columns
    task: Task
    report: Report
    items: dict[str, list[_Item]] = field(default_factory=dict)
    nobodys: int = 0

    def take(self, number: int, row: Mapping[str, Any]) -> None:
        place = Place(self.rows.where, number)
        if row.get(self.columns.user) in (None, ""):
            self.nobodys += 1
            return
        user = identifier(row, self.columns.user, place, self.report)
        fields = self._fields(row, place)
        if user is None or fields is None:
            return
        moment, day = self._when(row, place)
        own = self.items.setdefault(user, [])
        item = HistoryItem(self._id(row, len(own), place), fields, day)
        own.append(_Item(item, moment, place))

    def _fields(self, row: Mapping[str, Any], place: Place) -> dict[str, str] | None:
        found = {}
        for name, column in self.columns.fields.items():
            value = row.get(column)
            if value is not None:
                text = text_of(value, place.at(column), self.report)
                if text is not None:
                    found[name] = text
            elif name in self.task.required_fields:
                self.report.error(
                    place.at(column),
                    f"empty, expected the text of field {name} of task {self.task.name}",
                    hint="leave such rows out of the dataset, or map another column",
                )
        return found if self.task.required_fields <= found.keys() else None

    def _id(self, row: Mapping[str, Any], number: int, place: Place) -> str:
        column = self.columns.id
        if column is None or row.get(column) is None:
            return str(number)
        return identifier(row, column, place, self.report) or str(number)

    def _when(self, row: Mapping[str, Any], place: Place) -> tuple[datetime | None, str | None]:
        column = self.columns.date
        if column is None or row.get(column) is None:
            return None, None
        found = moment_of(row[column])
        if found is None:
            self.report.error(
                place.at(column),
                "not a time of the calendar, expected a date, a time or seconds since 1970",
                hint="map another column, or leave it out: then rows stand oldest first",
            )
            return None, None
        return found

    def users(self) -> tuple[User, ...]:
        if not self.items:
            self.report.error(Place(self.rows.where), "holds no row of a user")
        if self.nobodys:
            said = counted(self.nobodys, "row without a user", "rows without a user")
            self.report.warn(
                Place(self.rows.where, field=self.columns.user),
                f"{said} {'is' if self.nobodys == 1 else 'are'} left out",
            )
        return tuple(self._user(user_id, items) for user_id, items in self.items.items())

    def _user(self, user_id: str, items: list[_Item]) -> User:
        dated = [item.moment for item in items if item.moment is not None]
        if len(dated) == len(items):
            items = sorted(items, key=lambda item: item.moment or datetime.max.replace(tzinfo=UTC))
        elif dated:
            self.report.warn(
                Place(self.rows.where, field=self.columns.date),
                "only some rows of a user have a time, so the order of rows counts",
            )
        asked = max(1, round(ASKED_SHARE * len(items))) if len(items) > 1 else 0
        split = len(items) - asked
        history = tuple(item.item for item in items[:split])
        return User(user_id, history, tuple(self._queries(items[split:])))

    def _queries(self, newest: Sequence[_Item]) -> list[Query]:
        found = []
        for one, name in zip(newest, distinct([one.item.id for one in newest]), strict=True):
            query = replace(question_of(one.item, self.task), id=name)
            if not query.gold.strip():
                self.report.error(one.place, "the answer is empty")
                continue
            self.task.check_query(query, one.place, self.report)
            found.append(query)
        return found


def distinct(ids: Sequence[str]) -> list[str]:
    """Every id once: one that comes again has a number behind it that gives no other id."""
    taken, seen, numbers, found = set(ids), set[str](), Counter[str](), []
    for one in ids:
        name = one
        while one in seen and name in taken:
            numbers[one] += 1
            name = f"{one}-{numbers[one]}"
        taken.add(name)
        seen.add(one)
        found.append(name)
    return found


def question_of(item: HistoryItem, task: Task) -> Query:
    """An item as a question in a wording that the task asks as it trains on items.

    The whole prompt, where the task has a wording of its own for questions or none around them; else
    what the prompt shows of the item.
    """
    example = task.history_example(item)
    for wording in (example.prompt, task.item_text(item)):
        query = Query(item.id, wording, example.answer)
        if task.query_example(query).prompt == example.prompt:
            return query
    return Query(item.id, example.prompt, example.answer)


def moment_of(value: Any) -> tuple[datetime, str] | None:
    """When, to sort by, and its date as histories say it: of dates, times, years and seconds since 1970."""
    if isinstance(value, str) and (key := date_key(value)) is not None:
        return datetime.combine(date(*(*key, 1, 1)[:3]), time(), UTC), normal_date(key)
    try:
        found: datetime | None = None
        if isinstance(value, datetime):
            found = value
        elif isinstance(value, date):
            found = datetime.combine(value, time(), UTC)
        elif isinstance(value, str):
            found = datetime.fromisoformat(value.strip())
        elif isinstance(value, int | float) and not isinstance(value, bool):
            if value < FIRST_SECOND:
                year = str(int(value))
                return moment_of(year) if value == int(value) else None
            scale = 1000 if value >= FIRST_MILLISECOND else 1
            found = datetime.fromtimestamp(value / scale, UTC)
        if found is None:
            return None
        found = found.replace(tzinfo=UTC) if found.tzinfo is None else found.astimezone(UTC)
    except (ValueError, OverflowError, OSError):
        return None
    return found, found.date().isoformat()


def read_dataset(
    name: DatasetName,
    task: Task,
    given: Mapping[str, str],
    *,
    report: Report,
    progress: Progress | None = None,
) -> Population:
    """All users of a dataset, all of them pooled: a split such as random:N says who is tested.

    Args:
        given: columns by what they mean, where their names do not say it (`columns`).
        report: takes warnings, and errors as well if it is not strict.

    Raises DataError with dataset, row and column; ConfigError without the library or for columns that mean
    nothing.
    """
    say = progress or silent
    with open_rows(name) as rows:
        columns = find_columns(rows.columns, given, task, where=rows.where)
        reader = _Reader(rows, columns, task, report)
        for number, row in zip(itertools.count(), rows.read(columns.read)):
            reader.take(number, row)
            if number % SAID_EVERY == 0:
                say(f"reading rows ({number})", 0, 0)
    return Population(name.short, reader.users(), ())
