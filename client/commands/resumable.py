"""Running `personal` for a command: what it costs, sealed checkpoints, progress, what came of it.

A checkpoint belongs to exactly one piece of work: release, items, seed and settings are in its
name. Interrupted, it stays, sealed under the vault's key, until the same work is resumed or
another one begins.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from client.person.learner import Learner
from client.person.state import PersonalState
from client.vault.opening import Vault
from client.vault.working_files import list_working, remove_working, working_name
from proper_model.engine import Sealed
from proper_model.federation.machine import peak_memory_bytes
from proper_model.settings import to_mapping
from proper_model.tasks import HistoryItem, Task

Histories = Mapping[str, tuple[Task, Sequence[HistoryItem]]]
KEY_DIGITS = 24


@dataclass(frozen=True)
class Spent:
    """Wall-clock seconds, and the highest memory of the whole process so far, in bytes."""

    seconds: float
    peak_bytes: int


def work_key(learner: Learner, state: PersonalState, histories: Histories, what: str) -> str:
    """A name for one piece of work; any other item, setting or release gives another one."""
    described = {
        "what": what,
        "bundle": state.bundle_id,
        "done_before": len(state.events),
        "seed": state.seed,
        "settings": to_mapping(learner.settings),
        "memory": learner.limit_bytes,
        "tasks": {
            name: {
                "task": task.toml_text,
                "template": task.template,
                "items": [[item.id, item.date, dict(item.fields)] for item in items],
            }
            for name, (task, items) in histories.items()
        },
    }
    text = json.dumps(described, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:KEY_DIGITS]


def checkpoint(vault: Vault, key: str) -> Sealed:
    """Where this work's training state goes, encrypted."""
    sealer = vault.sealer(f"checkpoint {key}")
    return Sealed(vault.folder / working_name(vault.newest, key), sealer.seal, sealer.open)


def leftovers(vault: Vault) -> list[Path]:
    """Checkpoints of interrupted work, half-written ones too. Raises StorageError."""
    return list_working(vault.folder)


def can_resume(vault: Vault, key: str) -> bool:
    """Whether this very work was begun before."""
    return any(path.name.startswith(working_name(vault.newest, key)) for path in leftovers(vault))


def discard(vault: Vault, *, keep: str | None = None) -> None:
    """Remove checkpoints, but not those of the work `keep`. Raises StorageError."""
    remove_working(vault.folder, keep=None if keep is None else working_name(vault.newest, keep))


def measured(run: Callable[[], PersonalState]) -> tuple[PersonalState, Spent]:
    """The result, and what it took."""
    begin = time.monotonic()
    result = run()
    return result, Spent(time.monotonic() - begin, peak_memory_bytes())
