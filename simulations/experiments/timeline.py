"""A person's history as it comes about: a first half, then parts, then items nobody trains on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from client.person.evaluation import LEAST_TESTED, TESTED_SHARE
from client.person.updating import in_time
from proper_model.errors import DataError
from proper_model.tasks import HistoryItem

Items = tuple[HistoryItem, ...]


APART = 4  # one item in so many of the first half is kept apart


@dataclass(frozen=True)
class Timeline:
    """Oldest first: `first` adapts, `parts` arrive one after another; the others only judge.

    `apart` are items of the same time as `first`, for what later training unlearns: by items that
    it rehearses, no training could be seen to forget.
    """

    first: Items
    apart: Items
    parts: tuple[Items, ...]
    newest: Items

    @property
    def known(self) -> Items:
        """What a training from scratch sees."""
        return (*self.first, *(item for part in self.parts for item in part))


def first_half(count: int) -> int:
    """How many of `count` items are the first half, the newest fifth being taken away before."""
    return (count - _newest(count)) // 2


def needed(parts: int, least: int) -> int:
    """The shortest history that can be cut, where `least` items are needed to train at all."""
    count = LEAST_TESTED + least + max(parts, least)
    while (
        _trained(first_half(count)) < max(1, least)
        or count - _newest(count) - first_half(count) < parts
    ):
        count += 1
    return count


def cut(history: Sequence[HistoryItem], *, parts: int, least: int) -> Timeline:
    """Cut a history. Raises DataError where a half would be too small, or a part empty."""
    items = in_time(history)
    half, known = first_half(len(items)), len(items) - _newest(len(items))
    second = items[half:known]
    if _trained(half) < max(1, least) or len(second) < parts:
        raise DataError(
            f"a history of {len(items)} items leaves {_trained(half)} to train on in the first half "
            f"and {len(second)} in the second; training needs {least}, {parts} parts need {parts}",
            hint=f"give histories of {needed(parts, least)} items or more, or fewer --parts",
        )
    ends = [round(len(second) * (k + 1) / parts) for k in range(parts)]
    return Timeline(
        first=tuple(item for place, item in enumerate(items[:half], start=1) if place % APART),
        apart=items[APART - 1 : half : APART],
        parts=tuple(second[a:b] for a, b in zip([0, *ends], ends, strict=False)),
        newest=items[known:],
    )


def _trained(half: int) -> int:
    """How many items of a first half of so many train; none where none could be kept apart."""
    return 0 if half < APART else half - half // APART


def _newest(count: int) -> int:
    return min(count, max(LEAST_TESTED, round(TESTED_SHARE * count)))
