"""Loss and learning rate by step of the pooled phases: what a curve is drawn of, and nothing else.

A phase's curve lies beside its result, so that a run that finds the phase in the cache has it too, and each run
copies it to its server's folder. A line a step: its number from 1, the mean loss over its samples (null where
nobody looked at losses, under differential privacy), the learning rate of the stage. No person's loss,
id or text.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from proper_model.progress import Watch
from proper_model.storage.documents import parse_object
from proper_model.storage.files import PRIVATE_FILE, make_private_folder, read_regular, write_atomic

CURVE_FILE = "steps.jsonl"
CURVES = "curves"  # below the server's folder: a file a phase
MOST_BYTES = 1 << 30


@dataclass(frozen=True)
class Step:
    """One step of a training. `loss` None: nobody looked."""

    step: int
    loss: float | None
    learning_rate: float


def curve_writer(path: Path) -> Watch:
    """A watch that appends every step to `path`, readable by the owner only."""

    def watch(step: int, loss: float | None, learning_rate: float) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        descriptor = os.open(path, flags, PRIVATE_FILE)
        with os.fdopen(descriptor, "a", encoding="utf-8") as handle:
            row = {"step": step, "loss": loss, "learning_rate": learning_rate}
            handle.write(json.dumps(row) + "\n")

    return watch


def read_curve(path: Path) -> Sequence[Step]:
    """The steps in order, empty where there is no file.

    A step that does not go on from the one before is of a training that began again there, from a checkpoint
    or anew: what it had made from that step on is dropped. So is a line that a kill cut off.
    """
    try:
        lines = read_regular(path, limit_bytes=MOST_BYTES).splitlines()
    except FileNotFoundError:
        return ()
    found: dict[int, Step] = {}
    for line in lines:
        step = _step(line)
        if step is None:
            continue
        if step.step in found:
            found = {number: known for number, known in found.items() if number < step.step}
        found[step.step] = step
    return tuple(found.values())


def _step(line: bytes) -> Step | None:
    """A line, None where it is not whole."""
    try:
        row = parse_object(line)
        number, loss, rate = row["step"], row["loss"], row["learning_rate"]
        return Step(int(number), None if loss is None else float(loss), float(rate))
    except (ValueError, KeyError, TypeError):
        return None


def keep_curve(phase_folder: Path, name: str, folder: Path) -> None:
    """Copy a phase's curve, if it has one, into a run's `folder`."""
    try:
        content = read_regular(phase_folder / CURVE_FILE, limit_bytes=MOST_BYTES)
    except FileNotFoundError:
        return
    write_atomic(make_private_folder(folder) / f"{name}.jsonl", content)
