"""Text as a person wrote it, out of what sites store: HTML, character references, message parts."""

from __future__ import annotations

import html
from html.parser import HTMLParser
from typing import Any

_BLOCKS = frozenset(
    {"article", "blockquote", "dd", "div", "dl", "dt", "figure", "hr", "li", "ol", "pre", "section"}
    | {"table", "tr", "ul", *(f"h{level}" for level in range(1, 7))}
)
_UNSEEN = frozenset({"script", "style"})
# WhatsApp's and other programs' marks of reading direction, and a byte order mark inside.
MARKS = str.maketrans("", "", "\u200e\u200f\u202a\u202b\u202c\u2066\u2067\u2068\u2069\ufeff")


class _Words(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.parts: list[str] = []
        self.unseen = 0

    def handle_starttag(self, tag: str, _attributes: object) -> None:
        self.unseen += tag in _UNSEEN
        if tag == "br":
            self.parts.append("\n")
        elif tag in _BLOCKS:
            self._end_line()
        elif tag == "p":
            self.parts.append("\n\n")

    def handle_endtag(self, tag: str) -> None:
        self.unseen -= tag in _UNSEEN and self.unseen > 0
        if tag in _BLOCKS:
            self._end_line()
        elif tag == "p":
            self.parts.append("\n\n")
        elif tag in ("td", "th"):
            self.parts.append(" ")

    def _end_line(self) -> None:
        if self.parts and not self.parts[-1].endswith("\n"):
            self.parts.append("\n")

    def handle_data(self, data: str) -> None:
        if not self.unseen:
            self.parts.append(data)


def from_html(value: Any) -> Any:
    """HTML without its tags, lines where it breaks them; anything but a string stays as it is."""
    if not isinstance(value, str) or not ("<" in value or "&" in value):
        return value
    reader = _Words()
    reader.feed(value)
    reader.close()
    lines = "".join(reader.parts).split("\n")
    kept = [line.strip(" \t\r") for line in lines]
    text = "\n".join(kept).strip("\n")
    while "\n\n\n" in text:
        text = text.replace("\n\n\n", "\n\n")
    return text


def from_entities(value: Any) -> Any:
    """Text in which a site wrote & and < as `&amp;` and `&lt;`; anything but a string as it is."""
    return html.unescape(value) if isinstance(value, str) else value


def from_parts(value: Any) -> Any:
    """A message that is a string, or a list of strings and objects with a text; else as it is."""
    if not isinstance(value, list):
        return value
    texts = [part.get("text") if isinstance(part, dict) else part for part in value]
    strings = [text for text in texts if isinstance(text, str)]
    return "".join(strings) if len(strings) == len(texts) else value


def without_marks(text: str) -> str:
    """Text without marks of reading direction."""
    return text.translate(MARKS)
