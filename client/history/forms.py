"""Which form a history has, by its content, and by its name where the content leaves it open.

JSON begins with a bracket or a brace; it is JSON lines if the first line is a whole item. Where the
beginning ends no object, the name decides. Exports with a text form of their own are known by how they
begin; the rest is a table, unless it begins as other kinds of files do.
"""

from __future__ import annotations

import json
import re
from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from client.history.csv_form import Table
from client.history.fields import Selection, likely, select
from client.history.json_form import (
    BLANKS,
    PROFILE,
    Found,
    json_records,
    jsonl_records,
    tree_values,
)
from client.history.layouts import layout_of_form, layout_of_head, layout_of_header
from client.history.text_forms import chat_records, clippings_records, is_chat, is_clippings
from client.history.text_input import Record, Source
from proper_model.errors import ConfigError, DataError
from proper_model.tasks import Task

FORMS = ("json", "jsonl", "csv", "lamp", "whatsapp", "clippings")
_BY_LINE = {"jsonl": jsonl_records, "whatsapp": chat_records, "clippings": clippings_records}
_NAMES = {
    ".json": "json",
    ".js": "json",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".csv": "csv",
    ".tsv": "csv",
    ".tab": "csv",
}
_PROFILE_LIST = re.compile(rf'"{PROFILE}"[{BLANKS}]*:[{BLANKS}]*\[')
_BEGINS_JSON = re.compile(r'\s*(?:\[\s*(?:[\[{"\]\d-]|true|false|null|$)|\{\s*(?:["}]|$))')
_ASSIGNED = re.compile(r"\s*(?:window\.YTD\.\w+\.part\d+|Grailbird\.data\.\w+)\s*=\s*(?=[\[{])")
_SCRIPT = re.compile(r"\s*(?:(?:var|let|const)\s+)?[\w$.]{1,80}\s*=\s*[\[{]")
# What other files begin with, and what helps.
_OTHERS = (
    (re.compile(r"\s*<(?:!doctype|!--|(?:html|head|body|table|div|p)[\s>])", re.IGNORECASE), "an HTML page",
     "export the data as JSON or CSV; programs that write pages usually offer both"),
    (re.compile(r"\s*<\?xml"), "XML", "convert it to JSON or CSV, one record an item"),
    (re.compile(r"\{\\rtf"), "a document in rich text", "save it as plain text in UTF-8"),
    (re.compile(r"From \S+ .*\nX?[\w-]+: "), "a mailbox", "convert it to JSON, one record a mail"),
    (re.compile(r"BEGIN:V"), "a calendar or an address book", "this holds no items of a task"),
)  # fmt: skip


@dataclass(frozen=True)
class ReadOptions:
    """How a person says that a file is to be read.

    Attributes:
        form: one of `FORMS`; None: recognized.
        columns: where a field of the task, `id` or `date` stands: a column, or a path inside JSON.
        max_items: the newest that are kept; None: as many as usual, with a warning if it cuts.
        lenient: leave faulty records out instead of raising.
        scale: how ratings become the task's labels, as `rating_scale` describes it.
        date_order: `dmy`, `mdy` or `ymd`; None: told by the dates.
        use_date: whether dates are read at all.
        sender: which of a chat's people the person is.
    """

    form: str | None = None
    columns: Mapping[str, str] = field(default_factory=dict)
    max_items: int | None = None
    lenient: bool = False
    scale: str | None = None
    date_order: str | None = None
    use_date: bool = True
    sender: str | None = None


@dataclass(frozen=True)
class Reading:
    """A history that is open: what is read of it, and its records as the file has them.

    Attributes:
        form: one of `FORMS`.
        selection: where the fields stand.
        owner: the person's identity, if a file that holds others' records too says it; filled while
            the records are read.
        date_option: names a column that may be the date of a table read without one.
        other_case: columns that are asked for and stand in the header in another case.
    """

    form: str
    selection: Selection
    records: Generator[Record, None, None]
    owner: list[str] = field(default_factory=list)
    date_option: str = ""
    other_case: tuple[str, ...] = ()


def open_reading(source: Source, task: Task, options: ReadOptions) -> Reading:
    """The records of a history in any form; the form of `options` overrides what is recognized.

    Raises ConfigError for columns that the task does not have; DataError for a file of another kind,
    and whatever the form's reader refuses.
    """
    head, name = source.head, source.name
    form = options.form or recognized(head, source.suffix)
    assigned = _ASSIGNED.match(head)
    _check_kind(name, head, options.form)
    layout = layout_of_head(head) if form == "json" else None
    if assigned and layout is None and not options.columns:
        raise DataError(
            f"{name}: a part of a Twitter/X archive that is not your tweets",
            hint="give data/tweets.js of the archive, or say where the fields stand: "
            "--column text=PATH",
        )
    if form == "csv":
        return _table(source, task, options)
    if form in ("whatsapp", "clippings"):
        layout = layout_of_form(form)
    selection = select(task, name, layout, options.columns, use_date=options.use_date)
    nested = any("[]" in path for path in options.columns.values())
    if form in _BY_LINE and not (nested and form == "jsonl"):
        return Reading(form, selection, _BY_LINE[form](source.lines()))
    begin = assigned.end() if assigned else 0
    if layout is None and not nested:
        records = json_records(name, source.text(), begin, users=form == "lamp")
        return Reading(form, selection, records)
    owner_at = None if layout is None else layout.owner
    if layout is None:
        path, selection = _nested(selection)
        paths = {path}
    else:
        paths = {layout.records, *layout.also} | ({owner_at} if owner_at else set())
    owner: list[str] = []
    found = tree_values(name, source.text(), paths, begin)
    return Reading(form, selection, _numbered(found, owner_at, owner), owner)


