"""Exports in a text form of their own: WhatsApp's chats and Kindle's `My Clippings.txt`.

A chat has one line a message, more for its further lines, in the phone's language:

    [15/01/2024, 14:30:22] Ada: text              iPhone
    15/01/2024, 14:30 - Ada: text                 Android
    1/15/24, 2:30 PM - Ada: text                  where the month stands first

What the program writes itself stands in no language alone: a line without a sender, text behind a
mark of reading direction (iPhone), or something in angle brackets in place of the whole text.

A clipping is a title, a line in the device's language that says what it is, and the text:

    A Title (An Author)
    - Your Note on page 99 | Location 249 | Added on Thursday, 4 June 2020 12:18:46

    the text
    ==========

A date in another language than English is not read; an entry without text is a bookmark.
"""

from __future__ import annotations

import re
from collections.abc import Generator, Iterator

from client.history.layouts import FROM
from client.history.plain_text import without_marks
from client.history.text_input import MAX_RECORD_CHARS, TOO_LONG, Record

_SIGN = r"[\u200e\u200f]?[./-][\u200e\u200f\s]{0,2}"
_DATE = rf"\d{{1,4}}{_SIGN}\d{{1,2}}{_SIGN}\d{{2,4}}\.?"
_TIME = r"\d{1,2}[:.]\d{2}(?:[:.]\d{2})?"
# Words of many languages stand before or behind the time: `at`, `klo`, `PM`, `p. m.`
_WHEN = (
    rf"(?P<date>{_DATE})(?:[,\u060c]\s?|\s)[\u200e\u200f]?(?P<before>[^\W\d_][^\d\n:\[\]<>]{{0,9}}?)?"
    rf"\s?(?P<time>{_TIME})(?:\s?(?P<after>[^\W\d_][^\d\n:\[\]<>-]{{0,9}}))?"
)
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
# What the program writes on Android in the person's name, without any mark.
_NOTICES = frozenset(
    text.strip()
    for language in (
        "null; This message was deleted; You deleted this message; Missed voice call; Missed video "
        "call; Missed group voice call; Missed group video call; Waiting for this message; Waiting "
        "for this message. This may take a while; live location shared",
        "Diese Nachricht wurde gelöscht; Du hast diese Nachricht gelöscht; Verpasster Sprachanruf; "
        "Verpasster Videoanruf; Warte auf diese Nachricht; Live-Standort wird geteilt",
        "Se eliminó este mensaje; Este mensaje fue eliminado; Eliminaste este mensaje; Llamada "
        "perdida; Videollamada perdida",
        "Mensagem apagada; Esta mensagem foi apagada; Você apagou esta mensagem; Chamada de voz "
        "perdida; Chamada de vídeo perdida",
        "Ce message a été supprimé; Vous avez supprimé ce message; Appel vocal manqué; Appel vidéo "
        "manqué",
        "Questo messaggio è stato eliminato; Hai eliminato questo messaggio; Chiamata vocale persa; "
        "Videochiamata persa",
        "Dit bericht is verwijderd; U hebt dit bericht verwijderd; Je hebt dit bericht verwijderd; "
        "Gemiste spraakoproep; Gemiste video-oproep",
    )
    for text in language.split(";")
)
_PLACE = re.compile(r"(?:[^\W\d_]{1,20}: )?https://maps\.google\.com/\?q=\S+", re.IGNORECASE)
# Words for the halves of the day; with another one the time is not read.
_MORNING = frozenset({"am", "ص", "오전", "上午", "午前", "πμ", "öö"})
_EVENING = frozenset({"pm", "م", "오후", "下午", "午後", "μμ", "ös"})
_AT = frozenset({"at", "klo", "à", "um", "kl", "u", "saat", "alle", "às", "om", "в"})
_END = "=========="
_NOTICE = re.compile(r"<[^<>\n]{1,120}>")  # `<You have reached the clipping limit ...>`
_ADDED = re.compile(r"\|\s*Added on\s+(?P<date>[^|]{1,80})$", re.IGNORECASE)


class _Lines:
    """Lines of one record, the first of which is line `row` of the file; bounded."""

    def __init__(self, row: int) -> None:
        self.row = row
        self.lines: list[str] = []
        self._chars = 0

    def add(self, line: str | None) -> None:
        """None stands for a line that is too long."""
        self._chars += MAX_RECORD_CHARS + 1 if line is None else len(line)
        if line is not None and not self.too_long:
            self.lines.append(line.removesuffix("\r\n") + "\n" if line.endswith("\r\n") else line)

    @property
    def too_long(self) -> bool:
        return self._chars > MAX_RECORD_CHARS


