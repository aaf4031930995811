"""Finished phases on disk, each under the hash of everything it depends on.

A phase is a folder `<name>-<hash>` with `done.safetensors` once finished, and `checkpoint*` files
while it trains. The same key always leads to the same result, so a hit is as good as training.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from proper_model.checkpoint import load_checkpoint, save_checkpoint
from proper_model.errors import CheckpointError


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
        self._done = folder / "done.safetensors"

    @property
    def done(self) -> bool:
        return self._done.exists()

    def finish(self, tensors: Mapping[str, Tensor], notes: Mapping[str, Any]) -> None:
        """Store the result and drop the checkpoints."""
        save_checkpoint(self._done, tensors, {"digest": self.digest, "notes": dict(notes)})
        for leftover in self.folder.glob("checkpoint*"):
            leftover.unlink()

    def load(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Tensors and notes. Raises CheckpointError if the entry is damaged or another's."""
        found = load_checkpoint(self._done)
        if found is None or found[1].get("digest") != self.digest:
            raise CheckpointError(
                f"cached phase '{self.folder.name}' is not the one asked for",
                hint="delete that folder; the phase runs again",
            )
        return found[0], found[1]["notes"]
