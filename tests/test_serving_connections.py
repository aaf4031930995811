"""Connections of people without the token, who must not keep out the one who has it."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import httpx
import pytest
from serving import TOKEN, FakeSession, Gate, running, wait_until

from client.serving.connections import BACKLOG, Limits
from client.serving.guard import SECURITY_HEADERS

NEVER_S = 600.0
STREAM = {"model": "proper", "prompt": "a b", "stream": True}


@contextmanager
def silent(port: int, count: int) -> Iterator[list[socket.socket]]:
    """Connections that say nothing."""
    with ExitStack() as stack:
        yield [
            stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=10))
            for _ in range(count)
        ]


def is_cut(connection: socket.socket) -> bool:
    """Whether the server ends a connection without a word; waits for that."""
    try:
        return connection.recv(1) == b""
    except ConnectionResetError:
        return True


def drip(connection: socket.socket) -> None:
    while True:
        connection.sendall(b"x")


def has_security_headers(headers: httpx.Headers) -> bool:
    return all(headers.get_list(name) == [value] for name, value in SECURITY_HEADERS.items())


def test_silent_connections_do_not_keep_out_the_token() -> None:
    with running(FakeSession()) as server, silent(server.port, 150):
        assert server.client.get("/v1/models").status_code == 200
        assert server.client.post("/v1/completions", json=STREAM).text.endswith("[DONE]\n\n")


def test_beyond_the_limit_the_oldest_without_the_token_goes_and_who_has_the_token_stays() -> None:
    session = FakeSession(gate=(gate := Gate()))
    gate.release()
    limits = Limits(without_token_s=NEVER_S, without_token=4)
    with (
        running(session, limits=limits) as server,
        server.client.stream("POST", "/v1/completions", json=STREAM) as response,
        ExitStack() as stack,
    ):
        lines = response.iter_lines()
        next(lines)
        first, *_, last = stack.enter_context(silent(server.port, 70))
        assert is_cut(first)
        other = stack.enter_context(httpx.Client(base_url=server.url, trust_env=False))
        assert other.get("/").status_code == 200  # the page's files are for everybody
        assert other.get("/v1/models", headers=server.client.headers).status_code == 200
        gate.release(10)
        assert "data: [DONE]" in list(lines)
        last.sendall(b"GET / HTTP/1.1\r\n\r\n")
        assert last.recv(12) == b"HTTP/1.1 400"


def test_a_request_that_came_along_is_read_before_a_flood_pushes_it_out() -> None:
    """Accepted in one turn of the loop, read three later; two sockets listen."""
    assert Limits().without_token >= 4 * 2 * BACKLOG


@pytest.mark.parametrize("sent", [b"", b"GET / HTTP/1.1\r\nHost: 127"])
def test_half_a_request_is_not_waited_for(sent) -> None:
    with (
        running(FakeSession(), limits=Limits(without_token_s=0.1)) as server,
        silent(server.port, 1) as (connection,),
    ):
        connection.sendall(sent)
        assert is_cut(connection)
        assert server.client.get("/v1/models").status_code == 200


def test_a_refused_request_gives_no_more_time() -> None:
    """Neither a body that drips in after the refusal nor answers that nobody reads."""
    refused = b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n"
    pipelined = b"GET /page.js HTTP/1.1\r\nHost: 127.0.0.1:%d\r\n\r\n"
    with running(FakeSession(), limits=Limits(without_token_s=0.5)) as server:
        with silent(server.port, 1) as (dripping,):
            dripping.sendall(refused)
            with pytest.raises((BrokenPipeError, ConnectionResetError)):
                drip(dripping)
        with silent(server.port, 1) as (deaf,):
            deaf.sendall(pipelined % server.port * 150)
            wait_until(lambda: not server.server.server_state.connections)


def test_with_the_token_a_connection_may_take_its_time() -> None:
    """The time without the token has passed for another one, which came later."""
    session = FakeSession(gate=(gate := Gate()))
    gate.release()
    with (
        running(session, limits=Limits(without_token_s=0.1)) as server,
        server.client.stream("POST", "/v1/completions", json=STREAM) as response,
    ):
        lines = response.iter_lines()
        next(lines)
        with silent(server.port, 1) as (later,):
            assert is_cut(later)
        gate.release(10)
        assert "data: [DONE]" in list(lines)


def test_connections_with_the_token_are_counted_too() -> None:
    with running(FakeSession(), limits=Limits(with_token=1)) as server:
        assert server.client.get("/v1/models").status_code == 200
        with httpx.Client(base_url=server.url, trust_env=False) as other:
            response = other.get("/v1/models", headers=server.client.headers)
            assert (response.status_code, has_security_headers(response.headers)) == (503, True)
            assert response.json()["error"]["code"] == "too_many_connections"
            assert server.client.get("/v1/models").status_code == 200
            server.client.close()
            wait_until(
                lambda: other.get("/v1/models", headers=server.client.headers).status_code == 200
            )


@pytest.mark.parametrize(
    "request_",
    [
        b"nonsense\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"x" * 70_000,
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
    ],
)
def test_what_is_no_request_is_refused_with_security_headers_and_without_a_body(request_) -> None:
    with running(FakeSession()) as server, silent(server.port, 1) as (connection,):
        connection.sendall(request_)
        head, _, body = connection.recv(65536).partition(b"\r\n\r\n")
        status, *lines = head.decode().split("\r\n")
        assert (status.split(" ")[1], body) == ("400", b"")
        assert has_security_headers(httpx.Headers([tuple(line.split(": ", 1)) for line in lines]))


def test_a_request_that_the_end_of_the_server_cuts_off_has_security_headers() -> None:
    """It waits for another one, so that uvicorn cancels it."""
    session = FakeSession(gate=(gate := Gate()))
    got: list[httpx.Response] = []
    with running(session) as server:
        body = {"model": "proper", "prompt": "x"}

        def ask() -> None:
            headers = {"Authorization": f"Bearer {TOKEN}"}
            url = f"{server.url}/v1/completions"
            got.append(httpx.post(url, json=body, headers=headers, trust_env=False, timeout=20))

        asking = threading.Thread(target=ask)
        asking.start()
        wait_until(lambda: len(session.named("generate")) == 1)
        server.server.handle_exit(0, None)
        asking.join(10)
        gate.release(10)
    assert (got[0].status_code, has_security_headers(got[0].headers)) == (503, True)
