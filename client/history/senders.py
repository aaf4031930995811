"""Whose messages a chat's are: the person's, as the file or `--sender` says, or others'."""

from __future__ import annotations

import unicodedata
from typing import Any

from client.history.fields import dig
from client.history.layouts import Layout
from client.history.plain_text import without_marks
from proper_model.errors import DataError
from proper_model.tasks import counted

MAX_SENDERS = 10_000  # different ones that are told apart
OTHERS = "of other people"
SENDER_HINT = "say which one you are, as the file writes it: --sender NAME"
HYPHENS = str.maketrans("\u2010\u2011", "--")  # in WhatsApp's telephone numbers


class Senders:
    """Who sent the messages of one file; `owner` is filled by whoever reads it."""

    def __init__(
        self, name: str, layout: Layout | None, wanted: str | None, owner: list[str]
    ) -> None:
        self._name, self._owner = name, owner
        self._place = None if layout is None else layout.sender
        self._wanted = None if wanted is None else same_name(wanted)
        self._found: set[str] = set()
        self._unclaimed = False  # whether a message was taken that nothing says to be the person's

    def reason(self, raw: dict[str, Any], other: str | None) -> str | None:
        """Why a record is none of the person's messages; `other` is a reason that is known already."""
        sender = None if self._place is None else _written(dig(raw, self._place))
        names = {same_name(name) for name in (sender, dig(raw, "from")) if isinstance(name, str)}
        if self._wanted in names:  # of what is left out too: it says that there is such a sender
            self._found.add(str(self._wanted))
        if other is not None or self._place is None:
            return other
        if isinstance(sender, str) and len(self._found) < MAX_SENDERS:
            self._found.add(same_name(sender))
        if self._wanted is not None:
            return None if self._wanted in names else OTHERS
        # The file may say only after the messages who the person is, and what was taken is not theirs.
        self._unclaimed = self._unclaimed or not self._owner
        return None if not self._owner or sender in self._owner else OTHERS

    def check(self) -> None:
        """Raises DataError where a chat does not say which of its people is the person."""
        if self._wanted is not None and self._place is None:
            raise DataError(
                f"{self._name}: --sender is for chats that are known, and this is none",
                hint="leave it out, and give a file that holds your own items alone",
            )
        if self._unclaimed:
            people = counted(len(self._found), "person", "people")
            raise DataError(f"{self._name}: a chat with messages of {people}", hint=SENDER_HINT)
        if self._wanted is not None and self._wanted not in self._found:
            raise DataError(
                f"{self._name}: no message of the sender that --sender names", hint=SENDER_HINT
            )


def same_name(name: str) -> str:
    """A sender's name in one spelling: without marks, with plain blanks and hyphens."""
    plain = without_marks(name).translate(HYPHENS)
    return unicodedata.normalize("NFC", " ".join(plain.split()).removeprefix("~").strip())


def _written(value: Any) -> Any:
    """A sender as Telegram writes it; exports of before 2021 have its number alone."""
    is_number = isinstance(value, int) and not isinstance(value, bool)
    return f"user{value}" if is_number else value
