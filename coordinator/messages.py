"""The message ledger: one line for each message, with its kind, node and size, never its content.

`messages.jsonl` is what shows that large arrays travel once per node. `node` is a number counted
from 0 in the order nodes were first seen, not Flower's id.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from pathlib import Path


@dataclass
class MessageLedger:
    """Appends to `path`; safe to reopen after a restart."""

    path: Path
    numbers: dict[int, int] = field(default_factory=dict)

    def add(self, direction: str, kind: str, node_id: int, size_bytes: int, status: str) -> None:
        """Note a message: `direction` is "out" or "in", `status` the reply's code or ""."""
        row = {
            "direction": direction,
            "kind": kind,
            "node": self.numbers.setdefault(node_id, len(self.numbers)),
            "bytes": size_bytes,
            "status": status,
        }
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        descriptor = os.open(self.path, flags, 0o600)
        with os.fdopen(descriptor, "a", encoding="utf-8") as handle:
            handle.write(json.dumps(row) + "\n")
