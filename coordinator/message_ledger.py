"""The message ledger: one line for each message, with its kind, node and size, never its content.

`messages.jsonl` is what shows that large arrays travel once per node. `node` is a number counted
from 0 in the order nodes were first seen, not Flower's id. Flower gives nodes new ids when it
starts again, so a ledger that is reopened goes on counting: one node may have a number for each
start, but a number never stands for two nodes.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from proper_model.storage.documents import parse_object


@dataclass
class MessageLedger:
    """Appends to `path`, after what earlier starts wrote there."""

    path: Path
    numbers: dict[int, int] = field(default_factory=dict)
    _first: int = 0

    def __post_init__(self) -> None:
        self._first = 1 + max(_node_numbers(self.path), default=-1)

    def add(self, direction: str, kind: str, node_id: int, size_bytes: int, status: str) -> None:
        """Note a message: `direction` is "out" or "in", `status` the reply's code or ""."""
        row = {
            "direction": direction,
            "kind": kind,
            "node": self.numbers.setdefault(node_id, self._first + len(self.numbers)),
            "bytes": size_bytes,
            "status": status,
        }
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        descriptor = os.open(self.path, flags, 0o600)
        with os.fdopen(descriptor, "a", encoding="utf-8") as handle:
            handle.write(json.dumps(row) + "\n")


def _node_numbers(path: Path) -> Iterator[int]:
    """The numbers used in a ledger. A line cut off by a kill has none."""
    if not path.is_file():
        return
    with path.open("rb") as handle:
        for line in handle:
            with contextlib.suppress(ValueError, KeyError, TypeError):
                yield int(parse_object(line)["node"])
