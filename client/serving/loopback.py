"""The port of `proper serve`, on the loopback addresses of this machine and nowhere else."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from proper_model.errors import ConfigError

HOST = "127.0.0.1"
HOST_6 = "::1"
_TRIES = 20
_WITHOUT_IPV6 = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT, errno.EPROTONOSUPPORT)


@contextmanager
def bound(port: int) -> Iterator[list[socket.socket]]:
    """Sockets that listen at the port, 127.0.0.1 first; port 0 is any free one.

    ::1 too where the machine has it: `localhost` may mean either, and at the other one somebody
    else could wait for the token. Raises ConfigError.
    """
    if not 0 <= port <= 65535:
        raise ConfigError(f"port {port}: expected 0 to 65535", hint="0 takes any free port")
    with ExitStack() as stack:
        yield _listeners(stack, port)


def _listeners(stack: ExitStack, port: int) -> list[socket.socket]:
    for left in reversed(range(_TRIES)):
        with ExitStack() as trying:
            first = _listen(trying, socket.AF_INET, HOST, port)
            try:
                listeners = [first, *_second(trying, first.getsockname()[1])]
            except ConfigError:
                if port or not left:
                    raise
                continue  # a port that is free at one address need not be so at the other
            stack.push(trying.pop_all())
            return listeners
    raise AssertionError("the last try returns or raises")


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
            f"port {port} of {host}: {reason}",
            hint="choose another port; 0 takes any free one",
        ) from None
    return listener
