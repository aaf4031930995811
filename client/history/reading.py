"""One person's own history from a file or standard input: checked, each item once, in time order.

Memory is bounded by the newest items that are kept, and by the text of a file that is one JSON value;
plaintext is copied nowhere. Messages name file, record, line and field; they quote nothing.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

from client.history.dates import ORDER_HINT, ORDERS, OrderUnknownError, order_of
from client.history.fields import OTHER_CASE, dig
from client.history.forms import FORMS, ReadOptions, open_reading
from client.history.item import FAULTY, Drafter, Faults
from client.history.layouts import Layout
from client.history.newest import Keeper
from client.history.rating_scale import Scale, parse_scale
from client.history.text_input import STANDARD_INPUT, open_history
from proper_model.errors import ConfigError, DataError
from proper_model.progress import Progress, silent
from proper_model.tasks import HistoryItem, Place, Task, counted

__all__ = ["History", "ReadOptions", "read_history"]

DEFAULT_MAX_ITEMS = 20_000
MAX_PROBLEMS = 20  # different ones that warnings tell of
DUPLICATE, OLDER = "duplicate", "older"
PHASE = "reading history (MiB)"


@dataclass(frozen=True)
class History:
    """What was read. `read == len(items) + sum(left_out.values())`.

    Attributes:
        name: of the file, fit for messages.
        items: oldest first; not shown by `repr`.
        read: records seen.
        left_out: how many of them are missing in `items`, by reason.
        warnings: sentences with places and counts, without text of the history.
        layout: the export that was recognized, None for a file of the task's own fields.
        places: where each field was read, for an export.
        asked: whether the person named where every field stands.
    """

    items: tuple[HistoryItem, ...] = field(repr=False)
    read: int
    left_out: Mapping[str, int]
    warnings: tuple[str, ...]
    name: str = ""
    layout: Layout | None = None
    places: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    asked: bool = True


def read_history(
    source: Path | None,
    task: Task,
    options: ReadOptions | None = None,
    *,
    progress: Progress = silent,
) -> History:
    """Read a history from a file, or from standard input for None and `-`.

    Args:
        options: how; None: as it is recognized.
        progress: called with a phase, mebibytes read, and their whole.

    Raises:
        ConfigError: an unknown form, order or scale, a field the task does not have, `max_items`
            below 1.
        DataError: the file cannot be read or followed, a record is faulty and `lenient` is False,
            or nothing says what a date or a sender means.
    """
    chosen = options or ReadOptions()
    scale = _checked(chosen, task)
    try:
        return _read(source, task, chosen, scale, progress)
    except OrderUnknownError:
        order = _order(source, task, chosen)
    return _read(source, task, dataclasses.replace(chosen, date_order=order), scale, progress)


def _checked(options: ReadOptions, task: Task) -> Scale | None:
    """The scale that `options` name. Raises ConfigError for options that cannot be."""
    if options.form not in (None, *FORMS):
        raise ConfigError(f"unknown form '{options.form}'", hint=f"forms: {', '.join(FORMS)}")
    if options.max_items is not None and options.max_items < 1:
        raise ConfigError(f"max_items: expected at least 1, got {options.max_items}")
    if options.date_order not in (None, *ORDERS):
        raise ConfigError("unknown order of dates", hint=f"--date-order {', '.join(ORDERS)}")
    if not options.use_date and options.columns.get("date"):
        raise ConfigError("--no-date and --column date=... contradict each other")
    if options.date_order is not None and (
        not options.use_date or options.columns.get("date") == ""
    ):
        raise ConfigError("--date-order is for dates, and none are to be read")
    if options.scale is None:
        return None
    if task.kind != "ordinal" or not task.labels or task.answer_field is None:
        raise ConfigError(f"--scale: task {task.name} has no scale of numbers")
    return parse_scale(options.scale, task.labels)


def _read(
    source: Path | None, task: Task, options: ReadOptions, scale: Scale | None, progress: Progress
) -> History:
    report = Faults(strict=not options.lenient, limit=MAX_PROBLEMS)
    left: Counter[str] = Counter()
    read = 0

    def on_read(done: int, size: int) -> None:
        progress(PHASE, done >> 20, size >> 20)

    with open_history(source, on_read=on_read) as opened:
        keeper = Keeper(opened.name, options.max_items or DEFAULT_MAX_ITEMS)
        reading = open_reading(opened, task, options)
        for column in reading.other_case:
            report.warn(Place(opened.name, field=column), OTHER_CASE)
        drafter = Drafter(opened.name, task, reading, report, scale, options)
        # Closed here, whatever happens: a reader may have changed a setting of its library.
        with closing(reading.records):
            for record in reading.records:
                read += 1
                draft = drafter.draft(record)
                if isinstance(draft, str):
                    left[draft] += 1
                    continue
                other = keeper.add(draft.item, record.number, draft.when)
                if other is not None:
                    place = Place(opened.name, record.number, "id", record.line)
                    report.error(place, f"the same id as record {other}, with another content")
                    left[FAULTY] += 1
    drafter.check_all()
    if reading.date_option and keeper.different > 1:
        option = reading.date_option
        report.warn(
            Place(opened.name), f"read without dates; {option} may say when items were made"
        )
    if keeper.older and options.max_items is None:
        older = counted(keeper.older, "item")
        report.warn(
            Place(opened.name), f"{older} left out, older than the newest {DEFAULT_MAX_ITEMS}"
        )
    keeper.warn(report)
    items = keeper.items()
    if not items:
        report.warn(Place(opened.name), "holds no usable item; you get what an average user gets")
    left += Counter({DUPLICATE: keeper.duplicates, OLDER: keeper.older})
    selection = reading.selection
    return History(
        items=items,
        read=read,
        left_out=dict(left),
        warnings=tuple(str(group) for group in report.groups),
        name=opened.name,
        layout=selection.layout,
        places=selection.places,
        asked=selection.required <= selection.given,
    )


def _order(source: Path | None, task: Task, options: ReadOptions) -> str:
    """Which of day and month stands first, told by the first date that shows it."""
    name = STANDARD_INPUT
    if source is not None and str(source) != "-":
        with open_history(source) as opened:
            name = opened.name
            reading = open_reading(opened, task, options)
            places = reading.selection.places["date"]
            with closing(reading.records):
                order = order_of(
                    dig(record.raw, place)
                    for record in reading.records
                    for place in places
                    if isinstance(record.raw, dict)
                )
        if order is not None:
            return order
    raise DataError(
        f"{name}: dates such as 03/04/2024, and none says whether the day or the month stands first",
        hint=ORDER_HINT,
    )
