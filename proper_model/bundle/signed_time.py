"""Times in signed documents: their one form, and how far they may reach.

Every update is judged against one time, taken when it starts, so that a clock that moves or a slow
server cannot make two documents of one update valid at different times.
Source: docs/bundle-format.md section 4; The Update Framework, section 5 ("fixed update start time").
"""

from __future__ import annotations

from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

from pydantic import AfterValidator

from proper_model.errors import BundleFormatError, BundleTimeError, ConfigError

# A publisher's clock may be this much ahead of a device's.
CLOCK_SKEW = timedelta(hours=1)
# How long a document may be valid. One that never expired would let a server show it for ever.
MAX_RELEASE_DAYS = 400
MAX_LATEST_DAYS = 100
MAX_ROOT_DAYS = 5 * 366
LATEST_DAYS = 30  # what a publisher takes by default

_TIME_FORM = "%Y-%m-%dT%H:%M:%SZ"


def format_time(moment: datetime) -> str:
    """UTC with second resolution, the one form of a time in signed documents.

    Raises ConfigError: the time has no time zone.
    """
    if moment.tzinfo is None:
        raise ConfigError("time for a release: has no time zone, expected an aware datetime")
    return moment.astimezone(UTC).strftime(_TIME_FORM)


def parse_time(text: str) -> datetime:
    """Inverse of `format_time`.

    Raises ValueError: any other form.
    """
    with suppress(ValueError):
        moment = datetime.strptime(text, _TIME_FORM).replace(tzinfo=UTC)
        if moment.strftime(_TIME_FORM) == text:  # strptime also takes months of one digit
            return moment
    raise ValueError("time: expected YYYY-MM-DDTHH:MM:SSZ")


def time_field(value: Any, where: str) -> datetime:
    """The time in a field of a document. Raises BundleFormatError."""
    try:
        return parse_time(value if isinstance(value, str) else "")
    except ValueError as error:
        raise BundleFormatError(f"{where}: {error}") from None


def _time_text(text: str) -> str:
    parse_time(text)
    return text


Time = Annotated[str, AfterValidator(_time_text)]


def check_lifetime(created: datetime, expires: datetime, most_days: int, *, where: str) -> None:
    """Refuse what expires before it was made, or so late that it never does in effect.

    Raises BundleFormatError: the order of the two is wrong; BundleTimeError: too long, with both
    numbers.
    """
    if expires <= created:
        raise BundleFormatError(f"{where}: expires is not after created")
    if expires - created > timedelta(days=most_days):
        days = (expires - created).days
        raise BundleTimeError(
            f"{where}: valid for {days} days, expected at most {most_days}",
            hint="the publisher must sign it again for a shorter time",
        )


def check_created(created: datetime, now: datetime, *, where: str) -> None:
    """Refuse what was made later than `now`, but for a difference of clocks.

    Raises BundleTimeError with both times.
    """
    if created > now + CLOCK_SKEW:
        raise BundleTimeError(
            f"{where}: made at {format_time(created)}, but the time here is {format_time(now)}",
            hint="set this device's clock; if it is right, the publisher's was wrong: ask there",
        )
