"""Connections: whoever has not shown the token may take neither the room nor the time of who has.

Any user of this machine can open connections here. Until a request of a connection carried the
token it is a stranger: it has `Limits.stranger_s` in all, and where there are too many the oldest
goes. Known ones are counted by themselves.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from client.serving.guard import ADMITTED, SEAL

# Connections taken in one turn of the event loop, for each socket that listens.
BACKLOG = 32
# Connections that may wait in the system for their turn.
QUEUE = 1024


@dataclass(frozen=True)
class Limits:
    """Seconds and connections.

    `strangers` is many times BACKLOG, so that a request that came along with its connection is read
    before a flood of others can push that connection out.
    """

    stranger_s: float = 5.0
    strangers: int = 512
    known: int = 64


class Door:
    """Who is connected to one server."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._strangers: dict[Connection, asyncio.TimerHandle] = {}  # the oldest first
        self._known: set[Connection] = set()

    def enter(self, connection: Connection) -> None:
        # abort, not close: closing waits for a peer that does not read.
        abort = connection.transport.abort
        timer = connection.loop.call_later(self._limits.stranger_s, abort)
        self._strangers[connection] = timer
        if len(self._strangers) > self._limits.strangers:
            oldest = next(iter(self._strangers))
            self.leave(oldest)
            oldest.transport.abort()

    def admit(self, connection: Connection) -> bool:
        """Whether a connection that has shown the token may go on; False if there are too many."""
        if connection in self._known:
            return True
        if len(self._known) >= self._limits.known:
            return False
        timer = self._strangers.pop(connection, None)
        if timer is not None:  # else it has gone meanwhile
            timer.cancel()
            self._known.add(connection)
        return True

    def leave(self, connection: Connection) -> None:
        self._known.discard(connection)
        timer = self._strangers.pop(connection, None)
        if timer is not None:
            timer.cancel()


class Connection(H11Protocol):
    """uvicorn's, behind a door; what it answers by itself is sealed and empty."""

    def __init__(self, door: Door, **arguments: Any) -> None:
        super().__init__(**arguments)
        self._door = door
        self.app_state = {ADMITTED: self._admitted}  # every request gets it as scope["state"]

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._door.enter(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._door.leave(self)
        super().connection_lost(exc)

    def send_400_response(self, msg: str) -> None:
        del msg
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            sealed = [*SEAL.items(), ("Content-Length", "0"), ("Connection", "close")]
            for event in (h11.Response(status_code=400, headers=sealed), h11.EndOfMessage()):
                self.transport.write(self.conn.send(event) or b"")
        self.transport.close()

    def _admitted(self) -> bool:
        return self._door.admit(self)
