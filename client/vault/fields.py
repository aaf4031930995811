"""The fields of the vault's small JSON documents: none unknown, no value out of range.

Source: docs/contributing.md 3.10 (verification takes bytes, limits before parsing, trailing data rejected).
"""

from __future__ import annotations

import re
from collections.abc import Set as AbstractSet
from typing import Any

from proper_model.errors import BundleFormatError, VaultError
from proper_model.storage import canonical

DAMAGED_HINT = "the file was damaged or altered; put back a copy of it from a backup"


def decode_object(
    data: bytes, fields: AbstractSet[str], *, where: str, optional: AbstractSet[str] = frozenset()
) -> dict[str, Any]:
    """The object in canonical bytes, with exactly these fields. Raises VaultError."""
    try:
        value = canonical.decode(data, where=where)
    except BundleFormatError as error:
        raise VaultError(error.message, hint=DAMAGED_HINT) from None
    return exact_fields(value, fields, where=where, optional=optional)


def exact_fields(
    value: Any, fields: AbstractSet[str], *, where: str, optional: AbstractSet[str] = frozenset()
) -> dict[str, Any]:
    """`value` as an object with exactly these fields, but for `optional` ones. Raises VaultError."""
    if not isinstance(value, dict):
        raise VaultError(f"{where}: expected an object", hint=DAMAGED_HINT)
    if value.keys() - optional != fields:
        raise VaultError(
            f"{where}: expected exactly the fields {', '.join(sorted(fields))}", hint=DAMAGED_HINT
        )
    return value


def format_one(value: Any, *, where: str) -> None:
    """Refuse any format number but 1. Raises VaultError."""
    if type(value) is not int or value != 1:
        raise VaultError(
            f"{where}: a format this version does not know; expected 1",
            hint="a newer version of proper wrote it, or it is damaged; update proper",
        )


def integer_in(value: Any, low: int, high: int, *, where: str) -> int:
    """`value` as an integer from `low` to `high`. Raises VaultError."""
    if type(value) is not int or not low <= value <= high:
        raise VaultError(f"{where}: expected an integer from {low} to {high}", hint=DAMAGED_HINT)
    return value


def hex_text(value: Any, size: int, *, where: str) -> str:
    """`value` as the lower-case hex digits of `size` bytes. Raises VaultError."""
    if not isinstance(value, str) or not re.fullmatch(f"[0-9a-f]{{{2 * size}}}", value):
        raise VaultError(f"{where}: expected {2 * size} lower-case hex digits", hint=DAMAGED_HINT)
    return value


def hex_bytes(value: Any, size: int, *, where: str) -> bytes:
    """`size` bytes from their hex digits. Raises VaultError."""
    return bytes.fromhex(hex_text(value, size, where=where))
