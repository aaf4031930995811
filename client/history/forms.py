"""Which form a history has: told by its content, and by its name where the content leaves it open.

JSON begins with a bracket or a brace; a first line that is an item makes it lines. A name decides
between lines and one long object that the beginning does not end. Exports with a form of their own
are known by how they begin; what is left is a table, unless it begins as other files do.
"""

from __future__ import annotations

import json
import re
from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Any

from client.history.text_forms import chat_records, is_chat
from client.history.clippings_form import clippings_records, is_clippings
from client.history.csv_form import Table, cell
from client.history.fields import Lookup, Selection, dig, likely, select
from client.history.json_form import BLANKS, PROFILE, json_records, jsonl_records
from client.history.layouts import Layout, layout_of_form, layout_of_head, layout_of_header
from client.history.text_input import MAX_RECORD_CHARS, Record, Source
from client.history.tree_form import values_at
from proper_model.errors import ConfigError, DataError
from proper_model.tasks import Task

FORMS = ("json", "jsonl", "csv", "lamp", "whatsapp", "clippings")
HEAD_CHARS = 1 << 16  # looked at to tell the form
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
class Reading:
    """A history that is open: what is read of it, and its records under the task's names.

    Attributes:
        form: one of `FORMS`.
        selection: where the fields stand.
        records: with `raw` as the file has it.
        look: finds a value in such a record.
        owner: the person's identity where the file says so and others' records stand in it too.
        date_option: names a column that may be the date of a table read without one.
    """

    form: str
    selection: Selection
    records: Generator[Record, None, None]
    look: Lookup
    owner: list[str]
    date_option: str = ""


def open_reading(
    source: Source,
    task: Task,
    form: str | None,
    columns: Mapping[str, str] | None,
    *,
    use_date: bool = True,
) -> Reading:
    """The records of a history in any form; `form` overrides what is recognized.

    Raises ConfigError for an unknown form, or columns that the task does not have; DataError for an
    empty file, one of another kind, and whatever the form's reader refuses.
    """
    if form is not None and form not in FORMS:
        raise ConfigError(f"unknown form '{form}'", hint=f"forms: {', '.join(FORMS)}")
    head = _head(source)
    chosen = form or recognized(head, source.suffix)
    if form is None:
        _check_kind(source.name, head)
    if form == "csv" and (_BEGINS_JSON.match(head) or is_chat(head) or _ASSIGNED.match(head)):
        what = "an exported chat" if is_chat(head) else "JSON"
        raise DataError(
            f"{source.name}: {what}, not a table", hint="leave --form out, or name its own form"
        )
    columns = columns or {}
    layout = layout_of_head(head) if chosen == "json" else None
    if form not in (None, "json") and _ASSIGNED.match(head):
        raise DataError(
            f"{source.name}: JSON of a Twitter/X archive, not {form}", hint="leave --form out"
        )
    if layout is None and (assigned := _ASSIGNED.match(head)):
        if not columns:
            raise DataError(
                f"{source.name}: a part of a Twitter/X archive that is not your tweets",
                hint="give data/tweets.js of the archive, or say where the fields stand: "
                "--column text=PATH",
            )
        head = head[assigned.end() :]
    if chosen in ("whatsapp", "clippings"):
        layout = layout_of_form(chosen)
    chunks = chain([head], source.chunks)
    if chosen == "csv":
        return _table(source.name, chunks, task, columns, use_date)
    selection = select(task, source.name, layout, columns, use_date=use_date)
    owner: list[str] = []
    if chosen == "whatsapp":
        records = chat_records(chunks)
    elif chosen == "clippings":
        records = clippings_records(chunks)
    elif layout is not None:
        if assigned := _ASSIGNED.match(head):
            chunks = chain([head[assigned.end() :]], source.chunks)
        records = _exported(source.name, chunks, layout, owner)
    elif any("[]" in path for path in columns.values()):
        records, selection = _nested(source.name, chunks, selection)
    elif chosen == "jsonl":
        records = jsonl_records(chunks)
    else:
        records = json_records(source.name, chunks, users=chosen == "lamp")
    return Reading(chosen, selection, records, dig, owner)


def _table(
    name: str, chunks: Iterator[str], task: Task, columns: Mapping[str, str], use_date: bool
) -> Reading:
    fields = ("id", "date", *task.fields)
    table = Table(name, chunks, {columns.get(field) or field for field in fields})
    layout = layout_of_header(set(table.header))
    own = task.required_fields <= set(table.header)
    # A table with the task's own fields is the person's, unless the export has them there too.
    if own and layout and any(layout.fields.get(f) != (f,) for f in task.required_fields):
        layout = None
    selection = select(task, name, layout, columns, use_date=use_date)
    undated = use_date and "date" not in columns and layout is None and "date" not in table.header
    option = likely(table.header, ["date"]) if undated else ""
    return Reading("csv", selection, table.rows(selection, fields), cell, [], option)


def _exported(
    name: str, chunks: Iterator[str], layout: Layout, owner: list[str]
) -> Generator[Record, None, None]:
    """Records of a program's JSON; the person's identity in it is put into `owner`."""
    paths = {layout.records, *layout.also} | ({layout.owner} if layout.owner else set())
    number = 0
    for path, value, faults in values_at(name, chunks, paths):
        if path == layout.owner:
            owner.append(f"user{value}")
            continue
        number += 1
        yield Record(number, value, None, faults)


def _nested(
    name: str, chunks: Iterator[str], selection: Selection
) -> tuple[Generator[Record, None, None], Selection]:
    """Records at the path that the columns share up to their last `[]`."""
    given = [selection.places[field][0] for field in selection.given]
    prefixes = {path.rpartition("[]")[0] for path in given}
    if len(prefixes) != 1 or not all("[]" in path for path in given):
        raise ConfigError(
            "--column: paths with [] must name one list, as in messages[].text and messages[].date"
        )
    (prefix,) = prefixes
    inner = {
        field: (places[0].rpartition("[]")[2].removeprefix("."),)
        if field in selection.given
        else places
        for field, places in selection.places.items()
    }

    def records() -> Generator[Record, None, None]:
        found = values_at(name, chunks, {f"{prefix}[]"})
        for number, (_, value, faults) in enumerate(found, start=1):
            yield Record(number, value, None, faults)

    return records(), Selection(inner, selection.given, selection.required)


def _head(source: Source) -> str:
    """The beginning of the text, with something in it."""
    head = ""
    for chunk in source.chunks:
        head += chunk
        if len(head) >= HEAD_CHARS and head.strip():
            return head
        if len(head) > MAX_RECORD_CHARS:
            raise DataError(
                f"{source.name}: begins with more than {MAX_RECORD_CHARS} blanks",
                hint="this is no history; check the file",
            )
    if head.strip():
        return head
    raise DataError(f"{source.name}: the file is empty", hint="an empty history is written as: []")


def _check_kind(name: str, head: str) -> None:
    """Raises DataError for a beginning that no history has."""
    for pattern, what, hint in _OTHERS:
        if pattern.match(head):
            raise DataError(f"{name}: {what}, expected JSON, a table or a known export", hint=hint)
    if _SCRIPT.match(head) and not _ASSIGNED.match(head):
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
