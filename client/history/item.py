"""One record of a person's history: an item, or the reason why it is none.

A field that the task does not need never costs an item: lenient reading leaves the field out, and
counts it. What has no text or no answer is no item, in strict reading as well.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NamedTuple

from client.history.dates import (
    OPTIONS_HINT,
    DateReader,
    NoDateError,
    OrderUnknownError,
    OtherOrderError,
)
from client.history.fields import OTHER_CASE, OTHER_CASES, Selection, is_empty, shown_names
from client.history.forms import Reading, ReadOptions
from client.history.newest import content_id
from client.history.rating_scale import NoRatingError, Ratings, Scale, begins_as, scale_name
from client.history.senders import Senders
from client.history.text_input import Record
from proper_model.data import identifier, parse_item, text_of
from proper_model.errors import DataError
from proper_model.tasks import HistoryItem, Place, Report, Task, folded

FAULTY = "faulty"
EMPTY = "without text or answer"
MEND_HINT = "mend this record, or leave faulty records out with --lenient"
OTHER_ORDER_HINT = (
    "the file's dates show two orders, as when a spreadsheet rewrote some of them: give the file as "
    "it was exported, or read it with --no-date"
)
GIVEN_ORDER_HINT = f"give the order that the dates have; {OPTIONS_HINT}"


class Faults(Report):
    """A report whose hint suits a person's own file."""

    def error(self, place: Place, message: str, *, hint: str = MEND_HINT) -> None:
        super().error(place, message, hint=hint)


class Draft(NamedTuple):
    """An item, and when it was made as far as the file says."""

    item: HistoryItem
    when: tuple[int, ...] | None


