"""Dates of history items: a day, a month or a year, compared as calendar dates, never as strings.

LaMP writes `YYYY-MM-DD` or an integer year (docs/method.md 4.1). One history may mix them; a date
that says less counts as the beginning of what it names, so that a year stands before the days in
it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import date

DATE_HINT = "write dates as YYYY-MM-DD or YYYY, or leave them all out: then the file's order counts"
_DATE = re.compile(r"([0-9]{4})(?:-([0-9]{1,2})(?:-([0-9]{1,2}))?)?")


def date_key(text: str | None) -> tuple[int, ...] | None:
    """(year), (year, month) or (year, month, day); None for None and for no date of the calendar.

    Keys compare in time order, and a shorter one stands before those that it is the beginning of.
    """
    match = None if text is None else _DATE.fullmatch(text.strip())
    if match is None:
        return None
    parts = tuple(int(part) for part in match.groups() if part is not None)
    try:
        date(*(*parts, 1, 1)[:3])
    except ValueError:
        return None
    return parts


def normal_date(key: tuple[int, ...]) -> str:
    """The one spelling of a date: (2020, 2, 1) -> '2020-02-01'."""
    return "-".join(f"{part:0{width}}" for part, width in zip(key, (4, 2, 2), strict=False))


def oddity(keys: Sequence[tuple[int, ...] | None]) -> str | None:
    """A warning about the dates of one history, None if there is none. A key of None: no date."""
    dated = [key for key in keys if key is not None]
    if dated and len(dated) < len(keys):
        return "only some items have a date, so the file's order counts"
    if len({len(key) for key in dated}) > 1:
        return "mixes years and full dates; a year counts as its beginning"
    return None
