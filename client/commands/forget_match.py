"""Which items of a history a person means: `proper forget --items SELECTOR...`.

    3  5-9  3,5-9               numbers and ranges as `proper inspect --items` shows them, from 1
    ID                          the item's id
    before:DATE, after:DATE, on:DATE    YYYY, YYYY-MM or YYYY-MM-DD; the date itself is `on`
    contains:TEXT               in any field, whatever the case
    number:3-9, id:3            where a number is an id as well

Messages name a selector by its position: an id or a text may be private.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from typing import IO

from proper_model.data import date_key
from proper_model.errors import ConfigError, DataError
from proper_model.tasks import HistoryItem

HINT = (
    "selectors: a number or range as `proper inspect --items` shows them, an id, before:DATE, "
    "after:DATE, on:DATE, contains:TEXT"
)
_RANGE = r"[0-9]{1,12}(?:-[0-9]{1,12})?"
_LIST = re.compile(f"{_RANGE}(?:,{_RANGE})*")
MAX_SELECTOR_BYTES = 1 << 20
_KINDS = ("before", "after", "on", "contains", "number", "id")


def select_items(items: Sequence[HistoryItem], selectors: Iterable[str]) -> tuple[str, ...]:
    """Ids of the items that any selector names, each once, in the order of `items`.

    Items without a date are matched by no date. An item that says only a year counts as its
    beginning for `before:` and `after:`, and is `on:` that year alone.

    Raises ConfigError if there is no selector, or one is malformed, ambiguous or matches nothing.
    """
    chosen: set[str] = set()
    count = 0
    for count, selector in enumerate(selectors, start=1):
        matched = _matches(items, selector, f"selector {count}")
        if not matched:
            raise ConfigError(f"selector {count}: matches no item", hint=HINT)
        chosen |= matched
    if not count:
        raise ConfigError("no selector given", hint=HINT)
    return tuple(dict.fromkeys(item.id for item in items if item.id in chosen))


def read_selectors(stream: IO[bytes]) -> list[str]:
    """Selectors from standard input, one a line; empty lines count for nothing.

    Raises DataError if that is no UTF-8, or more than `MAX_SELECTOR_BYTES`.
    """
    data = stream.read(MAX_SELECTOR_BYTES + 1)
    if len(data) > MAX_SELECTOR_BYTES:
        raise DataError(
            f"stdin: more than {MAX_SELECTOR_BYTES} bytes of selectors",
            hint="forget in several steps, or name ranges of numbers such as 5-9",
        )
    try:
        lines = data.decode("utf-8-sig").split("\n")
    except UnicodeDecodeError:
        raise DataError("stdin: not UTF-8 text", hint="write one selector a line") from None
    return [line.removesuffix("\r") for line in lines if line.strip()]


def _matches(items: Sequence[HistoryItem], selector: str, place: str) -> set[str]:
    kind, colon, value = selector.partition(":")
    if not colon or kind not in _KINDS:
        return _by_id_or_number(items, selector, place)
    if not value.strip():
        raise ConfigError(f"{place}: nothing stands after {kind}:", hint=HINT)
    if kind == "id":
        return {item.id for item in items if item.id == value}
    if kind == "number":
        return _numbered(items, value, place)
    if kind == "contains":
        wanted = _folded(value)
        return {i.id for i in items if any(wanted in _folded(t) for t in i.fields.values())}
    return _dated(items, kind, value, place)


def _by_id_or_number(items: Sequence[HistoryItem], selector: str, place: str) -> set[str]:
    by_id = {item.id for item in items if item.id == selector}
    if _LIST.fullmatch(selector) is None:
        return by_id
    if not by_id:
        return _numbered(items, selector, place)
    try:
        numbered = _numbered(items, selector, place)
    except ConfigError:
        return by_id  # no such number
    if numbered != by_id:
        raise ConfigError(
            f"{place}: is the id of one item and the number of another",
            hint="write id:... or number:...",
        )
    return by_id


def _numbered(items: Sequence[HistoryItem], value: str, place: str) -> set[str]:
    if _LIST.fullmatch(value) is None:
        raise ConfigError(f"{place}: expected numbers and ranges such as 3,5-9", hint=HINT)
    found: set[str] = set()
    for part in value.split(","):
        first, _, end = part.partition("-")
        low, high = int(first), int(end or first)
        if not 1 <= low <= high <= len(items):
            raise ConfigError(
                f"{place}: numbers go from 1 to {len(items)}, the smaller one first", hint=HINT
            )
        found |= {item.id for item in items[low - 1 : high]}
    return found


def _dated(items: Sequence[HistoryItem], kind: str, value: str, place: str) -> set[str]:
    wanted = date_key(value)
    if wanted is None:
        raise ConfigError(
            f"{place}: not a date of the calendar after {kind}:",
            hint="write YYYY-MM-DD, YYYY-MM or YYYY",
        )
    # A day is compared with a year or month by the part they share.
    tests: dict[str, Callable[[tuple[int, ...]], bool]] = {
        "before": lambda key: key[: len(wanted)] < wanted,
        "after": lambda key: key[: len(wanted)] > wanted,
        "on": lambda key: key[: len(wanted)] == wanted,
    }
    keys = ((item.id, date_key(item.date)) for item in items)
    return {item_id for item_id, key in keys if key is not None and tests[kind](key)}


def _folded(text: str) -> str:
    return unicodedata.normalize("NFKC", text).casefold()