class Drafter:
    """Makes items of records; reports what is wrong with them."""

    def __init__(
        self,
        name: str,
        task: Task,
        reading: Reading,
        report: Report,
        scale: Scale | None,
        options: ReadOptions,
    ) -> None:
        self.name, self.task, self.report = name, task, report
        self.selection, self.is_table = reading.selection, reading.form == "csv"
        self.lenient = options.lenient
        self.dates = DateReader(options.date_order)
        self.senders = Senders(name, reading.selection.layout, options.sender, reading.owner)
        self.labels = answer_labels(task)
        self.folded: dict[str, list[str]] = {}
        for label in self.labels or ():
            self.folded.setdefault(folded(label), []).append(label)
        # Of an export it is known how its fields are written.
        self.keys = frozenset() if reading.selection.layout else reading.selection.columns
        self.rated = task.answer_field if task.kind == "ordinal" and self.labels else None
        self.ratings = Ratings(name, self.labels or (), scale)
        check_scale(name, reading.selection, self.labels if self.rated else None, scale)

    def check_all(self) -> None:
        """What only all records together show. Raises DataError."""
        self.senders.check()
        self.ratings.check()

    def draft(self, record: Record) -> Draft | str:
        """The item of a record, or the reason why it is left out. Raises DataError if strict."""
        place = Place(self.name, record.number, line=record.line)
        for fault in record.faults:
            self.report.error(place, fault)
        if record.faults:
            return FAULTY
        raw = record.raw
        if not isinstance(raw, dict):
            parse_item(raw, record.number, self.task, place, self.report)  # says what it is
            return FAULTY
        if self.selection.layout is not None:
            reason = self.senders.reason(raw, self.selection.reason(raw))
            if reason is not None:
                return reason
        if not self.is_table:
            errors = self.report.errors
            raw = self._take_keys(raw, place)
            if self.report.errors > errors:
                return FAULTY
        if self.is_table or not self.selection.is_plain:
            raw = self.selection.fields_of(raw)
        if any(name in raw and is_empty(raw[name]) for name in self.task.required_fields):
            return EMPTY
        errors = self.report.errors
        draft = self._draft(dict(raw), record, place)
        if draft is None or self.report.errors > errors:
            return FAULTY if self.report.errors > errors else EMPTY
        return draft

    def _draft(self, raw: dict[str, Any], record: Record, place: Place) -> Draft | None:
        named = self._keep_id(raw, place) and not record.anonymous
        if not named:
            raw.pop("id", None)
        when = self._keep_date(raw, place)
        self._keep_fields(raw, place)
        if self.rated in raw:
            raw[str(self.rated)] = self._rating(raw[str(self.rated)], place)
        elif self.labels is not None:
            self._take_label(raw, place)
        if self._lacks_field(raw, place):
            return None
        item = parse_item(raw, record.number, self.task, place, self.report)
        if item is None:
            return None
        for name, text in item.fields.items():
            if "\0" in text:
                self.report.error(place.at(name), "a NUL character")
        if not self._has_answer(item, place):
            return None
        return Draft(item if named else replace(item, id=content_id(item)), when)

    def _keep_id(self, raw: dict[str, Any], place: Place) -> bool:
        """Whether the record has an id to keep; a faulty one is dropped if lenient."""
        if raw.get("id") is None:
            return False
        quiet = Report(strict=False, limit=1)
        if identifier(raw, "id", place, quiet) is not None:
            return True
        for problem in quiet.problems:
            self._drop(raw, "id", place, problem.message)
        return False

    def _keep_date(self, raw: dict[str, Any], place: Place) -> tuple[int, ...] | None:
        """When the item was made; `raw` keeps the day in its one spelling."""
        try:
            moment = self.dates.read(raw.get("date"))
        except OrderUnknownError:
            raise
        except OtherOrderError as error:
            if self.lenient and self.dates.given:
                self._drop(raw, "date", place, str(error), hint=OPTIONS_HINT)
                return None
            # Where both orders stand in a file, none of its dates can be trusted.
            hint = GIVEN_ORDER_HINT if self.dates.given else OTHER_ORDER_HINT
            raise DataError(f"{place.at('date')}: {error}", hint=hint) from None
        except NoDateError as error:
            self._drop(raw, "date", place, str(error), hint=OPTIONS_HINT)
            return None
        if moment is None:
            raw.pop("date", None)
            return None
        raw["date"] = moment.day
        return moment.key

    def _keep_fields(self, raw: dict[str, Any], place: Place) -> None:
        """Drop fields that the task knows, does not need, and cannot read."""
        for name in self.task.fields:
            if name in self.task.required_fields or name not in raw:
                continue
            if raw[name] is None:
                del raw[name]
                continue
            quiet = Report(strict=False, limit=1)
            text = text_of(raw[name], place.at(name), quiet)
            if text is None or "\0" in text:
                what = quiet.problems[0].message if text is None else "a NUL character"
                hint = f"mend it, or read the items without it: --column {name}="
                self._drop(raw, name, place, what, hint=hint)

    def _drop(
        self, raw: dict[str, Any], name: str, place: Place, what: str, *, hint: str = MEND_HINT
    ) -> None:
        """Leave a field out and say so; in strict reading it is an error."""
        raw.pop(name, None)
        if self.lenient:
            self.report.warn(place.at(name), f"{what}; the item is read without it")
        else:
            self.report.error(place.at(name), what, hint=hint)

    def _rating(self, value: Any, place: Place) -> Any:
        """The label that a rating is; what is no text and no number is told of later."""
        if isinstance(value, bool) or not isinstance(value, str | int | float):
            return value
        try:
            return self.ratings.label(value if isinstance(value, str) else repr(value))
        except NoRatingError as error:
            where = place.at(self.rated or "")
            self.report.error(where, f"the answer is {error}", hint=error.hint)
            return self.ratings.labels[0]  # not used: the record is faulty

    def _take_label(self, raw: dict[str, Any], place: Place) -> None:
        """Put a label's own spelling in the place of one in another case; of two that fit, neither."""
        name = str(self.task.answer_field)
        given = raw.get(name)
        if not isinstance(given, str) or given.strip() in (self.labels or ()):
            return
        fitting = self.folded.get(folded(given), ())
        if len(fitting) == 1:
            raw[name] = fitting[0]
            self.report.warn(
                place.at(name),
                "a label in another case or with other spaces; taken as the task writes it",
            )

    def _take_keys(self, raw: dict[str, Any], place: Place) -> dict[str, Any]:
        """The record with fields of the task under their own names, where only the case is another one."""
        absent = self.keys - raw.keys()
        if not absent:
            return raw
        found: dict[str, list[str]] = {}
        for key in raw.keys() - self.keys:
            found.setdefault(key.casefold(), []).append(key)
        named = dict(raw)
        for name in sorted(absent):
            fitting = found.get(name.casefold(), [])
            if len(fitting) > 1:
                self.report.error(
                    place.at(name), OTHER_CASES, hint=f"--column {name}=KEY says which"
                )
            elif fitting:
                named[name] = named.pop(fitting[0])
                self.report.warn(place.at(name), OTHER_CASE)
        return named

    def _lacks_field(self, raw: Mapping[str, Any], place: Place) -> bool:
        """Report a field that a record lacks, with the keys it has as far as they may be shown."""
        missing = sorted(self.task.required_fields - raw.keys())
        if not missing:
            return False
        keys = shown_names(list(raw), self.task.fields) if self.selection.is_plain else ""
        self.report.error(
            place.at(missing[0]),
            "missing" + (f"; the record has {keys}" if keys else ""),
            hint=f"--column {missing[0]}=KEY says where it stands, a path such as tweet.full_text "
            f"inside objects, messages[].text for a list in one object; task {self.task.name} with template set '{self.task.template}' needs "
            f"{', '.join(sorted(self.task.required_fields))}",
        )
        return True

    def _has_answer(self, item: HistoryItem, place: Place) -> bool:
        """False for an empty answer; reports one that is no label."""
        name = self.task.answer_field
        answer = self.task.history_example(item).answer if name is None else item.fields[name]
        if not answer.strip():
            return False
        labels = self.labels
        if labels is None or answer.strip() in labels:
            return True
        close = len(self.folded.get(folded(answer), ()))
        self.report.error(
            place if name is None else place.at(name),
            f"the answer is not among the {len(labels)} labels of task {self.task.name}"
            + (f", and {close} of them differ from it only in case or spaces" if close else ""),
        )
        return True


def check_scale(
    name: str, selection: Selection, labels: tuple[str, ...] | None, scale: Scale | None
) -> None:
    """Raises DataError where an export has another scale than the task, and nothing says how."""
    layout = selection.layout
    if layout is None or layout.scale is None or "score" not in selection.places:
        return
    elsewhere = selection.places["score"] != layout.fields["score"]
    if scale is not None and (elsewhere or begins_as(scale, layout.scale)):
        return
    own = scale_name(labels) if labels else layout.scale
    if own != layout.scale:
        raise DataError(
            f"{name}: {layout.name} go from {layout.scale}, the task's from {own}",
            hint=f"say how they become the task's: --scale {layout.scale}:{own}",
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
