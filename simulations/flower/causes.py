"""How a run ended: what its coordinator said, else what its log and its exit status show.

A log holds whatever libraries print, which may quote a user; so nothing of it is repeated. What is
known is recognised and named by a fixed text; at most the name of a Python module is taken over.
"""

from __future__ import annotations

import json
import re
from contextlib import suppress
from pathlib import Path
from typing import Any

from proper_model import errors
from proper_model.errors import ProperError, SimulationError
from proper_model.federation.run_plan import RunPlan
from proper_model.storage.files import storage_errors, write_atomic
from simulations.flower.actors import LOST, ending

GO_ON = "go on with the same command (proper-sim run: and --resume)"
PROBE_BYTES = 1 << 16
TAIL_BYTES = 1024 * 1024

# What libraries and the system write, and what it means. The last one that a log shows counts.
KNOWN = (
    (r"No space left on device", "the disk is full"),
    (r"Disk quota exceeded", "the disk quota is used up"),
    (r"Read-only file system", "a folder lies on a read-only file system"),
    (r"CUDA out of memory|CUDA_ERROR_OUT_OF_MEMORY", "the GPU's memory ran out"),
    (
        r"Cannot allocate memory|\bMemoryError\b|can't allocate memory|std::bad_alloc",
        "memory ran out",
    ),
    (r"Too many open files", "too many open files (see ulimit -n)"),
    (
        r"can't start new thread|Resource temporarily unavailable",
        "too many processes or threads (see ulimit -u)",
    ),
    (r"No usable temporary directory", "no folder for temporary files can be written (see TMPDIR)"),
    (r"AF_UNIX path length|AF_UNIX path too long", "the path of a socket is too long (see TMPDIR)"),
    (r"No module named '(?P<module>[\w.]{1,80})'", "the Python module {module} is not installed"),
    (
        r"cannot import name '\w{1,80}' from '(?P<module>[\w.]{1,80})'",
        "the installed {module} is of another version than expected",
    ),
    (rf"{LOST}: (?P<ending>exit code \d{{1,3}}|signal \w{{1,9}})", "{ending}"),
)


def check_outcome(plan: RunPlan, log: Path, start: int, status: int) -> None:
    """Raise unless the coordinator said that it finished: what it said, else what the log shows.

    `start`: where in the log this run began; `status`: the exit status of its process.
    """
    said = outcome(plan)
    if said.get("state") == "finished":
        return
    cause = known_cause(log, start, status)
    if said.get("state") == "failed":
        also = f"; {cause}" if cause else ""
        raise _error_class(said.get("kind"))(
            f"{said.get('error')}{also} (log: {log})",
            hint=str(said.get("hint") or "") or None,
        )
    if cause is None:  # a disk too full for the log, too
        with storage_errors(log):
            write_atomic(log.with_name("room"), bytes(PROBE_BYTES))
            log.with_name("room").unlink()
    raise SimulationError(
        f"Flower ended before the coordinator finished: {cause or 'cause unknown'} (log: {log})",
        hint=f"{'mend that' if cause else 'read the end of the log'}; then {GO_ON}",
    )


def _error_class(name: object) -> type[ProperError]:
    """The class of ours by that name, for its exit code; SimulationError where there is none."""
    found = getattr(errors, str(name), None)
    return found if isinstance(found, type) and issubclass(found, ProperError) else SimulationError


def outcome(plan: RunPlan) -> dict[str, Any]:
    """What the coordinator last wrote about its state; empty where it wrote nothing."""
    return read_json(plan.out / "progress.json") or {}


def read_json(path: Path) -> dict[str, Any] | None:
    """A small file that a running process writes; None where it cannot be read now."""
    with suppress(OSError, ValueError):
        content = json.loads(path.read_text(encoding="utf-8"))
        return content if isinstance(content, dict) else None
    return None


def known_cause(log: Path, start: int, status: int) -> str | None:
    """The cause in words, or None: from byte `start` of `log`, else from an exit `status`."""
    found: tuple[int, str] | None = None
    text = _tail(log, start)
    for pattern, meaning in KNOWN:
        for match in re.finditer(pattern, text):
            names = match.groupdict()
            if "ending" in names:
                names = {"ending": f"a process that plays nodes ended: {_plain(names['ending'])}"}
            if found is None or match.start() >= found[0]:
                found = match.start(), meaning.format(**names)
    if found is not None:
        return found[1]
    if status > 128:  # as the supervisor tells of a signal; below 0 it was itself what was ended
        status = 128 - status
    return f"its process ended: {_plain(ending(status))}" if status < 0 else None


def _plain(how: str) -> str:
    if how == "signal SIGKILL":
        return "signal SIGKILL, as the system sends where memory runs out"
    return how


def _tail(log: Path, start: int) -> str:
    try:
        with log.open("rb") as file:
            end = file.seek(0, 2)
            file.seek(max(start, end - TAIL_BYTES))
            return file.read().decode(errors="replace")
    except OSError:
        return ""
