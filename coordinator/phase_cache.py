"""Finished phases on disk, each under the hash of everything it depends on.

A phase is a folder `<name>-<hash>` with `done.safetensors` once finished, and `checkpoint*` files
while it trains. The same key always leads to the same result, so a hit is as good as training.
Runs may share a cache: a phase is trained by one process at a time, others wait for its result.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from torch import Tensor

from proper_model.engine import load_checkpoint, save_checkpoint
from proper_model.errors import CheckpointError
from proper_model.storage.durable import locked
from proper_model.storage.files import make_private_folder

# Phases that this process has claimed, by their lock file.
_CLAIMS: dict[Path, ExitStack] = {}


class PhaseCache:
    """A folder of phases."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def phase(self, name: str, key: Mapping[str, Any]) -> Phase:
        """The phase `name` for a JSON-ready key."""
        text = json.dumps(key, sort_keys=True, separators=(",", ":"))
        digest = hashlib.sha256(text.encode()).hexdigest()
        return Phase(self.folder / f"{name}-{digest[:24]}", digest)


class Phase:
    """One phase's place in the cache."""

    def __init__(self, folder: Path, digest: str) -> None:
        self.folder, self.digest = folder, digest
        self.checkpoint = folder / "checkpoint"
        self.lock = folder.resolve().with_name(f".{folder.name}.lock")
        self._done = folder / "done.safetensors"

    @property
    def done(self) -> bool:
        """Whether the result is stored.

        Looking claims the phase: while another process trains it, this waits until that process
        has finished or ended. False means that this process alone trains it from here on, until
        `finish` or its own end.
        """
        if not self._done.exists():
            self._claim()
        if not self._done.exists():
            return False
        self._clear()
        return True

    def finish(self, tensors: Mapping[str, Tensor], notes: Mapping[str, Any]) -> None:
        """Store the result, drop the checkpoints, and let waiting processes go on."""
        save_checkpoint(self._done, tensors, {"digest": self.digest, "notes": dict(notes)})
        self._clear()

    def _claim(self) -> None:
        make_private_folder(self.folder)
        # After an error, a second attempt in the same process takes its own claim over.
        if self.lock not in _CLAIMS:
            claim = ExitStack()
            claim.enter_context(locked(self.lock, timeout_s=math.inf))
            _CLAIMS[self.lock] = claim

    def _clear(self) -> None:
        """Drop what only training needs: a kill can leave it beside a finished result.

        Checkpoints of the router phase hold pooled users' provisional LoRAs. Another process may
        drop them at the same time.
        """
        for pattern in ("checkpoint*", ".checkpoint*.tmp", ".done*.tmp"):
            for leftover in self.folder.glob(pattern):
                leftover.unlink(missing_ok=True)
        claim = _CLAIMS.pop(self.lock, None)
        if claim is not None:
            claim.close()

    def load(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Tensors and notes. Raises CheckpointError if the entry is damaged or another's."""
        found = load_checkpoint(self._done)
        if found is None or found[1].get("digest") != self.digest:
            raise CheckpointError(
                f"cached phase '{self.folder.name}' is not the one asked for",
                hint="delete that folder; the phase runs again",
            )
        return found[0], found[1]["notes"]
