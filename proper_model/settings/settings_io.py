"""Settings dataclasses from TOML or JSON values and back, with errors that name the key."""

from __future__ import annotations

import dataclasses
import functools
import math
import types
import typing
from collections.abc import Mapping
from enum import StrEnum
from typing import Any, TypeVar

from proper_model.errors import ConfigError

T = TypeVar("T")


def from_mapping(kind: type[T], values: Mapping[str, Any], *, where: str) -> T:
    """Build a settings dataclass from TOML or JSON values.

    Nested tables become nested dataclasses, lists become tuples, strings become enum members.
    Raises ConfigError naming `where` and the key for anything unknown or of the wrong type.
    """
    plain = typing.cast(Any, kind)
    hints, fields = _hints(plain), dataclasses.fields(plain)
    names = sorted(f.name for f in fields)
    for key in values:
        if key not in names:
            raise ConfigError(
                f"{where}: unknown setting '{key}'", hint="known: " + ", ".join(names)
            )
    missing = [
        f.name
        for f in fields
        if f.name not in values
        and f.default is dataclasses.MISSING
        and f.default_factory is dataclasses.MISSING
    ]
    if missing:
        verb = "is" if len(missing) == 1 else "are"
        raise ConfigError(
            f"{where}: {', '.join(missing)} {verb} missing",
            hint="give every setting that has no default: " + ", ".join(missing),
        )
    built = {
        key: _convert(hints[key], value, where=f"{where}.{key}") for key, value in values.items()
    }
    return kind(**built)


@functools.cache
def _hints(kind: type) -> Mapping[str, Any]:
    """Types of the fields: they are text in a class, and compiling it took most of reading a file."""
    return typing.get_type_hints(kind)


def _convert(kind: Any, value: Any, *, where: str) -> Any:
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        if not isinstance(value, Mapping):
            raise ConfigError(f"{where}: expected a table, got {type(value).__name__}")
        return from_mapping(kind, value, where=where)
    if isinstance(kind, type) and issubclass(kind, StrEnum):
        try:
            return kind(value)
        except ValueError:
            raise ConfigError(
                f"{where}: unknown value '{value}'", hint="known: " + ", ".join(kind)
            ) from None
    if typing.get_origin(kind) in (types.UnionType, typing.Union):
        if value is None:
            return None
        inner = [k for k in typing.get_args(kind) if k is not type(None)]
        return _convert(inner[0], value, where=where)
    if typing.get_origin(kind) is tuple:
        if isinstance(value, str) or not isinstance(value, list | tuple):
            raise ConfigError(f"{where}: expected a list, got {type(value).__name__}")
        item = typing.get_args(kind)[0]
        return tuple(_convert(item, v, where=f"{where}[{i}]") for i, v in enumerate(value))
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        try:
            return float(value)
        except OverflowError:
            raise ConfigError(f"{where}: a number beyond what a float holds") from None
    if (kind is int and isinstance(value, bool)) or not isinstance(value, kind):
        raise ConfigError(f"{where}: expected {kind.__name__}, got {type(value).__name__}")
    if kind is float and not math.isfinite(value):
        raise ConfigError(f"{where}: expected a finite number, got {value}")
    return value


def to_mapping(settings: Any) -> dict[str, Any]:
    """The inverse of `from_mapping`: JSON-ready, enum members as strings, tuples as lists."""

    def plain(value: Any) -> Any:
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
        if isinstance(value, StrEnum):
            return str(value)
        if isinstance(value, tuple):
            return [plain(v) for v in value]
        return value

    result = plain(settings)
    assert isinstance(result, dict)
    return result
