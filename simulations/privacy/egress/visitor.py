"""A child process that visits `proper serve`: it sends requests, and keeps the bytes of each answer.

    python -I visitor.py VISITS.json TOLD ANSWERS SERVER

It waits until TOLD, the server's stdout, has the page's address, and ends the process SERVER when it
has asked everything. Nothing but the standard library is imported, and it is not witnessed: what it
connects to is the socket of the program that is scanned.
"""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

STATUSES = "statuses.json"
WAIT_S = 300.0  # for the server, and for one answer
_ADDRESS = re.compile(rb"http://127\.0\.0\.1:(\d+)/#token=(\S+)\n")


@dataclass(frozen=True)
class Visit:
    """One request, and the status that is expected.

    Attributes:
        name: of the file with its answer; never a person's.
        headers: beside Host, length, type and token, or in the place of one of them.
        token: whether to send the token.
        hang_up: leave after the first bytes of the answer.
        again_while: ask again as long as this stands in the answer.
    """

    name: str
    method: str
    path: str
    status: int
    body: str = ""
    headers: dict[str, str] = field(default_factory=dict)
    token: bool = True
    hang_up: bool = False
    again_while: str = ""

    def request(self, port: int, token: str) -> bytes:
        """What goes over the wire."""
        body = self.body.encode()
        headers = {"Host": f"127.0.0.1:{port}", "Connection": "close"}
        if body:
            headers |= {"Content-Type": "application/json", "Content-Length": str(len(body))}
        if self.token:
            headers["Authorization"] = f"Bearer {token}"
        lines = [f"{name}: {value}" for name, value in (headers | self.headers).items()]
        head = "\r\n".join([f"{self.method} {self.path} HTTP/1.1", *lines, "", ""])
        return head.encode("latin-1") + body


def write_visits(path: Path, visits: Sequence[Visit]) -> None:
    """The file that the child reads."""
    path.write_text(json.dumps([asdict(visit) for visit in visits]))


def visit_all(visits: Sequence[Visit], port: int, token: str, answers: Path) -> dict[str, int]:
    """Ask one after the other; the status of each answer, whose bytes lie in `answers`."""
    statuses = {}
    for visit in visits:
        data = _asked(visit, port, token)
        while visit.again_while and visit.again_while.encode() in data:
            time.sleep(0.05)
            data = _asked(visit, port, token)
        (answers / visit.name).write_bytes(data)
        statuses[visit.name] = int(data.split(b" ", 2)[1]) if data.startswith(b"HTTP/1.1 ") else 0
    return statuses


def _asked(visit: Visit, port: int, token: str) -> bytes:
    kept = bytearray()
    with socket.create_connection(("127.0.0.1", port), WAIT_S) as wire:
        wire.sendall(visit.request(port, token))
        while data := wire.recv(1 << 16):
            kept += data
            if visit.hang_up:
                break
    return bytes(kept)


def _address(told: Path) -> tuple[int, str]:
    """Port and token. Raises TimeoutError."""
    until = time.monotonic() + WAIT_S
    while time.monotonic() < until:
        found = _ADDRESS.search(told.read_bytes()) if told.exists() else None
        if found:
            return int(found[1]), found[2].decode()
        time.sleep(0.05)
    raise TimeoutError("the server named no address")


def main(given: Path, told: Path, answers: Path, server: int) -> int:
    """Visit, then end the server."""
    visits = [Visit(**one) for one in json.loads(given.read_text())]
    try:
        statuses = visit_all(visits, *_address(told), answers)
        (answers / STATUSES).write_text(json.dumps(statuses))
    finally:
        os.kill(server, signal.SIGINT)
    return 0


if __name__ == "__main__":
    visits_file, told_file, folder = map(Path, sys.argv[1:4])
    sys.exit(main(visits_file, told_file, folder, int(sys.argv[4])))
