"""Why a run ended, from what its log and its exit status show, in words of ours.

A log holds whatever libraries print, which may quote a user; so nothing of it is repeated. What is
known is recognised and named by a fixed text; at most the name of a Python module is taken over.
"""

from __future__ import annotations

import re
from pathlib import Path

from simulations.flower.actors import LOST, ending

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