def _table(source: Source, task: Task, options: ReadOptions) -> Reading:
    fields, columns = ("id", "date", *task.fields), options.columns
    table = Table(source.name, source.lines(), {columns.get(name) or name for name in fields})
    layout = layout_of_header(set(table.header))
    own = task.required_fields <= set(table.header)
    # A table with the task's own fields is the person's, unless the export has them there too.
    if own and layout and any(layout.fields.get(f) != (f,) for f in task.required_fields):
        layout = None
    selection = select(task, source.name, layout, columns, use_date=options.use_date)
    # Of an export it is known how its columns are written.
    asked = sorted(selection.columns) if layout is None else ()
    other_case = table.take_other_cases(asked)
    dated = not options.use_date or "date" in columns or "date" in table.header
    option = "" if dated or layout is not None else likely(table.header, ["date"])
    records = table.rows(selection, fields)
    return Reading("csv", selection, records, date_option=option, other_case=tuple(other_case))


def _numbered(
    found: Iterator[Found], owner_at: str | None, owner: list[str]
) -> Generator[Record, None, None]:
    """Values in a tree as records; the person's identity, where that is one, is put into `owner`."""
    number = 0
    for path, value, faults in found:
        if path == owner_at:
            owner.append(f"user{value}")
            continue
        number += 1
        yield Record(number, value, None, faults)


def _nested(selection: Selection) -> tuple[str, Selection]:
    """The path of the records that the columns share up to their last `[]`, and what is read of each.

    Raises ConfigError for columns in different lists.
    """
    given = [selection.places[name][0] for name in selection.given]
    prefixes = {path.rpartition("[]")[0] for path in given}
    if len(prefixes) != 1 or not all("[]" in path for path in given):
        raise ConfigError(
            "--column: paths with [] must name one list, as in messages[].text and messages[].date"
        )
    inner = {
        name: (places[0].rpartition("[]")[2].removeprefix("."),)
        if name in selection.given
        else places
        for name, places in selection.places.items()
    }
    return f"{prefixes.pop()}[]", Selection(inner, selection.given, selection.required)


def _check_kind(name: str, head: str, form: str | None) -> None:
    """Raises DataError for a beginning that no history has, or that is none of the form asked for."""
    assigned = _ASSIGNED.match(head)
    if form == "csv" and (_BEGINS_JSON.match(head) or is_chat(head) or assigned):
        what = "an exported chat" if is_chat(head) else "JSON"
        raise DataError(
            f"{name}: {what}, not a table", hint="leave --form out, or name its own form"
        )
    if form not in (None, "json") and assigned:
        raise DataError(f"{name}: JSON of a Twitter/X archive, not {form}", hint="leave --form out")
    if form is not None:
        return
    for pattern, what, hint in _OTHERS:
        if pattern.match(head):
            raise DataError(f"{name}: {what}, expected JSON, a table or a known export", hint=hint)
    if _SCRIPT.match(head) and not assigned:
        raise DataError(
            f"{name}: a program in JavaScript, expected JSON",
            hint="keep what stands between the outer brackets, and save it as .json",
        )


def recognized(head: str, suffix: str) -> str:
    """The form of a text that begins with `head` and lies in a file with `suffix`."""
    named = _NAMES.get(suffix)
    text = head.lstrip(BLANKS)
    if _ASSIGNED.match(text):
        return "json"
    if named == "csv" and not _BEGINS_JSON.match(text) and not is_chat(head):
        return "csv"
    if text[:1] not in ("[", "{") or is_chat(text):
        if is_chat(text):
            return "whatsapp"
        return "clippings" if is_clippings(head) else named or "csv"
    if text.startswith("["):
        return "json"
    line, ended, rest = text.partition("\n")
    try:
        value: Any = json.loads(line)
    except (ValueError, RecursionError):
        if layout_of_head(text) is not None:
            return "json"
        if _PROFILE_LIST.search(line) and (not ended or named != "jsonl"):
            return "json"
        lines = not ended or rest.lstrip(BLANKS).startswith("{")
        if named == "csv":
            named = None
        return named or ("jsonl" if lines else "json")
    is_user = isinstance(value, dict) and isinstance(value.get(PROFILE), list)
    return "json" if is_user or (not rest.strip() and layout_of_head(text)) else "jsonl"
