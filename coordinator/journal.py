"""Which steps of a run are finished, so that a restart does not do them again.

One small JSON file, replaced atomically after each step and bound to the plan's fingerprint. A
kill at any moment leaves the journal before or after the step; a step that was done but not noted
is repeated and finds its own results (phases are cached by content, nodes skip what they have).
Only one coordinator may work in a folder: `exclusive` holds a lock that ends with the process.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from proper_model.errors import SimulationError
from proper_model.storage.documents import parse_object
from proper_model.storage.files import make_private_folder, read_regular, write_atomic

JOURNAL_FILE = "journal.json"
LOCK_FILE = "lock"
MAX_JOURNAL_BYTES = 64 * 1024 * 1024


@dataclass
class Journal:
    """Finished steps by name: how long each took in seconds, and a value it left."""

    path: Path
    fingerprint: str
    steps: dict[str, dict[str, float | str]] = field(default_factory=dict)

    @staticmethod
    def open(folder: Path, fingerprint: str) -> Journal:
        """The journal of `folder`; empty if there is none, it is damaged, or of another plan."""
        journal = Journal(make_private_folder(folder) / JOURNAL_FILE, fingerprint)
        try:
            stored = parse_object(read_regular(journal.path, limit_bytes=MAX_JOURNAL_BYTES))
            if stored["format"] == 1 and stored["plan"] == fingerprint:
                journal.steps = {
                    str(name): {"seconds": float(step["seconds"]), "value": str(step["value"])}
                    for name, step in stored["steps"].items()
                }
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            # The journal only saves work: without it every step looks for its own results.
            journal.steps = {}
        return journal

    def done(self, step: str) -> bool:
        return step in self.steps

    def value(self, step: str) -> str:
        """What a finished step left, such as a bundle id."""
        return str(self.steps[step]["value"])

    def finish(self, step: str, *, seconds: float = 0.0, value: str = "") -> None:
        """Note a step as finished, on disk before this returns."""
        self.steps[step] = {"seconds": seconds, "value": value}
        self.save()

    def save(self) -> None:
        """Replace the file on disk."""
        content = {"format": 1, "plan": self.fingerprint, "steps": self.steps}
        write_atomic(self.path, (json.dumps(content, indent=1, sort_keys=True) + "\n").encode())

    def forget(self, *steps: str) -> None:
        """Have steps run again; on disk with the next `save` or finished step."""
        for step in steps:
            self.steps.pop(step, None)

    @contextlib.contextmanager
    def step(self, name: str, *, keep: bool = True) -> Iterator[dict[str, str]]:
        """Run a step and note it if it ends without an error; set `["value"]` to keep a value.

        Without `keep` it is not noted: it was done for some only and has to run again.
        """
        start = time.monotonic()
        result = {"value": ""}
        yield result
        if keep:
            self.finish(name, seconds=time.monotonic() - start, value=result["value"])


@contextlib.contextmanager
def exclusive(folder: Path) -> Iterator[None]:
    """Hold the folder's lock. Raises SimulationError if another process holds it."""
    path = make_private_folder(folder) / LOCK_FILE
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise SimulationError(
                f"{folder}: another run is using this folder",
                hint="wait until it has ended, or give another --out",
            ) from None
        yield
    finally:
        os.close(descriptor)
