"""Which value counts: option, then environment, then file, then what holds otherwise."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from client.settings.file import typed
from client.settings.names import KEYS, SETTINGS
from proper_model.errors import ConfigError


class Source(StrEnum):
    """Where a value comes from, the strongest first."""

    FLAG = "flag"
    ENVIRONMENT = "environment"
    FILE = "file"
    DEFAULT = "default"


@dataclass(frozen=True)
class Value:
    """A setting's value; None: its default, which the command finds."""

    value: Any
    source: Source


def settled(
    flags: Mapping[str, Any], environment: Mapping[str, Any], file: Mapping[str, Any]
) -> dict[str, Value]:
    """Every setting's value. All three map names of settings to values, and lack what is not said.

    How the vault opens is one question: the strongest source that names a passphrase file, a key
    file or `unlock` answers it, and what weaker ones say of the other two does not count.
    """
    layers = (
        (Source.FLAG, flags),
        (Source.ENVIRONMENT, environment),
        (Source.FILE, file),
    )
    found = {}
    opens = next((layer for layer in layers if any(name in layer[1] for name in KEYS)), None)
    for name in SETTINGS:
        asked = layers if name not in KEYS else (() if opens is None else (opens,))
        layer = next(((source, said) for source, said in asked if name in said), None)
        found[name] = (
            Value(None, Source.DEFAULT) if layer is None else Value(layer[1][name], layer[0])
        )
    return found


def from_environment() -> tuple[dict[str, Any], list[ConfigError]]:
    """What variables say, each by its setting's name, and what is wrong with the others.

    An empty one says nothing.
    """
    said: dict[str, Any] = {}
    faults: list[ConfigError] = []
    for name, setting in SETTINGS.items():
        if text := os.environ.get(setting.variable):
            mend = f"give the variable {setting.variable} such a value, or unset it"
            try:
                said[name] = typed(name, text, setting.variable, mend)
            except ConfigError as error:
                faults.append(error)
    return said, faults
