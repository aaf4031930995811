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

from client.history.layouts import FROM
from client.history.plain_text import without_marks
from client.history.text_input import MAX_RECORD_CHARS, TOO_LONG, Record, iter_lines

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
    """
null
This message was deleted
You deleted this message
Missed voice call
Missed video call
Missed group voice call
Missed group video call
Waiting for this message
Waiting for this message. This may take a while
live location shared
Diese Nachricht wurde gel\u00f6scht
Du hast diese Nachricht gel\u00f6scht
Verpasster Sprachanruf
Verpasster Videoanruf
Warte auf diese Nachricht
Live-Standort wird geteilt
Se elimin\u00f3 este mensaje
Este mensaje fue eliminado
Eliminaste este mensaje
Llamada perdida
Videollamada perdida
Mensagem apagada
Esta mensagem foi apagada
Voc\u00ea apagou esta mensagem
Chamada de voz perdida
Chamada de v\u00eddeo perdida
Ce message a \u00e9t\u00e9 supprim\u00e9
Vous avez supprim\u00e9 ce message
Appel vocal manqu\u00e9
Appel vid\u00e9o manqu\u00e9
Questo messaggio \u00e8 stato eliminato
Hai eliminato questo messaggio
Chiamata vocale persa
Videochiamata persa
Dit bericht is verwijderd
U hebt dit bericht verwijderd
Je hebt dit bericht verwijderd
Gemiste spraakoproep
Gemiste video-oproep
""".strip().split("\n")
)
_PLACE = re.compile(r"(?:[^\W\d_]{1,20}: )?https://maps\.google\.com/\?q=\S+", re.IGNORECASE)
# Words for the halves of the day; with another one the time is not read.
_MORNING = frozenset({"am", "ص", "오전", "上午", "午前", "πμ", "öö"})
_EVENING = frozenset({"pm", "م", "오후", "下午", "午後", "μμ", "ös"})
_AT = frozenset({"at", "klo", "à", "um", "kl", "u", "saat", "alle", "às", "om", "в"})


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
    date = _date(match)
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
    own = text.lstrip(" ").startswith("\u200e")  # the program's words on an iPhone
    if own or " \u2022 \u200e" in text:  # as before: a document's pages
        return "media"
    if plain.rstrip(".") in _NOTICES or _PLACE.fullmatch(plain):
        return "media"
    return "media" if _BRACKETED.fullmatch(plain) or _ATTACHED.fullmatch(plain) else "text"
