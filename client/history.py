"""One person's own history from a file or standard input: streamed, checked, in time order.

Memory is bounded by the newest items that are kept, whatever the file holds, and plaintext is copied
nowhere. Messages name file, record, line and field; they quote nothing. Forms: `history_formats`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path

from client.history_formats import records_of
from client.history_order import Keeper, content_id
from client.history_source import Record, open_history
from proper_model.errors import ConfigError
from proper_model.parsing import identifier, parse_item
from proper_model.records import HistoryItem, Place, Report, counted
from proper_model.tasks import Task, folded

DEFAULT_MAX_ITEMS = 20_000
MAX_PROBLEMS = 20  # different ones that warnings tell of
DUPLICATE, FAULTY, OLDER = "duplicate", "faulty", "older"
PHASE = "reading history (MiB)"
MEND_HINT = "mend this record, or leave faulty records out with --lenient"

# (phase, done, total); total 0 means: unknown.
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class History:
    """What was read. `read == len(items) + sum(left_out.values())`.

    Attributes:
        items: oldest first; not shown by `repr`.
        read: records seen.
        left_out: how many of them are missing in `items`, by reason: `duplicate`, `faulty`, `older`.
        warnings: sentences with places and counts, without text of the history.
    """

    items: tuple[HistoryItem, ...] = field(repr=False)
    read: int
    left_out: Mapping[str, int]
    warnings: tuple[str, ...]


class _Faults(Report):
    """A report whose hint suits a person's own file."""

    def error(self, place: Place, message: str, *, hint: str = MEND_HINT) -> None:
        super().error(place, message, hint=hint)


def read_history(
    source: Path | None,
    task: Task,
    *,
    form: str | None = None,
    max_items: int | None = None,
    columns: Mapping[str, str] | None = None,
    lenient: bool = False,
    progress: Progress | None = None,
) -> History:
    """Read a history from a file, or from standard input for None and `-`.

    Args:
        form: `json`, `jsonl`, `csv` or `lamp`; None: recognized.
        max_items: the newest that are kept; None: `DEFAULT_MAX_ITEMS`, with a warning if it cuts.
        columns: column names of a table by field of the task, `id` or `date`.
        lenient: leave faulty records out instead of raising.
        progress: called with a phase, mebibytes read, and their whole.

    Raises:
        ConfigError: an unknown form, a field the task does not have, `max_items` below 1.
        DataError: the file cannot be read or followed, or a record is faulty and `lenient` is False.
    """
    if max_items is not None and max_items < 1:
        raise ConfigError(f"max_items: expected at least 1, got {max_items}")
    report = _Faults(strict=not lenient, limit=MAX_PROBLEMS)
    read = faulty = 0

    def on_read(done: int, size: int) -> None:
        if progress is not None:
            progress(PHASE, done >> 20, size >> 20)

    with open_history(source, on_read=on_read) as opened:
        keeper = Keeper(opened.name, max_items or DEFAULT_MAX_ITEMS)
        # Closed here, whatever happens: a reader may have changed a setting of its library.
        with closing(records_of(opened, task, form, columns)) as records:
            for record in records:
                read += 1
                faulty += not _take(record, opened.name, task, keeper, report)
    if keeper.older and max_items is None:
        report.warn(
            Place(opened.name),
            f"{counted(keeper.older, 'item')} left out, older than the newest {DEFAULT_MAX_ITEMS}",
        )
    keeper.warn(report)
    items = keeper.items()
    if not items:
        report.warn(Place(opened.name), "holds no usable item; you get what an average user gets")
    reasons = {DUPLICATE: keeper.duplicates, FAULTY: faulty, OLDER: keeper.older}
    return History(
        items=items,
        read=read,
        left_out={reason: count for reason, count in reasons.items() if count},
        warnings=tuple(str(group) for group in report.groups),
    )


def _take(record: Record, name: str, task: Task, keeper: Keeper, report: Report) -> bool:
    """Give a record to the keeper; False after reporting a faulty one."""
    place = Place(name, record.number, line=record.line)
    errors = report.errors
    for fault in record.faults:
        report.error(place, fault)
    if report.errors > errors:
        return False
    item = _item(record, task, place, report)
    if item is None or report.errors > errors:
        return False
    other = keeper.add(item, record.number)
    if other is not None:
        report.error(place.at("id"), f"the same id as record {other}, with another content")
        return False
    return True


def _item(record: Record, task: Task, place: Place, report: Report) -> HistoryItem | None:
    raw = record.raw
    named = isinstance(raw, dict) and raw.get("id") is not None and not record.anonymous
    if named:
        identifier(raw, "id", place, report)
    elif isinstance(raw, dict):
        raw = {key: value for key, value in raw.items() if key != "id"}
    item = parse_item(raw, record.number, task, place, report)
    if item is None:
        return None
    for name, text in item.fields.items():
        if "\0" in text:
            report.error(place.at(name), "a NUL character")
    _check_answer(item, task, place, report)
    return item if named else replace(item, id=content_id(item))


def _check_answer(item: HistoryItem, task: Task, place: Place, report: Report) -> None:
    name = task.answer_field
    answer = task.history_example(item).answer if name is None else item.fields[name]
    at = place if name is None else place.at(name)
    if not answer.strip():
        report.error(at, "the answer is empty")
        return
    labels = answer_labels(task)
    if labels is None or answer.strip() in labels:
        return
    close = folded(answer) in {folded(label) for label in labels}
    report.error(
        at,
        f"the answer is not among the {len(labels)} labels of task {task.name}"
        + (", but differs from one of them only in case or spaces" if close else ""),
    )


def answer_labels(task: Task) -> tuple[str, ...] | None:
    """Labels that answers of the history are among; None where it answers something else.

    Histories of LaMP-1 say what the user wrote, not which of two papers was cited: what they answer
    depends on the objective, whereas a label is the answer under every one.
    """
    if task.labels is None or task.answer_field is None:
        return None
    answers = {history.answer.strip() for history in task.spec.history.values()}
    return task.labels if len(answers) == 1 else None
