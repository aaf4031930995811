"""Finished phases on disk, each under the hash of everything it depends on (`phase_keys`).

A phase is a folder `<name>-<hash>` with `done.safetensors` once finished, and `checkpoint*` files
while it trains. The same key always leads to the same result, so a stored one is as good as training.
Runs may share a cache: a phase is trained by one process at a time, others wait for its result.

A phase also says of whose data it was made (`phase_people`).
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from coordinator.phase_people import lock_of, mark_of, people_of, write_people
from proper_model.engine import load_checkpoint, save_checkpoint
from proper_model.errors import CheckpointError
from proper_model.storage.durable import locked
from proper_model.storage.files import make_private_folder

# From the file for its checkpoints to what a phase ends with: tensors, and JSON-ready notes.
Train = Callable[[Path], tuple[Mapping[str, Tensor], Mapping[str, Any]]]


class PhaseCache:
    """A folder of phases; those that are asked for are made of the data of `people`, by their ids."""

    def __init__(self, folder: Path, people: Collection[str] = ()) -> None:
        self.folder = folder
        self.marks = frozenset(map(mark_of, people))

    def phase(self, name: str, key: Mapping[str, Any]) -> Phase:
        """The phase `name` for a JSON-ready key."""
        text = json.dumps(key, sort_keys=True, separators=(",", ":"))
        digest = hashlib.sha256(text.encode()).hexdigest()
        return Phase(self.folder / f"{name}-{digest[:24]}", digest, self.marks)


class Phase:
    """One phase's place in the cache; `marks` of whose data it is made."""

    def __init__(self, folder: Path, digest: str, marks: frozenset[str] = frozenset()) -> None:
        self.folder, self.digest, self.marks = folder, digest, marks
        self.lock = lock_of(folder)
        self._done = folder / "done.safetensors"

    def finished(self) -> bool:
        """Whether the result is stored. Only looks."""
        return self._done.exists()

    def train_once(self, train: Train) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """The stored result; if there is none, `train` makes it and it is stored.

        While another process trains this phase, this waits until that one has finished or ended, and
        then takes its result or goes on from its checkpoint. Checkpoints are deleted afterwards.

        Raises CheckpointError if the stored result is damaged or another's.
        """
        known = people_of(self.folder)
        if not self.finished() or (known is not None and not self.marks <= known):
            make_private_folder(self.folder)
            with locked(self.lock, timeout_s=math.inf):
                self._mark()
                if not self.finished():  # nor has a process that held the lock meanwhile
                    tensors, notes = train(self.folder / "checkpoint")
                    self.store(tensors, notes)
        self._drop_checkpoints()
        return self.load()

    def store(self, tensors: Mapping[str, Tensor], notes: Mapping[str, Any]) -> None:
        """Keep these as the phase's result."""
        save_checkpoint(self._done, tensors, {"digest": self.digest, "notes": dict(notes)})

    def _mark(self) -> None:
        """Say whose data this is made of, before the first checkpoint.

        The same tokens may be several people's, so that marks are added to. A phase that is finished
        and says nothing is of before there were marks: it goes on saying nothing.
        """
        known = people_of(self.folder)
        if (known is None and self.finished()) or self.marks <= (known or frozenset()):
            return
        write_people(self.folder, self.marks | (known or frozenset()))

    def _drop_checkpoints(self) -> None:
        """Delete what only training needs: a kill can leave it beside a finished result.

        Checkpoints of the router phase hold pooled users' provisional LoRAs. Another process may
        delete them at the same time.
        """
        for pattern in ("checkpoint*", ".checkpoint*.tmp", ".done*.tmp"):
            for leftover in self.folder.glob(pattern):
                leftover.unlink(missing_ok=True)

    def load(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Tensors and notes. Raises CheckpointError if the entry is damaged or another's."""
        found = load_checkpoint(self._done)
        if found is None or found[1].get("digest") != self.digest:
            raise CheckpointError(
                f"cached phase '{self.folder.name}' is not the one asked for",
                hint="delete that folder; the phase runs again",
            )
        return found[0], found[1]["notes"]
