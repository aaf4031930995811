"""Which items of a history are kept, and in which order: each once, the newest N, oldest first.

Memory is bounded: kept are the newest N by date and, until it is known which order counts, the last N
of the file. Items of one day are ordered by their time where the file has it. Where some items lack a
date, the file's order counts, reversed if the other dates only fall. Repeated items are found by their
id among the last `REMEMBERED` different records and among the kept ones; further apart they count as
two.
"""

from __future__ import annotations

import hashlib
import heapq
import json
from collections import OrderedDict, deque
from dataclasses import dataclass

from proper_model.bundle.limits import MIB
from proper_model.data import date_key, oddity
from proper_model.errors import DataError
from proper_model.tasks import HistoryItem, Place, Report

REMEMBERED = 100_000
MIN_FALLS = 2  # falling dates that show a file to begin with the newest
MAX_KEPT_CHARS = 256 * MIB


def content_digest(item: HistoryItem) -> bytes:
    """SHA-256 of fields and date, independent of the order of fields and the wording of the date."""
    text = json.dumps([sorted(item.fields.items()), date_key(item.date)])
    return hashlib.sha256(text.encode()).digest()


def content_id(item: HistoryItem) -> str:
    """An id for an item without one: 16 hexadecimal digits, the same in every form and file."""
    return content_digest(item)[:8].hex()


@dataclass(frozen=True)
class _Seen:
    content: bytes
    number: int


class Keeper:
    """Takes items in the order of the file. Not more than `limit` of them remain."""

    def __init__(self, name: str, limit: int) -> None:
        self.name = name
        self.limit = limit
        self.different = 0
        self.duplicates = 0
        self._recent: OrderedDict[bytes, _Seen] = OrderedDict()
        self._last: deque[HistoryItem] = deque()
        self._dated: list[tuple[tuple[int, ...], int, bytes, HistoryItem]] | None = []
        self._dated_seen: dict[bytes, _Seen] = {}
        self._before: tuple[int, ...] | None = None
        self._rises = self._falls = 0
        self._forms: dict[int, tuple[int, ...] | None] = {}
        self._chars = 0

    def add(
        self, item: HistoryItem, number: int, when: tuple[int, ...] | None = None
    ) -> int | None:
        """Take record `number`. Returns the number of an earlier one with its id and other content.

        `when` orders more finely than the item's date, of which it is a part.

        Raises DataError if the kept items hold more text than memory should.
        """
        key = hashlib.sha256(item.id.encode()).digest()[:16]
        date = date_key(item.date)
        seen = _Seen(content_digest(item)[:16], number)
        known = self._recent.get(key) or self._dated_seen.get(key)
        if known is not None:
            if known.content != seen.content:
                return known.number
            self.duplicates += 1
            return None
        self.different += 1
        self._recent[key] = seen
        if len(self._recent) > max(REMEMBERED, self.limit):
            self._recent.popitem(last=False)
        self._keep(item, date if when is None else when, key, seen)
        if self._chars > MAX_KEPT_CHARS:
            raise DataError(
                f"{self.name}: the newest {self.limit} items hold more than {MAX_KEPT_CHARS} "
                "characters",
                hint="keep fewer items with --max-items",
            )
        return None

    def _keep(
        self, item: HistoryItem, date: tuple[int, ...] | None, key: bytes, seen: _Seen
    ) -> None:
        day = None if date is None else date[:3]
        self._forms.setdefault(0 if day is None else len(day), day)
        if date is not None:
            self._rises += self._before is not None and date > self._before
            self._falls += self._before is not None and date < self._before
            self._before = date
        self._last.append(item)
        self._chars += _chars(item)
        if len(self._last) > self.limit:
            self._chars -= _chars(self._last.popleft())
        if date is None and self._dated is not None:  # the file's order counts
            self._chars -= sum(_chars(entry[-1]) for entry in self._dated)
            self._dated = None
            self._dated_seen.clear()
        if self._dated is None or date is None:
            return
        # Numbers differ, so that items themselves are never compared.
        heapq.heappush(self._dated, (date, seen.number, key, item))
        self._dated_seen[key] = seen
        self._chars += _chars(item)
        if len(self._dated) > self.limit:
            *_, oldest_key, oldest = heapq.heappop(self._dated)
            del self._dated_seen[oldest_key]
            self._chars -= _chars(oldest)

    @property
    def older(self) -> int:
        """Items that newer ones displaced."""
        return self.different - len(self._last)

    def items(self) -> tuple[HistoryItem, ...]:
        """Oldest first: by date where every item has one, else as the file has them."""
        if self._dated is None:
            return tuple(reversed(self._last)) if self._begins_newest else tuple(self._last)
        return tuple(entry[-1] for entry in sorted(self._dated))

    @property
    def _begins_newest(self) -> bool:
        """Whether the dates, as far as there are any, say that the file begins with the newest."""
        return self._falls >= MIN_FALLS and not self._rises and not self.older

    def warn(self, report: Report) -> None:
        """Report what is odd about the dates of all items."""
        odd = oddity(tuple(self._forms.values()))
        if odd is not None and self._dated is None and self._begins_newest:
            odd += ", turned round, since its dates go back in time"
        if odd is None and self._dated is None and self.different > 1:
            odd = "no item has a date, so the file's order counts, oldest first"
        if odd is not None:
            report.warn(Place(self.name), odd)


def _chars(item: HistoryItem) -> int:
    return len(item.id) + sum(map(len, item.fields.values()))
