"""A person's history as a table: CSV with a header row, separated by comma, semicolon or tab.

RFC 4180 with a choice of separators. Cells of optional columns that are empty count as absent, since
a table cannot tell the two apart.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager

from client.history_source import MAX_RECORD_CHARS, TOO_LONG, Record, iter_lines
from proper_model.errors import ConfigError, DataError
from proper_model.tasks import Task

DELIMITERS = {",": "commas", ";": "semicolons", "\t": "tabs"}
_SHOWN_COLUMNS = 20
_LOOKS_LIKE_A_NAME = re.compile(r"[^\W\d][\w-]{0,31}")


def csv_records(
    name: str, chunks: Iterator[str], task: Task, columns: Mapping[str, str] | None = None
) -> Generator[Record, None, None]:
    """Rows as records with the task's field names; `columns` maps these to other column names.

    Raises DataError for missing columns, a row that is too long and quotes that do not end, and
    ConfigError for a mapping of a field that the task does not know.
    """
    wanted = _wanted(task, columns or {})
    feed = _Feed(name, iter_lines(chunks))
    first = next((line for line in feed if line.strip()), "")
    delimiter = _sniff(first, set(wanted.values()))
    feed.push_back(first)
    with _field_limit():
        reader = csv.reader(feed, delimiter=delimiter, strict=True)
        header = _next_row(reader, feed) or []
        places = _places(name, header, delimiter, wanted, task, columns or {})
        number = 0
        while (cells := _next_row(reader, feed)) is not None:
            if not cells:
                continue
            number += 1
            if len(cells) != len(header):
                fault = f"has {len(cells)} cells, the header has {len(header)}"
                yield Record(number, None, feed.record_line, (fault,))
                continue
            raw = {
                field: cells[place]
                for field, place in places.items()
                if cells[place].strip() or field in task.required_fields
            }
            yield Record(number, raw, feed.record_line)


class _Feed:
    """Lines for `csv.reader`, which joins those that quotes span; counts and bounds them."""

    def __init__(self, name: str, lines: Iterator[str | None]) -> None:
        self.name = name
        self.record_line = 1
        self.ended = False
        self._lines = lines
        self._line = 0
        self._pushed: str | None = None
        self._chars = 0

    def __iter__(self) -> _Feed:
        return self

    def __next__(self) -> str:
        if self._pushed is not None:
            line: str | None = self._pushed
            self._pushed = None
        else:
            try:
                line = next(self._lines)
            except StopIteration:
                self.ended = True
                raise
            self._line += 1
        self._chars += len(line or "")
        if line is None or self._chars > MAX_RECORD_CHARS:
            raise DataError(
                f"{self.name}, line {self.record_line}: a row that begins here is {TOO_LONG}",
                hint="look for a quote that does not end, or shorten the text",
            )
        return line

    def push_back(self, line: str) -> None:
        """Give the last line once more."""
        self._pushed, self._chars = line, 0

    def begin(self) -> None:
        """A new row begins with the next line."""
        self._chars = 0
        self.record_line = self._line + (self._pushed is None)


def _next_row(reader: Iterator[list[str]], feed: _Feed) -> list[str] | None:
    feed.begin()
    try:
        return next(reader, None)
    except csv.Error:  # its text may change with Python, and is not needed
        what = (
            "a quote that does not end, in a row that begins here"
            if feed.ended
            else "malformed CSV: a closing quote must be followed by a separator or the line's end, "
            "and a line must end with a line feed"
        )
        raise DataError(
            f"{feed.name}, line {feed.record_line}: {what}",
            hint='put text that holds separators or quotes in quotes, and double each quote: ""',
        ) from None


@contextmanager
def _field_limit() -> Iterator[None]:
    """The module's limit is the process's; rows are bounded by `_Feed`."""
    before = csv.field_size_limit(MAX_RECORD_CHARS + 1)
    try:
        yield
    finally:
        csv.field_size_limit(before)


def _wanted(task: Task, columns: Mapping[str, str]) -> dict[str, str]:
    """Column name by field."""
    known = ("id", "date", *task.fields)
    if unknown := sorted(set(columns) - set(known)):
        raise ConfigError(
            f"columns: {', '.join(unknown)} is no field of task {task.name}",
            hint=f"fields: {', '.join(known)}",
        )
    return {field: columns.get(field, field) for field in known}


def _sniff(line: str, names: set[str]) -> str:
    """The separator under which a header has the most known names, then the most cells."""

    def score(delimiter: str) -> tuple[int, int]:
        cells = _header_cells(line, delimiter)
        return len(names & set(cells)), len(cells)

    return max(DELIMITERS, key=score)


def _header_cells(line: str, delimiter: str) -> list[str]:
    try:
        return [cell.strip() for cell in next(csv.reader([line], delimiter=delimiter), [])]
    except csv.Error:
        return []


def _places(
    name: str,
    header: Sequence[str],
    delimiter: str,
    wanted: Mapping[str, str],
    task: Task,
    columns: Mapping[str, str],
) -> dict[str, int]:
    """Cell index by field. Raises DataError for columns that are missing or stand there twice."""
    names = [cell.strip() for cell in header]
    needed = [field for field in wanted if field in task.required_fields or field in columns]
    if missing := [wanted[field] for field in needed if wanted[field] not in names]:
        raise DataError(
            f"{name}: no column named {', '.join(missing)}; {_found(names, wanted)}",
            hint="the first row must name the columns; --column FIELD=NAME says where one of the "
            f"task's fields {', '.join(wanted)} (read as separated by {DELIMITERS[delimiter]})",
        )
    if twice := sorted({column for column in wanted.values() if names.count(column) > 1}):
        raise DataError(
            f"{name}: the header names {', '.join(twice)} twice", hint="rename one of the columns"
        )
    return {field: names.index(column) for field, column in wanted.items() if column in names}


def _found(names: Sequence[str], wanted: Mapping[str, str]) -> str:
    """What the header has. A row that may be a person's text is only counted."""
    is_header = set(names) & set(wanted.values()) or (
        len(names) > 1 and all(_LOOKS_LIKE_A_NAME.fullmatch(column) for column in names)
    )
    if not is_header:
        return f"found {len(names)} cells in the first row that do not look like column names"
    shown = [column[:40] for column in names[:_SHOWN_COLUMNS] if column.isprintable()]
    return f"found {', '.join(shown)}{' and more' if len(names) > len(shown) else ''}"
