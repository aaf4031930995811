"""Where the fields of a task stand in a file: the person's `--column`, or what its layout says.

For tables and JSON alike: a value is looked up by column or path and cleaned, and records that are not
the person's own items are recognized. Messages name only columns that headers are known to have, and
count the others, because a file without a header has a person's text there.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from client.history.layouts import Layout, Places, Rule, is_known_name
from proper_model.errors import ConfigError, DataError
from proper_model.tasks import Task, load_task, shipped_tasks

MAX_PATH_PARTS = 16
_SHOWN_NAMES = 30
# Nothing of a header or record is quoted, since it may be a person's text.
OTHER_CASE = "read from a name that differs in case alone"
OTHER_CASES = "two names differ from this one in case alone"
# How headers call what tasks call so.
_LIKELY = {
    field: tuple(names.split(", "))
    for field, names in {
        "text": "review, my review, comment, body, content, message, tweet, post, note",
        "score": "rating, my rating, your rating, star rating, stars, rate, user rating",
        "title": "headline, subject, name",
        "description": "summary, plot, overview",
        "date": "created, created_at, created at, created_utc, date created, datetime, timestamp, "
        "time, date rated, date added, date read, published, watched date",
    }.items()
}


@dataclass(frozen=True)
class Selection:
    """What is read of every record.

    Attributes:
        places: where each field, `id` and `date` stand; the first place that holds something counts.
        given: fields whose place the person named.
        required: fields without which a record is no item.
    """

    places: Mapping[str, Places]
    given: frozenset[str]
    required: frozenset[str]
    layout: Layout | None = None
    rules: tuple[Rule, ...] = ()

    @property
    def columns(self) -> frozenset[str]:
        """All places that are looked at."""
        looked = [place for places in self.places.values() for place in places]
        senders = () if self.layout is None or not self.layout.sender else (self.layout.sender,)
        return frozenset((*looked, *senders, *(rule.place for rule in self.rules)))

    @property
    def is_plain(self) -> bool:
        """Whether every field stands under its own name, so that records are read as they are."""
        own = all(places == (name,) for name, places in self.places.items())
        return own and self.layout is None and "date" in self.places

    def reason(self, raw: Any) -> str | None:
        """Why a record is none of the person's items, None if it may be one."""
        for rule in self.rules:
            if rule.test(dig(raw, rule.place)):
                return rule.reason
        return None

    def fields_of(self, raw: Any) -> dict[str, Any]:
        """The record under the task's names; a field that nothing holds is missing."""
        found = {}
        for name, places in self.places.items():
            values = [dig(raw, place) for place in places]
            value = next((v for v in values if not is_empty(v)), None)
            if value is None and name in self.required:
                # Exports leave out what is empty; elsewhere an absent field is a fault.
                value = next((v for v in values if v is not None), self._absent(name))
            if value is not None and self.layout is not None and name not in ("id", "date"):
                value = self.layout.clean(value)
            if value is not None:
                found[name] = value
        return found

    def _absent(self, name: str) -> str | None:
        return "" if self.layout is not None and name not in self.given else None


def is_empty(value: Any) -> bool:
    """Nothing, or text of blanks."""
    return value is None or (isinstance(value, str) and not value.strip())


def select(
    task: Task, name: str, layout: Layout | None, columns: Mapping[str, str], *, use_date: bool
) -> Selection:
    """What to read for `task` in file `name`; `columns` says where, an empty text: nowhere.

    Raises ConfigError for a field that the task does not have, or that it needs and that is to be
    left out; DataError where the layout lacks a field.
    """
    known = ("id", "date", *task.fields)
    if unknown := sorted(set(columns) - set(known)):
        raise ConfigError(
            f"columns: {', '.join(unknown)} is no field of task {task.name}",
            hint=f"fields: {', '.join(known)}",
        )
    required = task.required_fields
    if emptied := sorted(field for field in required if columns.get(field) == ""):
        raise ConfigError(
            f"--column {emptied[0]}=: task {task.name} needs this field",
            hint=f"say where it stands: --column {emptied[0]}=NAME",
        )
    places: dict[str, Places] = {}
    for field in known:
        if field in columns:
            place = columns[field]
            if layout is not None and layout.records:  # whose list of records is known
                place = place.rpartition("[]")[2].removeprefix(".")
            places[field] = (place,) if place else ()
        elif layout is None:
            places[field] = (field,)
        else:
            places[field] = layout.date if field == "date" else layout.fields.get(field, ())
    if not use_date:
        places["date"] = ()
    chosen = {field: found for field, found in places.items() if found}
    if missing := sorted(required - chosen.keys()):
        assert layout is not None
        raise _misfit(task, name, layout, missing)
    rules = () if layout is None else layout.rules
    return Selection(
        places=chosen,
        given=frozenset(field for field, place in columns.items() if place),
        required=required,
        layout=layout,
        rules=tuple(r for r in rules if r.needs is None or r.needs in required),
    )


def _misfit(task: Task, name: str, layout: Layout, missing: Sequence[str]) -> DataError:
    """The error for a layout that has not what a task asks about."""
    has = ", ".join(f"{field} ({' or '.join(at)})" for field, at in layout.fields.items())
    fitting = [
        name
        for name in shipped_tasks()
        if name[:5] != "synth" and load_task(name).required_fields <= layout.fields.keys()
    ]
    tasks = f"tasks that fit: {', '.join(fitting)} (--task); or " if fitting else ""
    return DataError(
        f"{name}: {layout.name}, which has {has}; task {task.name} needs "
        f"{', '.join(sorted(task.required_fields))}: no {', '.join(missing)}",
        hint=f"{tasks}--column {missing[0]}=NAME says what to take for {missing[0]}",
    )


def dig(raw: Any, path: str) -> Any:
    """The value at a path such as `tweet.full_text`, or a table's cell; None where there is none."""
    if isinstance(raw, dict) and path in raw:
        return raw[path]
    for key in path.split(".", MAX_PATH_PARTS):
        if not isinstance(raw, dict):
            return None
        raw = raw.get(key)
    return raw


def likely(names: Sequence[str], fields: Collection[str]) -> str:
    """Options that would fit a header, such as `--column "score=My Rating"`; empty if none does."""
    found = []
    for field in fields:
        words = (field, *_LIKELY.get(field, ()))  # the field's own name in other letters
        fitting = [n for n in names if n.lower() in words and is_known_name(n)]
        if len(fitting) == 1:
            found.append(f'--column "{field}={fitting[0]}"')
    return " ".join(found)


def shown_names(names: Sequence[str], fields: Collection[str]) -> str:
    """The names of columns or keys for a message: those that may be shown, and a count of the rest.

    A first row most of whose cells no header has may be a person's own, and is only counted.
    """
    known = [name for name in names if is_known_name(name, frozenset(fields))]
    if 2 * len(known) <= len(names):
        return ""
    shown = ", ".join(known[:_SHOWN_NAMES])
    others = len(names) - len(known[:_SHOWN_NAMES])
    return f"{shown} and {others} more" if others else shown
