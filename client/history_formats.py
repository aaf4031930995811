"""Which form a history has: told by its content, and by its name where the content leaves it open.

JSON begins with a bracket or a brace; a first line that is an item makes it lines. A name decides
between lines and one long object that the first chunk does not end, and for files that begin with
something else.
"""

from __future__ import annotations

import json
import re
from collections.abc import Generator, Mapping
from itertools import chain

from client.history_csv import csv_records
from client.history_json import BLANKS, PROFILE, json_records, jsonl_records
from client.history_source import MAX_RECORD_CHARS, Record, Source
from proper_model.errors import ConfigError, DataError
from proper_model.tasks import Task

FORMS = ("json", "jsonl", "csv", "lamp")
_NAMES = {
    ".json": "json",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".csv": "csv",
    ".tsv": "csv",
    ".tab": "csv",
}
_PROFILE_LIST = re.compile(rf'"{PROFILE}"[{BLANKS}]*:[{BLANKS}]*\[')


def records_of(
    source: Source, task: Task, form: str | None, columns: Mapping[str, str] | None
) -> Generator[Record, None, None]:
    """The records of a history in any form; `form` overrides what is recognized.

    Raises ConfigError for an unknown form, or `columns` for a form without columns; DataError for
    an empty file and whatever the form's reader refuses.
    """
    if form is not None and form not in FORMS:
        raise ConfigError(f"unknown form '{form}'", hint=f"forms: {', '.join(FORMS)}")
    head = _head(source)
    chosen = form or recognized(head, source.suffix)
    if columns and chosen != "csv":
        raise ConfigError(
            f"columns: {source.name} is read as {chosen}, which has no columns",
            hint="leave them out, or say that the form is csv",
        )
    chunks = chain([head], source.chunks)
    if chosen == "csv":
        return csv_records(source.name, chunks, task, columns)
    if chosen == "jsonl":
        return jsonl_records(chunks)
    return json_records(source.name, chunks, users=chosen == "lamp")


def _head(source: Source) -> str:
    """Text up to the end of the first chunk with something in it."""
    head = ""
    for chunk in source.chunks:
        head += chunk
        if head.strip():
            return head
        if len(head) > MAX_RECORD_CHARS:
            raise DataError(
                f"{source.name}: begins with more than {MAX_RECORD_CHARS} blanks",
                hint="this is no history; check the file",
            )
    raise DataError(f"{source.name}: the file is empty", hint="an empty history is written as: []")


def recognized(head: str, suffix: str) -> str:
    """The form of a text that begins with `head` and lies in a file with `suffix`."""
    named = _NAMES.get(suffix)
    text = head.lstrip(BLANKS)
    if named == "csv" or text[:1] not in ("[", "{"):
        return named or "csv"
    if text.startswith("["):
        return "json"
    line, ended, rest = text.partition("\n")
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        if _PROFILE_LIST.search(line) and (not ended or named != "jsonl"):
            return "json"
        lines = not ended or rest.lstrip(BLANKS).startswith("{")
        return named or ("jsonl" if lines else "json")
    is_user = isinstance(value, dict) and isinstance(value.get(PROFILE), list)
    return "json" if is_user else "jsonl"