def is_chat(head: str) -> bool:
    """Whether text begins as an exported chat does."""
    return _begin(head.lstrip().partition("\n")[0]) is not None


def _begin(text: str) -> re.Match[str] | None:
    """The beginning of a message, None if the line goes on with the one before."""
    return next((found for form in _BEGINNINGS if (found := form.match(text))), None)


def chat_records(lines: Iterator[str | None]) -> Generator[Record, None, None]:
    """Messages with `text`, `date`, `kind` and their sender; `kind` tells notices apart."""
    number = 0
    message: _Lines | None = None
    for row, line in enumerate(lines, start=1):
        if line is not None and _begin(line) is not None:
            if message is not None:
                number += 1
                yield _message(number, message)
            message = _Lines(row)
        if message is not None:  # blank lines may stand before the first
            message.add(line)
    if message is not None:
        yield _message(number + 1, message)


def _message(number: int, message: _Lines) -> Record:
    if message.too_long:
        return Record(number, None, message.row, (f"a message {TOO_LONG}",))
    match = _begin("".join(message.lines))
    assert match is not None, "a message begins with its date"
    date = _date(match)
    said = _MESSAGE.match(match["rest"])
    if said is None:
        return Record(number, {"date": date, "kind": "service"}, message.row)
    raw = {
        "date": date,
        FROM: without_marks(said["sender"]).strip().removeprefix("~").strip(),
        "kind": _kind(said["text"]),
        "text": without_marks(_EDITED.sub("", said["text"].strip())).strip(),
    }
    return Record(number, raw, message.row)


def _date(match: re.Match[str]) -> str:
    """When a message was sent; its day alone where a word at the time is not known."""
    day = re.sub(r"\s", "", without_marks(match["date"])).rstrip(".")
    words = {
        re.sub(r"[\s.]", "", without_marks(word)).lower()
        for word in (match["before"], match["after"])
        if word
    } - _AT
    if not words:
        return f"{day} {match['time']}"
    if words <= _MORNING or words <= _EVENING:
        return f"{day} {match['time']} {'AM' if words <= _MORNING else 'PM'}"
    return day


def _kind(text: str) -> str:
    """`media` for what the program wrote in place of a text, else `text`."""
    plain = without_marks(text).strip()
    # An iPhone puts a mark before the program's words, and before the count of a document's pages.
    marked = text.lstrip(" ").startswith("\u200e") or " \u2022 \u200e" in text
    if marked or plain.rstrip(".") in _NOTICES:
        return "media"
    forms = (_PLACE, _BRACKETED, _ATTACHED)
    return "media" if any(form.fullmatch(plain) for form in forms) else "text"


def is_clippings(head: str) -> bool:
    """Whether text begins as the file of clippings does."""
    lines = head.lstrip("\ufeff \n").split("\n")
    return len(lines) > 1 and lines[1].startswith("- ") and f"\n{_END}" in head


def clippings_records(lines: Iterator[str | None]) -> Generator[Record, None, None]:
    """Entries with `text`, `date` and `kind`: note, highlight or bookmark."""
    number = 0
    entry = _Lines(1)
    for row, line in enumerate(lines, start=1):
        if line is None or line.strip() != _END:
            entry.add(line)
            continue
        number += 1
        yield _clipping(number, entry)
        entry = _Lines(row + 1)
    if entry.too_long or any(line.strip() for line in entry.lines):
        fault = "an entry that does not end; the file may be cut"
        yield Record(number + 1, None, entry.row, (fault,))


def _clipping(number: int, entry: _Lines) -> Record:
    if entry.too_long:
        return Record(number, None, entry.row, (f"an entry {TOO_LONG}",))
    what = entry.lines[1].strip() if len(entry.lines) > 1 else ""
    if not what.startswith("-"):
        return Record(number, None, entry.row, ("an entry without the line that says what it is",))
    text = "".join(entry.lines[2:]).strip()
    kind = "notice" if _NOTICE.fullmatch(text) else "highlight"
    raw = {"text": text, "kind": kind if text else "bookmark"}
    if added := _ADDED.search(what):
        raw["date"] = added["date"].strip()
    return Record(number, raw, entry.row)
