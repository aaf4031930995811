"""Start and end: ports, tokens, signals in the middle of work.

The port is taken at both loopback addresses: at one left free another user could wait for the token.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import textwrap
from pathlib import Path

import httpx
import pytest
from serving import TOKEN, FakeSession, running

from client.cli import run_cli
from client.serving import server as server_module
from client.serving.server import HOST_6, bound, serve
from proper_model.errors import ConfigError

# A session whose pieces come every 50 ms for ever, or whose work ignores everything.
PROGRAM = """
import sys, threading, time
sys.path.insert(0, {tests!r})
from serving import FakeSession, TOKEN
from client.serving.server import serve
from client.serving.session import Ending
from proper_model.errors import ProperError

class Endless(FakeSession):
    def generate(self, messages, *, stage, manner):
        while True:
            time.sleep({pause})
            yield "canary"
    def forget(self, ids, *, progress):
        while True:
            time.sleep(0.02)
            progress("retraining", 1, 0)

try:
    serve(Endless(), port=0, token=TOKEN, ready=lambda url: print(url, flush=True))
    print("returned", flush=True)
except ProperError as error:
    print(type(error).__name__, error.exit_code, flush=True)
"""


class Program:
    """The server in a process of its own."""

    def __init__(self, pause: float = 0.05) -> None:
        code = textwrap.dedent(PROGRAM).format(tests=str(Path(__file__).parent), pause=pause)
        self.process = subprocess.Popen(
            [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        assert self.process.stdout is not None
        self.url = self.process.stdout.readline().strip()
        headers = {"Authorization": f"Bearer {TOKEN}"}
        self.client = httpx.Client(base_url=self.url, headers=headers, trust_env=False)

    def end(self, number: int) -> tuple[list[str], str]:
        """Lines it still prints after a signal, and what it logs; its own work would never end."""
        self.process.send_signal(number)
        try:
            out, err = self.process.communicate(timeout=ENDS_S)
        finally:
            self.process.kill()
            self.client.close()
        return out.split("\n")[:-1], err


# Far above what the server waits for, on a machine that is busy with something else.
ENDS_S = 60
STREAM = {"model": "proper", "prompt": "x", "stream": True}


def test_the_server_waits_for_its_work_less_than_five_seconds() -> None:
    assert server_module.GRACE_S + server_module.WORKER_S < 5


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_in_mid_stream_ends_cleanly(number) -> None:
    program = Program()
    with program.client.stream("POST", "/v1/completions", json=STREAM) as response:
        next(response.iter_lines())
        lines, log = program.end(number)
    assert (lines, log, program.process.returncode) == (["returned"], "", 0)


def test_a_signal_in_mid_forgetting_ends_at_its_next_step() -> None:
    program = Program()
    assert program.client.post("/api/forget", json={"all": True}).status_code == 202
    lines, log = program.end(signal.SIGINT)
    assert (lines, log) == (["returned"], "")


def test_work_that_does_not_end_is_left_behind() -> None:
    program = Program(pause=10 * ENDS_S)
    with (
        pytest.raises(httpx.TransportError),
        program.client.stream("POST", "/v1/completions", json=STREAM, timeout=0.3),
    ):
        pass
    lines, log = program.end(signal.SIGTERM)
    assert (lines, log) == (["InterruptedRunError 130"], "")


def start(port: int, token: str = TOKEN) -> None:
    serve(FakeSession(), port=port, token=token, ready=lambda _url: None)


def test_a_port_in_use_is_said() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(ConfigError, match=f"port {port} of 127.0.0.1: in use") as caught:
            start(port)
        assert "0 takes any free one" in str(caught.value.hint)


def test_pieces_do_not_wait_for_each_other_on_the_way() -> None:
    """asyncio switches Nagle's algorithm off only for sockets that name their protocol."""
    with bound(0) as listeners:
        assert {listener.proto for listener in listeners} == {socket.IPPROTO_TCP}


def test_the_help_says_who_may_get_a_token_that_stays(capsys) -> None:
    assert run_cli(["serve", "--help"]) == 0
    told = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert "any user of this machine can take the port" in told
    assert "whoever takes the port gets it from your clients" in told


@pytest.mark.parametrize("port", [-1, 65536])
def test_ports_that_do_not_exist(port) -> None:
    with pytest.raises(ConfigError, match="expected 0 to 65535"):
        start(port)


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may take any port")
def test_a_port_of_the_system() -> None:
    with pytest.raises(ConfigError, match="port 1 of"):
        start(1)


@pytest.mark.parametrize("token", ["", "short", "x" * 31, "a b" * 20, "ä" * 40])
def test_weak_tokens_are_refused(token) -> None:
    with pytest.raises(ConfigError) as caught:
        start(0, token)
    assert not token or token not in str(caught.value)


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
            start(port)


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
