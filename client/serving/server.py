"""Start and end of the local server: at the loopback addresses only, without a log.

Time from a signal to the return: uvicorn's tick and grace (GRACE_S), then the session's thread
(WORKER_S); together less than 5 s.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from types import FrameType
from typing import Any, cast

import uvicorn

from client.serving.app import build_app
from client.serving.connections import BACKLOG, QUEUE, Admission, Connection, Limits
from client.serving.session import Session
from client.serving.tokens import check_token
from client.serving.turns import Turns
from proper_model.errors import ConfigError, InterruptedRunError

GRACE_S = 1
LOOK_S = 2.0  # between looks at what is stored while nobody asks: a small file and a list of names
WORKER_S = 2.5
HOST = "127.0.0.1"
HOST_6 = "::1"
_TRIES = 20
_WITHOUT_IPV6 = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT, errno.EPROTONOSUPPORT)


def serve(session: Session, *, port: int, token: str, ready: Callable[[str], None]) -> None:
    """Serve `session` on this machine until SIGINT or SIGTERM.

    Port 0 takes any free one; `ready` is called with the address (no token in it) once requests are
    answered. Raises ConfigError if the port cannot be had or the token is weak, InterruptedRunError
    if the session does not stop in time; its last complete state stays then.
    """
    check_token(token)
    with bound(port) as listeners:
        real_port: int = listeners[0].getsockname()[1]
        turns = Turns(session)
        app = build_app(turns, token=token, port=real_port)
        server = Server(app, turns, lambda: ready(f"http://{HOST}:{real_port}"))
        try:
            server.run(sockets=listeners)
        finally:
            stopped = turns.close(WORKER_S)
    if not stopped:
        raise InterruptedRunError(
            "the model was still at work when the server stopped",
            hint="nothing is lost: the last complete state stays",
        )


class Server(uvicorn.Server):
    """uvicorn without its log, and with signals that end it instead of the whole program."""

    def __init__(
        self, app: Any, turns: Turns, ready: Callable[[], None], *, limits: Limits | None = None
    ) -> None:
        connection = partial(Connection, Admission(limits or Limits()))
        super().__init__(
            uvicorn.Config(
                app,
                host=HOST,
                loop="asyncio",
                http=cast(type[asyncio.Protocol], connection),
                ws="none",
                lifespan="off",
                log_config=None,
                log_level=logging.CRITICAL + 1,
                access_log=False,
                proxy_headers=False,
                server_header=False,
                backlog=BACKLOG,
                timeout_graceful_shutdown=GRACE_S,
            )
        )
        self._turns = turns
        self._ready = ready
        self._looking: asyncio.Task[None] | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        # asyncio reports lost exceptions with their text.
        asyncio.get_running_loop().set_exception_handler(lambda _loop, _context: None)
        await super().startup(sockets)
        # asyncio queues only as many as it accepts in one turn; in a flood others would be refused.
        for listener in sockets or []:
            listener.listen(QUEUE)
        self._looking = asyncio.create_task(self._look())
        self._ready()

    async def _look(self) -> None:
        """Drop what another command removed, also while nobody asks."""
        while True:
            await asyncio.sleep(LOOK_S)
            await self._turns.look()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        if self._looking is not None:
            self._looking.cancel()
        await super().shutdown(sockets)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self._turns.stopping.set()
        super().handle_exit(sig, frame)

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """As uvicorn's, but signals are not raised again: whoever called `serve` goes on."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        numbers = (signal.SIGINT, signal.SIGTERM)
        kept = {number: signal.signal(number, self.handle_exit) for number in numbers}
        try:
            yield
        finally:
            for number, handler in kept.items():
                signal.signal(number, handler)


@contextmanager
def bound(port: int) -> Iterator[list[socket.socket]]:
    """Sockets that listen at the port, 127.0.0.1 first; port 0 is any free one.

    ::1 too where the machine has it: `localhost` may mean either, and at the other one somebody
    else could wait for the token. Raises ConfigError.
    """
    if not 0 <= port <= 65535:
        raise ConfigError(f"port {port}: expected 0 to 65535", hint="0 takes any free port")
    for left in reversed(range(_TRIES)):
        with ExitStack() as stack:
            first = _listen(stack, socket.AF_INET, HOST, port)
            try:
                listeners = [first, *_second(stack, first.getsockname()[1])]
            except ConfigError:
                if port or not left:
                    raise
                continue  # a port that is free at one address need not be so at the other
            yield listeners
            return


def _second(stack: ExitStack, port: int) -> list[socket.socket]:
    try:
        return [_listen(stack, socket.AF_INET6, HOST_6, port)]
    except OSError:  # no IPv6 here: then nobody can listen there
        return []


def _listen(stack: ExitStack, family: socket.AddressFamily, host: str, port: int) -> socket.socket:
    """Raises ConfigError; OSError only where there is no such address."""
    # asyncio turns Nagle's delay off only where the protocol is named.
    listener = stack.enter_context(socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP))
    # A port that was ours a moment ago is free for us; one that somebody listens at is not.
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen()
    except OSError as error:
        if error.errno in _WITHOUT_IPV6:
            raise
        taken = error.errno == errno.EADDRINUSE
        reason = "in use by another program" if taken else os.strerror(error.errno or 0)
        raise ConfigError(
            f"port {port} of {host}: {reason}", hint="choose another port; 0 takes any free one"
        ) from None
    return listener
