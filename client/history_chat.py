"""WhatsApp's exported chat: one line a message, more for its further lines, in the phone's language.

    [15/01/2024, 14:30:22] Ada: text              iPhone
    15/01/2024, 14:30 - Ada: text                 Android
    1/15/24, 2:30 PM - Ada: text                  where the month stands first

What the program writes itself stands in no language alone: a line without a sender, text behind a
mark of reading direction (iPhone), or something in angle brackets in place of the whole text.
"""

from __future__ import annotations

import re
from collections.abc import Generator, Iterator

from client.history_layouts import FROM
from client.history_source import MAX_RECORD_CHARS, TOO_LONG, Record, iter_lines
from client.plain_text import without_marks

_DATE = r"\d{1,4}[./-]\d{1,2}[./-]\d{2,4}\.?"
_TIME = r"\d{1,2}[:.]\d{2}(?:[:.]\d{2})?(?:\s?[ap]\.?\s?m\.?)?"
_WHEN = rf"(?P<date>{_DATE}),?\s(?:at\s|klo\s)?(?P<time>{_TIME})"
_MARK = r"[\u200e\u200f\u202a]*"
_BEGINNINGS = tuple(
    re.compile(_MARK + form + r"(?P<rest>.*)", re.DOTALL | re.IGNORECASE)
    for form in (rf"\[{_WHEN}\]\s", rf"{_WHEN}\s[-\u2013]\s")
)
_MESSAGE = re.compile(r"(?P<sender>[^:\n]{1,100}): ?(?P<text>.*)", re.DOTALL)
_ATTACHED = re.compile(
    r"\S{1,200}\.[a-z0-9]{2,5} \([^()]{1,40}\)(?:\n.*)?", re.DOTALL | re.IGNORECASE
)
_BRACKETED = re.compile(r"<[^<>\n]{1,80}>")
_EDITED = re.compile(r"\s*\u200e?<[^<>\n]{1,60}>\s*$")
_NOTICES = ("This message was deleted", "You deleted this message", "Missed voice call", "null")


def is_chat(head: str) -> bool:
    """Whether text begins as an exported chat does."""
    return _begin(head.lstrip().partition("\n")[0]) is not None


def _begin(text: str) -> re.Match[str] | None:
    """The beginning of a message, None if the line goes on with the one before."""
    return next((found for form in _BEGINNINGS if (found := form.match(text))), None)


def chat_records(chunks: Iterator[str]) -> Generator[Record, None, None]:
    """Messages with `text`, `date`, `kind` and their sender; `kind` tells notices apart."""
    number, begun, length = 0, 0, 0
    rest: list[str] = []
    for row, line in enumerate(iter_lines(chunks), start=1):
        begins = line is not None and _begin(line) is not None
        if begins and rest:
            number += 1
            yield _record(number, begun, "".join(rest), length)
        if begins:
            begun, length, rest = row, 0, []
        elif not begun:
            continue  # blank lines before the first message
        if line is None:
            length = MAX_RECORD_CHARS + 1
            continue
        length += len(line)
        if length <= MAX_RECORD_CHARS:
            rest.append(line.removesuffix("\r\n") + "\n" if line.endswith("\r\n") else line)
    if rest:
        yield _record(number + 1, begun, "".join(rest), length)


def _record(number: int, line: int, whole: str, length: int) -> Record:
    if length > MAX_RECORD_CHARS:
        return Record(number, None, line, (f"a message {TOO_LONG}",))
    match = _begin(whole)
    assert match is not None, "a message begins with its date"
    date = f"{match['date']} {match['time']}"
    message = _MESSAGE.match(match["rest"])
    if message is None:
        return Record(number, {"date": date, "kind": "service"}, line)
    raw = {
        "date": date,
        FROM: without_marks(message["sender"]).strip().removeprefix("~").strip(),
        "kind": _kind(message["text"]),
        "text": without_marks(_EDITED.sub("", message["text"].strip())).strip(),
    }
    return Record(number, raw, line)


def _kind(text: str) -> str:
    """`media` for what the program wrote in place of a text, else `text`."""
    plain = without_marks(text).strip()
    own = text.lstrip(" ").startswith("\u200e")  # the program's words on an iPhone
    if own or _BRACKETED.fullmatch(plain) or plain.rstrip(".") in _NOTICES:
        return "media"
    return "media" if _ATTACHED.fullmatch(plain) else "text"
