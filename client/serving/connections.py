"""Connections without the token must not keep out those with it.

Any user of this machine can open connections here. A connection none of whose requests carried the
token yet is closed after `Limits.without_token_s`, and sooner if it is the oldest of too many. Those
with the token are counted separately.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from client.serving.guard import SECURITY_HEADERS, TOKEN_SHOWN

# Connections taken in one turn of the event loop, for each socket that listens.
BACKLOG = 32
# Connections that may wait in the system for their turn.
QUEUE = 1024


@dataclass(frozen=True)
class Limits:
    """Seconds and connections.

    `without_token` is many times BACKLOG, so that a request that came along with its connection is read
    before a flood of others can push that connection out.
    """

    without_token_s: float = 5.0
    without_token: int = 512
    with_token: int = 64


class Admission:
    """Who is connected to one server."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._without_token: dict[Connection, asyncio.TimerHandle] = {}  # the oldest first
        self._with_token: set[Connection] = set()

    def enter(self, connection: Connection) -> None:
        # abort, not close: closing waits for a peer that does not read.
        abort = connection.transport.abort
        timer = connection.loop.call_later(self._limits.without_token_s, abort)
        self._without_token[connection] = timer
        if len(self._without_token) > self._limits.without_token:
            oldest = next(iter(self._without_token))
            self.leave(oldest)
            oldest.transport.abort()

    def admit(self, connection: Connection) -> bool:
        """Whether a connection that has shown the token may go on; False if there are too many."""
        if connection in self._with_token:
            return True
        if len(self._with_token) >= self._limits.with_token:
            return False
        timer = self._without_token.pop(connection, None)
        if timer is not None:  # else it has gone meanwhile
            timer.cancel()
            self._with_token.add(connection)
        return True

    def leave(self, connection: Connection) -> None:
        self._with_token.discard(connection)
        timer = self._without_token.pop(connection, None)
        if timer is not None:
            timer.cancel()


class Connection(H11Protocol):
    """uvicorn's, counted by `admission`; its own answers are empty and have our security headers."""

    def __init__(self, admission: Admission, **arguments: Any) -> None:
        super().__init__(**arguments)
        self._admission = admission
        self.app_state = {TOKEN_SHOWN: self._token_shown}  # every request gets it as scope["state"]

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._admission.enter(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._admission.leave(self)
        super().connection_lost(exc)

    def send_400_response(self, msg: str) -> None:
        del msg
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            headers = [*SECURITY_HEADERS.items(), ("Content-Length", "0"), ("Connection", "close")]
            for event in (h11.Response(status_code=400, headers=headers), h11.EndOfMessage()):
                self.transport.write(self.conn.send(event) or b"")
        self.transport.close()

    def _token_shown(self) -> bool:
        return self._admission.admit(self)
