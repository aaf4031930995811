"""Dates as programs export them: ISO, RFC 2822, Unix times, 03/04/2024, `4 June 2020`, with times.

A date is kept as the day that stands there, and ordered by its instant: with a zone, by the time in
UTC. Whether 03/04/2024 is April or March is never guessed: one date of the column that can be read
in one way only decides for all, or the person does.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

from proper_model.data import date_key, normal_date

ORDERS = ("dmy", "mdy", "ymd")
_ORDER_WORDS = {"dmy": "the day", "mdy": "the month", "ymd": "the year"}
OPTIONS_HINT = "--no-date reads the items without dates, --lenient leaves out dates like this one"
ORDER_HINT = (
    "say which it is: --date-order dmy (day first), mdy (month first), or ymd (year first, as in "
    "24-03-15)"
)
MAX_DATE_CHARS = 100
# 1973 and 2286 in seconds; a thousand times that in milliseconds.
MIN_UNIX, MAX_UNIX = 10**8, 10**10
MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_MONTH = rf"(?P<month>{'|'.join(MONTHS)})[a-z]*\.?"
_TIME = (
    r"(?P<hour>\d{1,2})[:.](?P<minute>\d{2})(?:[:.](?P<second>\d{2})(?:[.,](?P<fraction>\d{1,9}))?)?"
    r"(?:\s*(?P<half>[ap])\.?\s?m\.?)?"
)
_ZONE = r"(?:\s*(?P<zone>z|utc|gmt|[+-]\d{2}:?\d{2}|[+-]\d{2})(?:\s*\([^)]*\))?)?"
_CLOCK = rf"(?:[\sT,]+(?:at\s+|klo\s+)?{_TIME}{_ZONE})?"
_DAY_NAME = r"(?:[a-z]{3,9}\.?,?\s+)?"
_FORMS = tuple(
    re.compile(form + r"\s*", re.IGNORECASE)
    for form in (
        # 2024-03-01, 2024/3/1 and 20240301, with or without a time; 2024/03
        rf"(?P<year>\d{{4}})[-/.](?P<number>\d{{1,2}})[-/.](?P<day>\d{{1,2}}){_CLOCK}",
        r"(?P<year>(?:19|20)\d{2})/(?P<number>\d{1,2})(?P<day>)",
        rf"(?P<year>(?:19|20)\d{{2}})(?P<number>\d{{2}})(?P<day>\d{{2}})(?:T{_TIME}{_ZONE})?",
        # Wed Oct 10 20:19:24 +0000 2018
        rf"{_DAY_NAME}{_MONTH}\s+(?P<day>\d{{1,2}})\s+{_TIME}{_ZONE}\s+(?P<year>\d{{4}})",
        # Wed, 10 Oct 2018 20:19:24 +0000; Thursday, 4 June 2020 12:18:46
        rf"{_DAY_NAME}(?P<day>\d{{1,2}})(?:st|nd|rd|th|\.)?[\s-]+{_MONTH}[\s,-]+(?P<year>\d{{4}})"
        rf"{_CLOCK}",
        # Sunday, December 4, 2016 9:26:27 PM
        rf"{_DAY_NAME}{_MONTH}\s+(?P<day>\d{{1,2}})(?:st|nd|rd|th)?,?\s+(?P<year>\d{{4}}){_CLOCK}",
    )
)
_NUMBERS = re.compile(
    rf"(?P<a>\d{{1,2}})(?P<sign>[/.-])(?P<b>\d{{1,2}})(?P=sign)(?P<c>\d{{4}}|\d{{2}})\.?{_CLOCK}\s*",
    re.IGNORECASE,
)
_DIGITS = re.compile(  # 202403011430, 20240301143059
    r"(?P<year>(?:19|20)\d{2})(?P<month>0[1-9]|1[0-2])(?P<day>[0-2]\d|3[01])"
    r"(?P<hour>[01]\d|2[0-3])(?P<minute>[0-5]\d)(?P<second>[0-5]\d)?"
)
_UNIX = re.compile(r"(\d{9,13})(?:\.\d+)?")


class NoDateError(ValueError):
    """A text is no date of the calendar; the message says what it looks like, and quotes nothing."""


class OtherOrderError(NoDateError):
    """A date that cannot be read in the order of the others."""


class OrderUnknownError(NoDateError):
    """Day and month could be either; nothing said which."""


@dataclass(frozen=True)
class Moment:
    """One date. `key` compares in time order, `day` is what an item keeps."""

    key: tuple[int, ...]
    day: str


@dataclass
class DateReader:
    """Reads the dates of one column.

    `order` is what a person said, or what a date of the column showed; once it is known every other
    date is read in the same way.
    """

    order: str | None = None

    def __post_init__(self) -> None:
        self.given = self.order is not None

    def read(self, value: Any) -> Moment | None:
        """The moment of a cell or a JSON value; None for nothing. Raises NoDateError."""
        if value is None:
            return None
        if isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, str | int):
            raise NoDateError("expected a date, found something else")
        too_long = abs(value) >= 10**18 if isinstance(value, int) else len(value) > MAX_DATE_CHARS
        if too_long:
            raise NoDateError(f"longer than {MAX_DATE_CHARS} characters, so no date")
        text = str(value).replace("\u202f", " ").replace("\u00a0", " ").strip()
        if not text:
            return None
        key = date_key(text)
        return Moment(key, normal_date(key)) if key is not None else self._written(text)

    def _written(self, text: str) -> Moment:
        if match := _DIGITS.fullmatch(text):  # sooner than the milliseconds of a day in 1976
            parts = match.groupdict()
            return _moment(int(parts["year"]), int(parts["month"]), int(parts["day"]), parts)
        if (unix := _UNIX.fullmatch(text)) and (moment := _of_unix(int(unix[1]))):
            return moment
        for form in _FORMS:
            if match := form.fullmatch(text):
                parts = match.groupdict()
                month = parts.get("number") or MONTHS.index(parts["month"].lower()) + 1
                if not parts["day"]:
                    return _of_month(int(parts["year"]), int(month))
                return _moment(int(parts["year"]), int(month), int(parts["day"]), parts)
        if match := _NUMBERS.fullmatch(text):
            return self._of_numbers(match)
        raise NoDateError(f"not a date, {_looks_like(text)}")

    def _of_numbers(self, match: re.Match[str]) -> Moment:
        first, second, last = int(match["a"]), int(match["b"]), int(match["c"])
        order = self.order or shown_order(match)
        if order is None:
            raise OrderUnknownError("the day or the month could stand first")
        if order == "ymd" and len(match["c"]) == 4:
            raise OtherOrderError("the year stands last, and first as --date-order says")
        if order == "ymd":
            day, month, year = last, second, first + 2000
        else:
            day, month = (first, second) if order == "dmy" else (second, first)
            year = last if len(match["c"]) == 4 else 2000 + last
        if month > 12 >= day > 0:
            where = "--date-order says" if self.given else "elsewhere in this file"
            raise OtherOrderError(f"no such month with {_ORDER_WORDS[order]} first, as {where}")
        moment = _moment(year, month, day, match.groupdict())
        self.order = order
        return moment


def shown_order(match: re.Match[str]) -> str | None:
    """What three numbers show about their order; points are used where the day stands first."""
    first, second, last = int(match["a"]), int(match["b"]), match["c"]
    if match["sign"] == "-" and first > 12 and len(last) == 2 and 0 < int(last) <= 31:
        return None  # 24-03-15: the year may stand first, as in ISO 8601
    if first > 12 or match["sign"] == ".":
        return "dmy"
    return "mdy" if second > 12 else None


def order_of(values: Iterable[Any]) -> str | None:
    """The order that the first date of a column that can be read in one way shows; None without one."""
    for value in values:
        reader = DateReader()
        with suppress(NoDateError):
            reader.read(value)
        if reader.order is not None:
            return reader.order
    return None


def _of_unix(number: int) -> Moment | None:
    seconds, rest = (number, 0) if number < MAX_UNIX else divmod(number, 1000)
    if not MIN_UNIX <= seconds < MAX_UNIX:
        return None
    return _of_instant(
        datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=seconds, milliseconds=rest)
    )


def _of_instant(written: datetime) -> Moment:
    """Ordered by the instant in UTC, kept as the day that was written."""
    try:
        instant = written.astimezone(UTC) if written.tzinfo else written
    except OverflowError:  # the first or the last day of the calendar
        instant = written
    key = (*instant.timetuple()[:6], instant.microsecond)
    return Moment(key, written.date().isoformat())


def _moment(year: int, month: int, day: int, parts: dict[str, str | None]) -> Moment:
    hour = parts.get("hour")
    try:
        if hour is None:
            written = datetime(year, month, day)  # noqa: DTZ001 - no zone was written
            return Moment(written.timetuple()[:3], written.date().isoformat())
        return _of_instant(
            datetime(
                year,
                month,
                day,
                _hour(int(hour), parts.get("half")),
                int(parts["minute"] or 0),
                min(int(parts.get("second") or 0), 59),  # leap seconds
                int((parts.get("fraction") or "0").ljust(6, "0")[:6]),
                tzinfo=_zone(parts.get("zone")),
            )
        )
    except ValueError:
        raise NoDateError("not a date of the calendar") from None


def _of_month(year: int, month: int) -> Moment:
    if not 1 <= month <= 12:
        raise NoDateError("not a date of the calendar")
    return Moment((year, month), normal_date((year, month)))


def _hour(hour: int, half: str | None) -> int:
    if half is None:
        return hour
    if not 1 <= hour <= 12:
        raise ValueError
    return hour % 12 + 12 * (half.lower() == "p")


def _zone(text: str | None) -> timezone | None:
    if text is None:
        return None
    if text[0] not in "+-":
        return UTC
    digits = text[1:].replace(":", "").ljust(4, "0")
    offset = timedelta(hours=int(digits[:2]), minutes=int(digits[2:]))
    return timezone(-offset if text[0] == "-" else offset)


def _looks_like(text: str) -> str:
    """A kind in words, for a message."""
    if not any(character.isdigit() for character in text):
        return "found text without a digit"
    if text.isdigit():
        return f"found a number of {len(text)} digits"
    return "found text in another form"
