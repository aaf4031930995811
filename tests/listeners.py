"""What the processes of a run listen at while it is up, and what another account gets from them."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psutil

NOBODY = 65534
# A process that listens in every way there is.
PLANTED = """
import json, socket, sys, time
held = []
for family, kind, place in (
    (socket.AF_INET, socket.SOCK_STREAM, ("0.0.0.0", 0)),
    (socket.AF_INET, socket.SOCK_STREAM, ("127.0.0.1", 0)),
    (socket.AF_INET6, socket.SOCK_STREAM, ("::1", 0)),
    (socket.AF_INET, socket.SOCK_DGRAM, ("127.0.0.1", 0)),
    (socket.AF_UNIX, socket.SOCK_STREAM, sys.argv[1]),
):
    held.append(socket.socket(family, kind))
    held[-1].bind(place)
    if kind == socket.SOCK_STREAM:
        held[-1].listen()
names = [one.getsockname() for one in held]
print(json.dumps([n if isinstance(n, str) else n[:2] for n in names]), flush=True)
time.sleep(600)
"""
# Everything is imported before the account changes: it may not read this interpreter's folders.
ATTACK = """
import encodings.idna, json, os, socket, sys
places, pids, folders, account = json.loads(sys.argv[1])
os.setgroups([]); os.setgid(account); os.setuid(account)
got = []
def tried(what, attempt):
    try:
        attempt()
        got.append(what)
    except OSError:
        pass
for place in places:
    if isinstance(place, str):
        tried(place, lambda: socket.socket(socket.AF_UNIX).connect(place))
    else:
        tried(place, lambda: socket.create_connection(place, timeout=5).close())
for pid in pids:
    tried(pid, lambda: os.listdir(f"/proc/{pid}/fd"))
    tried(pid, lambda: open(f"/proc/{pid}/environ").read())
for folder in folders:
    tried(folder, lambda: os.listdir(folder))
print(json.dumps(got))
"""

Place = tuple[str, int] | str


@contextlib.contextmanager
def planted(folder: Path) -> Iterator[set[Place]]:
    """A child of ours with a listener of each kind, as a control of the watch; their places."""
    process = subprocess.Popen(
        [sys.executable, "-c", PLANTED, str(folder / "planted.sock")], stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    try:
        names = json.loads(process.stdout.readline())
        yield {name if isinstance(name, str) else tuple(name) for name in names}
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


@dataclass
class Watch:
    """Looks at all descendants of this process; what it saw is kept over several looks."""

    places: set[Place] = field(default_factory=set)
    programs: set[str] = field(default_factory=set)
    stolen: list[object] | None = None

    def look(self) -> list[int]:
        """Note every socket that can be reached; the processes that are there."""
        family = psutil.Process().children(recursive=True)
        for process in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                command = process.cmdline()
                self.programs |= {command[2]} if command[1:2] == ["-m"] else set()
                for one in process.net_connections(kind="all"):
                    if one.family == socket.AF_UNIX:
                        self.places |= {one.laddr} if one.laddr else set()
                    elif one.status == psutil.CONN_LISTEN or one.type == socket.SOCK_DGRAM:
                        self.places.add((one.laddr.ip, one.laddr.port))
        return [process.pid for process in family]

    def attack(self, folders: list[Path]) -> None:
        """Try all that was seen from another account, once; needs root."""
        pids = self.look()
        if self.stolen is not None or os.geteuid() != 0:
            return
        places = sorted(self.places, key=str)
        asked = json.dumps([places, pids, [str(folder) for folder in folders], NOBODY])
        done = subprocess.run(
            [sys.executable, "-c", ATTACK, asked], check=True, capture_output=True, text=True
        )
        self.stolen = json.loads(done.stdout)
