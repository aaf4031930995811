"""TOML text into plain values, with one error whatever is wrong with it.

The standard library's reader lets its own stack overflow over deep nesting, and Python's limit on
the digits of an integer through, neither of which is its TOMLDecodeError.
"""

from __future__ import annotations

import tomllib
from typing import Any


class TomlError(ValueError):
    """The text is no TOML. The message says what and where, and quotes nothing longer than a key."""


def parse_toml(text: str) -> dict[str, Any]:
    """The table that a text holds. Raises TomlError."""
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise TomlError(str(error)) from None
    except RecursionError:
        raise TomlError("nested too deeply") from None
    except ValueError:
        raise TomlError("a number or date that cannot be read") from None
