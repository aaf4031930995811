"""Runs in every process of a run that will be scanned: keeps what it removes, notes where it reaches.

Temporary files are gone when a run has ended. Here a file that is about to be removed, replaced or
emptied gets a second name in a folder that is scanned later; files opened for writing outside that
folder's parent, and every address that a socket connects to or a name is looked up for, are noted.
Python tells of all that by its audit events; what a library does in C without Python is not seen.

`attach` puts a copy of this file, as `sitecustomize`, in front of a child's modules, where Python loads
it first. Nothing but the standard library is imported, and a fault here never stops the program.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import stat
import sys
import threading
from pathlib import Path
from typing import Any

SCANNED, NOTES = "PROPER_SCANNED_FOLDER", "PROPER_SCAN_NOTES"
REMOVED = "removed"  # below the scanned folder
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
NOWHERE = ("/dev/", "/proc/")
REACHING = {"socket.connect", "socket.sendto", "socket.sendmsg", "socket.getaddrinfo"}
REMOVING = {"os.remove", "os.rename"}


def attach(environment: dict[str, str], *, scanned: Path, notes: Path) -> dict[str, str]:
    """The environment of a child, and of its children, that are to be witnessed.

    Args:
        scanned: the folder that will be scanned; what is removed is kept in it.
        notes: a folder for this module and what it notes, outside of the scanned one.
    """
    notes.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(__file__, notes / "sitecustomize.py")
    search = [str(notes), *filter(None, [environment.get("PYTHONPATH")])]
    return {
        **environment,
        "PYTHONPATH": os.pathsep.join(search),
        SCANNED: str(scanned.resolve()),
        NOTES: str(notes.resolve()),
    }


def noted(notes: Path) -> tuple[list[Path], int]:
    """Files written elsewhere that are still there, and how often a network was reached for."""
    lines = {line for path in notes.glob("*.noted") for line in path.read_text().splitlines()}
    elsewhere = {Path(line.removeprefix("wrote ")) for line in lines if line.startswith("wrote ")}
    reached = sum(line.startswith("reached ") for line in lines)
    return sorted(path for path in elsewhere if path.is_file()), reached


class Witness:
    """Listens to one process. `root` and `notes` are absolute."""

    def __init__(self, root: Path, notes: Path) -> None:
        self.root, self.notes = root, notes
        self.numbers = itertools.count()
        self.busy = threading.local()

    def hear(self, event: str, details: tuple[Any, ...]) -> None:
        """Called by Python before the thing happens; whatever goes wrong here is dropped."""
        if event != "open" and event not in REACHING and event not in REMOVING:
            return
        if getattr(self.busy, "now", False):  # what we do ourselves
            return
        self.busy.now = True
        try:
            with contextlib.suppress(Exception):
                self._hear(event, details)
        finally:
            self.busy.now = False

    def _hear(self, event: str, details: tuple[Any, ...]) -> None:
        if event == "open":
            path, _, flags = details
            if isinstance(path, str | bytes | os.PathLike) and flags & WRITING:
                self._written(_absolute(os.fsdecode(path)), flags)
        elif event == "os.remove":
            self._keep(details[0], details[1])
        elif event == "os.rename":
            self._keep(details[1], details[3])
        elif event == "socket.getaddrinfo" or isinstance(details[1], tuple):
            self._note(f"reached {event}")

    def _written(self, path: Path, flags: int) -> None:
        if str(path).startswith(NOWHERE) or path.suffix == ".pyc" or "__pycache__" in path.parts:
            return
        if flags & os.O_TRUNC and path.is_file() and path.stat().st_size:
            self._keep(path, -1, copied=True)
        if not path.is_relative_to(self.root) and not path.is_relative_to(self.notes):
            self._note(f"wrote {path}")

    def _keep(self, named: Any, folder: int, *, copied: bool = False) -> None:
        """Give a file that is about to go a second name; it keeps its place below the root."""
        path = Path(os.fsdecode(named))
        if folder >= 0 and not path.is_absolute():
            path = Path(os.readlink(f"/proc/self/fd/{folder}")) / path  # noqa: PTH115
        path = _absolute(path)
        kind = path.lstat().st_mode
        if not stat.S_ISREG(kind) or path.is_relative_to(self.root / REMOVED):
            return
        inside = path.relative_to(self.root if path.is_relative_to(self.root) else path.anchor)
        target = self.root / REMOVED / f"{os.getpid()}-{next(self.numbers)}" / inside
        target.parent.mkdir(parents=True)
        try:
            if copied:
                raise OSError
            os.link(path, target, follow_symlinks=False)
        except OSError:  # another disk
            shutil.copyfile(path, target, follow_symlinks=False)

    def _note(self, line: str) -> None:
        with (self.notes / f"{os.getpid()}.noted").open("a") as file:
            file.write(line.replace("\n", " ") + "\n")


def _absolute(path: str | Path) -> Path:
    return Path(os.path.abspath(path))  # noqa: PTH100 - `resolve` would follow a link that goes


if __name__ == "sitecustomize" and SCANNED in os.environ:
    sys.addaudithook(Witness(Path(os.environ[SCANNED]), Path(os.environ[NOTES])).hear)
