"""How far a run is, as a small file a launcher can poll; counts and phase names only.

`progress.json` holds `state` (running, finished, failed), `phase`, `done`, `total`, and for a
failed run `error`, `hint` and `kind`, the name of the error's class. Flower's own `flwr run` ends
with exit code 0 even when the ServerApp failed, so the launcher reads the outcome here.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path

from proper_model.storage.files import make_private_folder, write_atomic

EVERY_S = 0.5


@dataclass
class ProgressFile:
    """Writes at most every `EVERY_S` seconds within a phase."""

    path: Path
    phase: str = ""
    written_at: float = 0.0

    def report(self, phase: str, done: int, total: int) -> None:
        """Say that `done` of `total` parts of `phase` are finished."""
        now = time.monotonic()
        if phase != self.phase or done >= total or now - self.written_at >= EVERY_S:
            self.phase, self.written_at = phase, now
            self._write({"state": "running", "phase": phase, "done": done, "total": total})

    def finished(self) -> None:
        self._write({"state": "finished", "phase": "finished", "done": 1, "total": 1})

    def failed(self, error: str, hint: str | None, kind: str) -> None:
        """Leave the reason. `error` is a message of ours, never a foreign exception's text."""
        why = {"error": error, "hint": hint, "kind": kind}
        self._write({"state": "failed", "phase": self.phase, **why})

    def _write(self, content: dict[str, object]) -> None:
        make_private_folder(self.path.parent)
        write_atomic(self.path, (json.dumps(content) + "\n").encode())
