"""What is known of one command line while it runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from client.settings.sources import Value
    from proper_model.errors import ProperError


@dataclass
class Session:
    """What the options before the command say; `proper-sim` sets only `debug` and what `--json` needs.

    Attributes:
        words: the command line, without the program's name.
        settings: every setting's value and where it comes from; `fault` is what is wrong with them.
        command, found: the command that runs with `--json`, and what an error's document tells beside
            the error.
        answered: its document is printed.
    """

    words: Sequence[str] = ()
    debug: bool = False
    home: Path | None = None
    passphrase_file: Path | None = None
    key_file: Path | None = None
    unlock: str | None = None
    threads: int | None = None
    weak_passphrase: bool = False
    settings_file: Path = field(default_factory=Path)
    settings: Mapping[str, Value] = field(default_factory=dict)
    fault: ProperError | None = None
    command: str | None = None
    found: Mapping[str, Any] = field(default_factory=dict)
    answered: bool = False
