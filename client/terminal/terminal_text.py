"""Text of a history or a model, made safe to show on a terminal.

A control sequence in such a text may move the cursor, set the window's title or send input as if it
were typed, and a format character may change the reading direction of what follows.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from typing import Any
from unicodedata import category

REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
# Lines and columns, and the two joiners that Persian, Indic scripts and emoji are written with.
_KEPT = frozenset("\n\t\N{ZERO WIDTH NON-JOINER}\N{ZERO WIDTH JOINER}")


def harmless(text: str) -> str:
    """The text with control and format characters (Unicode Cc and Cf) replaced, one by one."""
    return "".join(REPLACEMENT if _acts(sign) else sign for sign in text)


def for_stdout(text: str) -> str:
    """`harmless` where stdout is a terminal; a file or pipe gets every character."""
    return harmless(text) if sys.stdout.isatty() else text


def preview(fields: Mapping[str, str], length: int) -> str:
    """The first characters of an item, in one line."""
    text = " | ".join(" ".join(value.split()) for value in fields.values())
    return harmless(text[:length])


def json_line(value: Any) -> str:
    """One line of JSON in which every character that acts on a terminal is escaped."""
    text = json.dumps(value, ensure_ascii=False)
    # Beyond ASCII's own, which `json` escapes; outside of strings JSON has none of them.
    return "".join(json.dumps(sign)[1:-1] if _acts(sign) else sign for sign in text)


def _acts(sign: str) -> bool:
    return sign not in _KEPT and category(sign) in ("Cc", "Cf")
