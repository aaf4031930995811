"""The port, at both loopback addresses: at the one left free another user could wait for the token."""

from __future__ import annotations

import socket

import httpx
import pytest
from serving import TOKEN, FakeSession, running

from client.serving import server as server_module
from client.serving.server import HOST_6, bound, serve
from proper_model.errors import ConfigError


def _has_ipv6() -> bool:
    try:
        socket.create_server((HOST_6, 0), family=socket.AF_INET6).close()
    except OSError:
        return False
    return True


needs_ipv6 = pytest.mark.skipif(not _has_ipv6(), reason="needs the address ::1")


@needs_ipv6
def test_the_same_answers_at_both_addresses() -> None:
    with running(FakeSession()) as server:
        for host in ("127.0.0.1", "[::1]", "localhost"):
            url = f"http://{host}:{server.port}/v1/models"
            answer = httpx.get(url, headers=server.client.headers, trust_env=False)
            assert answer.status_code == 200


@needs_ipv6
def test_nobody_else_can_wait_at_the_other_address() -> None:
    with bound(0) as listeners:
        port = listeners[0].getsockname()[1]
        for host, family in ((HOST_6, socket.AF_INET6), ("::", socket.AF_INET6)):
            with pytest.raises(OSError, match="in use"):
                socket.create_server((host, port), family=family)


@needs_ipv6
def test_a_port_that_somebody_has_at_the_other_address_is_refused() -> None:
    with socket.create_server((HOST_6, 0), family=socket.AF_INET6) as other:
        port = other.getsockname()[1]
        with pytest.raises(ConfigError, match=f"port {port} of ::1: in use"):
            serve(FakeSession(), port=port, token=TOKEN, ready=lambda _url: None)


def test_any_free_port_is_free_at_both(monkeypatch: pytest.MonkeyPatch) -> None:
    second, tried = server_module._second, []

    def taken_once(stack, port):
        tried.append(port)
        if len(tried) == 1:
            raise ConfigError("in use by another program")
        return second(stack, port)

    monkeypatch.setattr(server_module, "_second", taken_once)
    with bound(0) as listeners:
        assert {listener.getsockname()[1] for listener in listeners} == {tried[-1]}
    assert len(tried) == 2


def test_a_machine_without_ipv6(monkeypatch: pytest.MonkeyPatch) -> None:
    listen = server_module._listen

    def without(stack, family, host, port):
        if family == socket.AF_INET6:
            raise OSError("no such address")
        return listen(stack, family, host, port)

    monkeypatch.setattr(server_module, "_listen", without)
    with bound(0) as (only,):
        assert only.getsockname()[0] == "127.0.0.1"
