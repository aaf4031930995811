"""Kindle's `My Clippings.txt`: entries of a title, a line that says what it is, and the text.

    A Title (An Author)
    - Your Note on page 99 | Location 249 | Added on Thursday, 4 June 2020 12:18:46

    the text
    ==========

The second line is in the device's language. A date in another language than English is not read;
an entry without text is a bookmark.
"""

from __future__ import annotations

import re
from collections.abc import Generator, Iterator

from client.history.text_input import MAX_RECORD_CHARS, TOO_LONG, Record, iter_lines

_END = "=========="
_NOTICE = re.compile(r"<[^<>\n]{1,120}>")  # `<You have reached the clipping limit ...>`
_ADDED = re.compile(r"\|\s*Added on\s+(?P<date>[^|]{1,80})$", re.IGNORECASE)


def is_clippings(head: str) -> bool:
    """Whether text begins as the file of clippings does."""
    lines = head.lstrip("\ufeff \n").split("\n")
    return len(lines) > 1 and lines[1].startswith("- ") and f"\n{_END}" in head


def clippings_records(chunks: Iterator[str]) -> Generator[Record, None, None]:
    """Entries with `text`, `date` and `kind`: note, highlight or bookmark."""
    number, begun, length = 0, 1, 0
    lines: list[str] = []
    for row, line in enumerate(iter_lines(chunks), start=1):
        length += MAX_RECORD_CHARS + 1 if line is None else len(line)
        if line is None or line.strip() != _END:
            if length <= MAX_RECORD_CHARS and line is not None:
                lines.append(line)
            continue
        number += 1
        yield _record(number, begun, lines, length)
        begun, length, lines = row + 1, 0, []
    if any(line.strip() for line in lines):
        yield Record(number + 1, None, begun, ("an entry that does not end; the file may be cut",))


def _record(number: int, line: int, lines: list[str], length: int) -> Record:
    if length > MAX_RECORD_CHARS:
        return Record(number, None, line, (f"an entry {TOO_LONG}",))
    what = lines[1].strip() if len(lines) > 1 else ""
    if not what.startswith("-"):
        return Record(number, None, line, ("an entry without the line that says what it is",))
    text = "".join(lines[2:]).replace("\r\n", "\n").strip()
    kind = "notice" if _NOTICE.fullmatch(text) else "highlight"
    raw = {"text": text, "kind": kind if text else "bookmark"}
    if added := _ADDED.search(what):
        raw["date"] = added["date"].strip()
    return Record(number, raw, line)
