r"""Canonical JSON: every value has exactly one byte form, and reading accepts only that form.

Signed documents (manifest, signatures, trusted root) use it, so that two readers can never see two
meanings in the same bytes. The form, also in docs/bundle-format.md section 2:

- UTF-8 without byte order mark, strings in Unicode normal form C, no lone surrogates;
- object keys unique and sorted by code point; no white space outside strings;
- shortest escapes: only `"`, `\` and U+0000..U+001F are escaped, short forms where JSON has them;
- numbers are integers in -(2^53-1)..2^53-1; no fraction, exponent, or -0;
- at most `MAX_DEPTH` levels of nesting; nothing before or after the value.
"""

from __future__ import annotations

import json
import unicodedata
from typing import Any, NoReturn

from proper_model.errors import BundleFormatError
from proper_model.storage.documents import DocumentError, parse_json

MAX_DEPTH = 16
MAX_INTEGER = 2**53 - 1  # the integers every JSON reader holds exactly


def encode(value: Any) -> bytes:
    """The canonical bytes of a value made of dict, list, str, int, bool and None.

    Raises BundleFormatError: a float, another type, an integer out of range, a string not in NFC,
    or too deep nesting.
    """
    _check(value, "value to encode", 0)
    return _bytes(value)


def decode(data: bytes, *, where: str) -> Any:
    """The value of canonical bytes; `where` names the document in messages.

    Raises BundleFormatError: not JSON, duplicate keys, trailing data, or any other form of the
    value than the canonical one.
    """
    value = parse_strict(data, where=where)
    _check(value, where, 0)
    if _bytes(value) != data:
        raise BundleFormatError(
            f"{where}: valid JSON, but not in canonical form",
            hint="the file was written or altered by another program; get it again",
        )
    return value


def parse_strict(data: bytes, *, where: str) -> Any:
    """Parse JSON in any layout, refusing duplicate keys, non-integers, and trailing data.

    Raises BundleFormatError: the bytes are not such a document.
    """
    try:
        return parse_json(data, parse_int=_exact_integer, parse_float=_no_fraction)
    except DocumentError as error:
        raise BundleFormatError(f"{where}: {error}") from None


def _bytes(value: Any) -> bytes:
    text = json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
    return text.encode("utf-8")


def _exact_integer(text: str) -> int:
    # Python would spend quadratic time on a very long number before refusing it.
    if len(text) > len(str(-MAX_INTEGER)):
        raise DocumentError("an integer is outside -(2^53-1)..2^53-1")
    return int(text)


def _no_fraction(_: str) -> NoReturn:
    raise DocumentError("numbers must be integers")


def _check(value: Any, where: str, depth: int) -> None:
    """Refuse what has no canonical form."""
    if depth >= MAX_DEPTH and isinstance(value, dict | list | tuple):
        raise BundleFormatError(f"{where}: nested deeper than {MAX_DEPTH} levels")
    if value is None or isinstance(value, bool):
        return
    if isinstance(value, int):
        if abs(value) > MAX_INTEGER:
            raise BundleFormatError(f"{where}: an integer is outside -(2^53-1)..2^53-1")
    elif isinstance(value, str):
        _check_text(value, where)
    elif isinstance(value, list | tuple):
        for item in value:
            _check(item, where, depth + 1)
    elif isinstance(value, dict):
        for key, item in value.items():
            if not isinstance(key, str):
                raise BundleFormatError(f"{where}: an object key is no string")
            _check_text(key, where)
            _check(item, where, depth + 1)
    else:
        raise BundleFormatError(
            f"{where}: type {type(value).__name__} has no canonical form; "
            "expected object, array, string, integer, boolean or null"
        )


def _check_text(text: str, where: str) -> None:
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise BundleFormatError(f"{where}: a string holds half a surrogate pair")
    if not unicodedata.is_normalized("NFC", text):
        raise BundleFormatError(f"{where}: a string is not in Unicode normal form C")
