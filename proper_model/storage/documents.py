"""JSON and TOML from others or from a disk, read strictly: a plain value, or one kind of error.

Python's own readers take NaN, keys that come twice and halves of surrogate pairs, and answer some
documents with a RecursionError, a plain ValueError about digits, or minutes of work. Here every
document that is not plain data within bounds is a `DocumentError`, whose text quotes nothing of it.
What a document must hold is for its reader to say. The canonical form of signed documents is
`canonical`; records of gigabytes are `json_stream`.
"""

from __future__ import annotations

import json
import math
import re
import tomllib
from collections.abc import Callable
from typing import Any, NoReturn

MAX_DEPTH = 64
MAX_DIGITS = 64  # of an integer; tokenizers write "no limit" with 31
MAX_KEY_PARTS = 16  # of a dotted key in TOML: tomllib's time grows with its square
_LARGEST = 10**MAX_DIGITS

_PART = r"""(?:[A-Za-z0-9_-]+|"[^"\n]*"|'[^'\n]*')"""
_LONG_KEY = re.compile(
    rf"(?:^|[\[{{,])[ \t]*(?:{_PART}[ \t]*\.[ \t]*){{{MAX_KEY_PARTS}}}", re.MULTILINE
)


class DocumentError(ValueError):
    """The document cannot be read; the text says why, in words that follow "FILE: "."""


def parse_json(
    data: bytes | str,
    *,
    max_depth: int = MAX_DEPTH,
    parse_int: Callable[[str], int] | None = None,
    parse_float: Callable[[str], float] | None = None,
    constants: bool = False,
    surrogates: bool = False,
) -> Any:
    """The value of a JSON document, with `parse_int` and `parse_float` in place of our own.

    `constants` takes NaN and Infinity: files of our own hold losses that are not finite.
    `surrogates` takes halves of surrogate pairs, for readers that replace them in a person's text.

    Raises DocumentError: not UTF-8, not JSON, a key twice, NaN or a number that is none in a
    float, too many digits, half a surrogate pair, or nested deeper than `max_depth`.
    """
    try:
        value = json.loads(
            _text(data),
            object_pairs_hook=_unique,
            parse_int=parse_int or _integer,
            parse_float=parse_float or _finite,
            parse_constant=float if constants else refuse_constant,
        )
    except json.JSONDecodeError as error:
        raise DocumentError(f"not JSON at character {error.pos}") from None
    except RecursionError:
        raise DocumentError("nested too deeply") from None
    _check(value, max_depth, surrogates=surrogates)
    return value


def parse_object(
    data: bytes | str, *, max_depth: int = MAX_DEPTH, surrogates: bool = False
) -> dict[str, Any]:
    """As `parse_json`, for a document that is an object."""
    value = parse_json(data, max_depth=max_depth, surrogates=surrogates)
    if not isinstance(value, dict):
        raise DocumentError("expected an object")
    return value


def parse_toml(data: bytes | str) -> dict[str, Any]:
    """The tables of a TOML document.

    Raises DocumentError: not UTF-8, not TOML, too many digits, a key of too many parts, or nested
    deeper than `MAX_DEPTH`.
    """
    text = _text(data)
    if _LONG_KEY.search(text) is not None:
        raise DocumentError(f"a key has more than {MAX_KEY_PARTS} parts")
    try:
        value = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise DocumentError(f"not TOML, {error}") from None
    except RecursionError:
        raise DocumentError("nested too deeply") from None
    except ValueError:  # Python's own limit, against quadratic time
        raise DocumentError("a number has too many digits") from None
    _check(value, MAX_DEPTH)
    return value


def _text(data: bytes | str) -> str:
    if isinstance(data, str):
        return data
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise DocumentError(f"not UTF-8 at byte {error.start}") from None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise DocumentError("an object names the same key twice")
    return fields


def _integer(text: str) -> int:
    # Python would spend quadratic time on a very long number before refusing it.
    if len(text) > MAX_DIGITS:
        raise DocumentError("a number has too many digits")
    return int(text)


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise DocumentError("a number is too large")
    return value


def refuse_constant(_name: str) -> NoReturn:
    """What the standard decoder does with NaN and Infinity, which JSON does not have."""
    raise DocumentError("NaN and Infinity are not JSON")


def _check(value: Any, max_depth: int, *, surrogates: bool = False) -> None:
    """Refuse depth and broken text, a level at a time, so that depth itself costs no stack."""
    level, depth = [value], 0
    while level:
        below: list[Any] = []
        for item in level:
            if isinstance(item, str) and not surrogates:
                _check_text(item)
            elif isinstance(item, dict):
                for key in () if surrogates else item:
                    _check_text(key)
                below += item.values()
            elif isinstance(item, list):
                below += item
            elif isinstance(item, int) and abs(item) >= _LARGEST:  # TOML writes them in hex as well
                raise DocumentError("a number has too many digits")
        level, depth = below, depth + 1
        if depth >= max_depth and any(isinstance(item, dict | list) for item in level):
            raise DocumentError(f"nested deeper than {max_depth} levels")


def _check_text(text: str) -> None:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise DocumentError("a text holds half a surrogate pair") from None
