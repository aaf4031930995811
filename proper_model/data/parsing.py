"""Decoded JSON to records: ids and fields become strings, everything unusual is reported.

What is tolerated (docs/method.md 2.1): ids, dates and field values that are whole numbers, a `date`
of any of the forms in `dates`, fields the task does not know (left out), a missing item id
(numbered), half of a surrogate pair (replaced). Anything else is an error with file, record and
field.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any
from unicodedata import category

from proper_model.data.dates import DATE_HINT, date_key, normal_date, oddity
from proper_model.tasks.records import HistoryItem, Place, Query, Report, User
from proper_model.tasks.task import Task, short_id

# Control characters, line and paragraph separators: they would break lines of reports and logs.
_UNPRINTABLE = ("Cc", "Zl", "Zp")
MAX_ID_CHARS = 1024
MAX_WHOLE = 2**53  # above it a float does not separate neighbouring integers


def text_of(value: Any, place: Place, report: Report) -> str | None:
    """A string, or a whole number in decimals (4.0 is 4); None after reporting anything else."""
    if isinstance(value, float) and value.is_integer() and abs(value) <= MAX_WHOLE:
        return str(int(value))
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, str):
        report.error(place, f"expected a string, got {_kind(value)}")
        return None
    text = whole_text(value)
    if text != value:
        report.warn(place, "half of a surrogate pair was replaced")
    return text


def whole_text(text: str) -> str:
    """Text in which half of a surrogate pair, which JSON can write, is replaced."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def parse_user(
    record: Any,
    task: Task,
    place: Place,
    report: Report,
    *,
    golds: Mapping[str, str] | None = None,
) -> User | None:
    """One record of an OPPU file. `golds` fills in answers that stand in a label file.

    Returns None after reporting a record that cannot be used. Raises DataError if `report` is
    strict.
    """
    if not isinstance(record, dict):
        report.error(place, f"expected an object, got {_kind(record)}")
        return None
    user_id = identifier(record, "user_id", place, report)
    profile = _list(record, "profile", place, report)
    raw_queries = _list(record, "query", place, report)
    if user_id is None:
        return None
    history = parse_history(profile, task, place.at("profile"), report)
    queries = []
    for index, raw in enumerate(raw_queries):
        query = parse_query(raw, task, place.at(f"query[{index}]"), report, golds=golds)
        if query is not None:
            queries.append(query)
    for query_id, count in Counter(q.id for q in queries).items():
        if count > 1:
            report.error(place.at("query"), f"query id {short_id(query_id)} occurs {count} times")
    return User(user_id, history, tuple(queries))


def parse_history(
    items: Sequence[Any], task: Task, place: Place, report: Report
) -> tuple[HistoryItem, ...]:
    """History items in time order: by date where every item has one, else as they stand.

    Items of the same date keep the file's order.
    """
    history = []
    for index, raw in enumerate(items):
        at = Place(place.file, place.record, f"{place.field}[{index}]")
        item = parse_item(raw, index, task, at, report)
        if item is not None:
            history.append(item)
    keys = [date_key(item.date) for item in history]
    if (warning := oddity(keys)) is not None:
        report.warn(place, warning)
    dated = [(key, index) for index, key in enumerate(keys) if key is not None]
    if len(dated) == len(history):
        history = [history[index] for _, index in sorted(dated)]
    return tuple(history)


def parse_query(
    raw: Any,
    task: Task,
    place: Place,
    report: Report,
    *,
    golds: Mapping[str, str] | None = None,
) -> Query | None:
    """A query with its answer, checked against the task's labels."""
    if not isinstance(raw, dict):
        report.error(place, f"expected an object, got {_kind(raw)}")
        return None
    query_id = identifier(raw, "id", place, report)
    question = _field(raw, "input", place, report)
    if query_id is None or question is None:
        return None
    if "gold" not in raw and golds is not None and query_id in golds:
        gold: str | None = golds[query_id]
    else:
        gold = _field(raw, "gold", place, report)
    if gold is None:
        return None
    if golds is not None and golds.get(query_id, gold).strip() != gold.strip():
        report.warn(place.at("gold"), "differs from the label file, which is not used for it")
    if not gold.strip():
        report.error(place.at("gold"), f"the answer of query {short_id(query_id)} is empty")
        return None
    query = Query(query_id, question, gold)
    task.check_query(query, place, report)
    return query


def identifier(record: Mapping[str, Any], name: str, place: Place, report: Report) -> str | None:
    """A non-empty, printable id as a string, None after reporting anything else."""
    value = _field(record, name, place, report)
    if value is not None and len(value) > MAX_ID_CHARS:
        report.error(
            place.at(name), f"an id of {len(value)} characters, expected at most {MAX_ID_CHARS}"
        )
        return None
    if value is not None and not value.strip():
        report.error(place.at(name), "an empty id")
        return None
    if value is not None and any(category(sign) in _UNPRINTABLE for sign in value):
        report.error(place.at(name), "an id with control characters or line breaks")
        return None
    return value


def parse_item(
    raw: Any, index: int, task: Task, place: Place, report: Report
) -> HistoryItem | None:
    """A history item, named by `index` where it has no id; None if a required field is missing.

    An unusual value of another field is reported and left out.
    """
    if not isinstance(raw, dict):
        report.error(place, f"expected an object, got {_kind(raw)}")
        return None
    fields = {}
    for name in task.fields:
        if name in raw:
            value = text_of(raw[name], place.at(name), report)
            if value is not None:
                fields[name] = value
        elif name in task.required_fields:
            report.error(
                place.at(name),
                "missing",
                hint=f"template set '{task.template}' of {task.name} needs it; "
                "see the other sets in the task file",
            )
    if not task.required_fields <= fields.keys():
        return None
    item_id = text_of(raw["id"], place.at("id"), report) if "id" in raw else None
    date = _date(raw, place.at("date"), report)
    return HistoryItem(item_id if item_id is not None else str(index), fields, date)


def _date(raw: Mapping[str, Any], place: Place, report: Report) -> str | None:
    """LaMP's date of an item, spelt in one way; None without one or after reporting another thing."""
    if raw.get("date") is None:
        return None
    date = text_of(raw["date"], place, report)
    key = date_key(date)
    if date is None or key is not None:
        return None if key is None else normal_date(key)
    report.error(place, "not a date of the calendar, expected YYYY-MM-DD or YYYY", hint=DATE_HINT)
    return None


def _field(record: Mapping[str, Any], name: str, place: Place, report: Report) -> str | None:
    if name not in record:
        report.error(place.at(name), "missing")
        return None
    return text_of(record[name], place.at(name), report)


def _list(record: Mapping[str, Any], name: str, place: Place, report: Report) -> list[Any]:
    if name not in record:
        report.error(place.at(name), "missing")
        return []
    value = record[name]
    if not isinstance(value, list):
        report.error(place.at(name), f"expected a list, got {_kind(value)}")
        return []
    return value


def _kind(value: Any) -> str:
    if isinstance(value, float):
        return "a number with a fraction" if abs(value) <= MAX_WHOLE else "a number out of range"
    names = {type(None): "null", bool: "a boolean"}
    names |= {dict: "an object", list: "a list", str: "a string", int: "an integer"}
    return names.get(type(value), type(value).__name__)
