"""The form of what a program prints for other programs: one JSON document, of an error too.

The fields of every command: docs/json.md.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

SCHEMA = 1  # raised when a field goes or changes its meaning; new ones come without


def document(command: str, found: Mapping[str, Any]) -> str:
    """What a command found, as one line. `command`: its words."""
    return _line({"schema": SCHEMA, "command": command, **found})


def error_document(
    command: str | None, found: Mapping[str, Any], *, code: int, kind: str, message: str, hint: str
) -> str:
    """An error, with what the command found before it; `command` is None where none was understood."""
    error = {"code": code, "kind": kind, "message": message, "next": hint}
    return _line({"schema": SCHEMA, "command": command, **found, "error": error})


def _line(value: Mapping[str, Any]) -> str:
    """ASCII alone, which no locale and no terminal can break; what is no number is null."""
    return json.dumps(_finite(value), ensure_ascii=True, sort_keys=True, allow_nan=False)


def _finite(value: Any) -> Any:
    """The same with null for what is no number: JSON has neither NaN nor infinity."""
    if isinstance(value, Mapping):
        return {name: _finite(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
