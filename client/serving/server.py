"""Start and end of the local server: 127.0.0.1 only, no log, a prompt and clean stop.

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
from contextlib import contextmanager
from types import FrameType
from typing import Any

import uvicorn

from client.serving.app import build_app
from client.serving.session import Session
from client.serving.tokens import check_token
from client.serving.turns import Turns
from proper_model.errors import ConfigError, InterruptedRunError

HOST = "127.0.0.1"
GRACE_S = 1
WORKER_S = 2.5
MAX_CONNECTIONS = 64


def serve(session: Session, *, port: int, token: str, ready: Callable[[str], None]) -> None:
    """Serve `session` on 127.0.0.1 until SIGINT or SIGTERM, then close it and return.

    Port 0 takes any free one; `ready` is called with the address (no token in it) once requests are
    answered. Raises ConfigError if the port cannot be had or the token is weak, InterruptedRunError
    if the session does not stop in time; its last complete state stays then.
    """
    check_token(token)
    with _bound(port) as listener:
        real_port: int = listener.getsockname()[1]
        turns = Turns(session)
        app = build_app(turns, token=token, port=real_port)
        server = Server(app, turns, lambda: ready(f"http://{HOST}:{real_port}"))
        try:
            server.run(sockets=[listener])
        finally:
            stopped = turns.close(WORKER_S)
    if not stopped:
        raise InterruptedRunError(
            "the model was still at work when the server stopped",
            hint="nothing is lost: the last complete state stays",
        )


@contextmanager
def _bound(port: int) -> Iterator[socket.socket]:
    """A socket at the port. Raises ConfigError."""
    if not 0 <= port <= 65535:
        raise ConfigError(f"port {port}: expected 0 to 65535", hint="0 takes any free port")
    # asyncio turns Nagle's delay off only where the protocol is named.
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    with listener:
        # A port that was ours a moment ago is free for us; one that somebody listens at is not.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((HOST, port))
            listener.listen()
        except OSError as error:
            taken = error.errno == errno.EADDRINUSE
            reason = "in use by another program" if taken else os.strerror(error.errno or 0)
            raise ConfigError(
                f"port {port} of {HOST}: {reason}",
                hint="choose another port; 0 takes any free one",
            ) from None
        yield listener


class Server(uvicorn.Server):
    """uvicorn without its log, and with signals that end it instead of the whole program."""

    def __init__(self, app: Any, turns: Turns, ready: Callable[[], None]) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                host=HOST,
                loop="asyncio",
                http="h11",
                ws="none",
                lifespan="off",
                log_config=None,
                log_level=logging.CRITICAL + 1,
                access_log=False,
                proxy_headers=False,
                server_header=False,
                limit_concurrency=MAX_CONNECTIONS,
                timeout_graceful_shutdown=GRACE_S,
            )
        )
        self._turns = turns
        self._ready = ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        # asyncio reports lost exceptions with their text.
        asyncio.get_running_loop().set_exception_handler(lambda _loop, _context: None)
        await super().startup(sockets)
        self._ready()

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
