"""A person's history as a table: CSV with a header row, separated by comma, semicolon or tab.

RFC 4180 with a choice of separators, which Excel's line `sep=;` may name. Cells of optional columns
that are empty count as absent, since a table cannot tell the two apart.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain

from client.history.fields import OTHER_CASES, Selection, likely, shown_names
from client.history.layouts import is_known_name
from client.history.text_input import MAX_RECORD_CHARS, TOO_LONG, Record
from proper_model.errors import DataError

DELIMITERS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}
_SEPARATOR_LINE = re.compile(r'"?sep=(?P<sign>[,;\t|])"?\s*', re.IGNORECASE)


class Table:
    """A table whose header was read; `rows` can be read once.

    `names`: fields and columns that are asked for; the separator is the one that finds most of them.
    """

    def __init__(self, name: str, lines: Iterator[str | None], names: set[str]) -> None:
        self.name = name
        number, first = next(
            (number, line) for number, line in enumerate(lines, 1) if line is None or line.strip()
        )
        if named := _SEPARATOR_LINE.fullmatch(first or ""):
            self.delimiter = named["sign"]
            self._feed = _Feed(name, lines, number)
        else:
            self.delimiter = _sniff(first or "", names)
            self._feed = _Feed(name, chain([first], lines), number - 1)
        self._reader = csv.reader(self._feed, delimiter=self.delimiter, strict=True)
        with _field_limit():
            self.header = [cell.strip() for cell in _next_row(self._reader, self._feed) or []]

    def take_other_cases(self, names: Sequence[str]) -> list[str]:
        """Call columns as they are asked for where only the case is another one; which these are.

        Raises DataError where two columns are called like one of `names` but for the case.
        """
        taken = []
        for name in names:
            alike = [
                place
                for place, cell in enumerate(self.header)
                if cell.casefold() == name.casefold() and cell not in names
            ]
            if name in self.header or not alike:
                continue
            if len(alike) > 1:
                raise DataError(
                    f"{self.name}, column {name}: {OTHER_CASES}",
                    hint=f"rename one of the columns, or say which: --column {name}=NAME",
                )
            self.header[alike[0]] = name
            taken.append(name)
        return taken

    def rows(self, selection: Selection, fields: Sequence[str]) -> Generator[Record, None, None]:
        """Records with the cells of the selection's columns by name.

        Raises DataError for missing columns, a row that is too long and quotes that do not end.
        """
        places = self._places(selection, fields)
        with _field_limit():
            number = 0
            while (cells := _next_row(self._reader, self._feed)) is not None:
                if not cells:
                    continue
                number += 1
                line = self._feed.row_line
                extra = cells[len(self.header) :]
                if len(cells) < len(self.header) or any(cell.strip() for cell in extra):
                    fault = f"has {len(cells)} cells, the header has {len(self.header)}"
                    yield Record(number, None, line, (fault,))
                    continue
                yield Record(number, {column: cells[n] for column, n in places.items()}, line)

    def _places(self, selection: Selection, fields: Sequence[str]) -> dict[str, int]:
        """Cell index by column. Raises DataError for columns that are missing or stand there twice."""
        needed = selection.required | selection.given
        missing = [
            places[0]
            for field, places in selection.places.items()
            if field in needed and not set(places) & set(self.header)
        ]
        if missing:
            shown = self._shown(fields)
            guess = "; lines of text are no table: write one item a line as JSON"
            if shown:
                options = likely(self.header, [f for f in fields if f not in self.header])
                guess = f", such as {options}" if options else ""
            else:
                shown = (
                    f"{len(self.header)} cells in the first row that do not look like column names"
                )
            raise DataError(
                f"{self.name}: no column named {', '.join(dict.fromkeys(missing))}; found {shown}",
                hint="the first row must name the columns; --column FIELD=NAME says where one of the "
                f"task's fields {', '.join(fields)} stands{guess} "
                f"(read as separated by {DELIMITERS[self.delimiter]})",
            )
        twice = sorted(c for c in selection.columns if self.header.count(c) > 1)
        if twice:
            raise DataError(
                f"{self.name}: the header names {', '.join(twice)} twice",
                hint="rename one of the columns",
            )
        return {c: self.header.index(c) for c in selection.columns if c in self.header}

    def _shown(self, fields: Sequence[str]) -> str:
        """The header for a message; empty where it may be a person's text, as one cell mostly is."""
        if len(self.header) == 1 and self.header[0] not in fields:
            return ""
        return shown_names(self.header, fields)


class _Feed:
    """Lines for `csv.reader`, which joins those that quotes span; bounds a row's length.

    `row_line` is the number of the row's first line, `line` that of the last line given.
    """

    def __init__(self, name: str, lines: Iterator[str | None], line: int) -> None:
        self.name, self.line = name, line
        self.row_line = line + 1
        self.ended = False
        self._lines = lines
        self._chars = 0

    def __iter__(self) -> _Feed:
        return self

    def __next__(self) -> str:
        line = next(self._lines, "")
        if line == "":
            self.ended = True
            raise StopIteration
        self.line += 1
        self._chars += len(line or "")
        if line is None or self._chars > MAX_RECORD_CHARS:
            raise DataError(
                f"{self.name}, line {self.row_line}: a row that begins here is {TOO_LONG}",
                hint="look for a quote that does not end, or shorten the text",
            )
        return line

    def begin_row(self) -> None:
        self._chars = 0
        self.row_line = self.line + 1


def _next_row(reader: Iterator[list[str]], feed: _Feed) -> list[str] | None:
    feed.begin_row()
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
            f"{feed.name}, line {feed.row_line}: {what}",
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


def _sniff(line: str, names: set[str]) -> str:
    """The separator under which a header has the most known names, then the most cells."""

    def score(delimiter: str) -> tuple[int, int, int]:
        cells = _header_cells(line, delimiter)
        known = sum(is_known_name(cell) for cell in cells)
        return len(names & set(cells)), known if len(cells) > 1 else 0, len(cells)

    return max(DELIMITERS, key=score)


def _header_cells(line: str, delimiter: str) -> list[str]:
    try:
        return [cell.strip() for cell in next(csv.reader([line], delimiter=delimiter), [])]
    except csv.Error:
        return []
