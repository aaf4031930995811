"""Of whose data a cached phase was made, so that whoever withdraws can be taken out: it is deleted.

`people.json` in a phase's folder lists marks of people's ids. Data are part of every phase's key
(`phase_keys`), so that a release without a person uses no phase that was made with that person; what
is deleted here would only lie there. Needs no torch.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Collection
from pathlib import Path

from proper_model.storage.documents import DocumentError, parse_json
from proper_model.storage.durable import locked, remove_folder
from proper_model.storage.files import read_regular, write_atomic

PEOPLE_FILE = "people.json"
MAX_PEOPLE_BYTES = 1 << 28
_PHASE = re.compile(r"[a-z]+-[0-9a-f]{24}")


def mark_of(user_id: str) -> str:
    """What stands for a person in `people.json`."""
    return hashlib.sha256(f"proper pooled person\0{user_id}".encode()).hexdigest()[:32]


def people_of(phase: Path) -> frozenset[str] | None:
    """Marks of whose data a phase is made of; None where it does not say."""
    try:
        found = parse_json(read_regular(phase / PEOPLE_FILE, limit_bytes=MAX_PEOPLE_BYTES))
    except (OSError, DocumentError):
        return None
    if not isinstance(found, list) or not all(isinstance(mark, str) for mark in found):
        return None
    return frozenset(found)


def write_people(phase: Path, marks: Collection[str]) -> None:
    """Say it. Raises OSError."""
    write_atomic(phase / PEOPLE_FILE, json.dumps(sorted(marks)).encode())


def lock_of(phase: Path) -> Path:
    """What a process holds while it trains the phase."""
    return phase.resolve().with_name(f".{phase.name}.lock")


def phases_of(cache: Path, people: Collection[str]) -> tuple[list[Path], list[Path]]:
    """Phases of a cache that hold data of any of these people, and those that do not say whose."""
    wanted = set(map(mark_of, people))
    found, silent = [], []
    for folder in sorted(cache.glob("*-*")):
        if _PHASE.fullmatch(folder.name) is None or folder.is_symlink():
            continue
        marks = people_of(folder)
        if marks is None:
            silent.append(folder)
        elif marks & wanted:
            found.append(folder)
    return found, silent


def remove_phase(phase: Path) -> None:
    """Delete a phase and all that was begun of it. Raises TimeoutError while a process trains it."""
    with locked(lock_of(phase), timeout_s=0.0):
        remove_folder(phase)
