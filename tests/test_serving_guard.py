"""Who may ask, how much, and that nobody's text comes back in an error or a log."""

from __future__ import annotations

import json
import os
import socket
import stat

import httpx
import pytest
from serving import TOKEN, FakeSession, running

from client.serving.app import PAGE_FILES
from client.serving.faults import MAX_BODY_BYTES
from client.serving.tokens import check_token, new_token, page_address, token_of_file
from proper_model.errors import ConfigError, DataError, StorageError, TrainingError

CANARY = "canary-of-a-private-prompt"
TEXT = {"model": "proper", "prompt": CANARY}
PRIVATE = (
    ("GET", "/v1/models"),
    ("POST", "/v1/completions"),
    ("POST", "/v1/chat/completions"),
    ("GET", "/api/status"),
    ("POST", "/api/compare"),
    ("POST", "/api/routing"),
    ("GET", "/api/items"),
    ("GET", "/api/forget"),
    ("POST", "/api/forget"),
    ("GET", "/nothing"),
    ("POST", "/"),
    ("OPTIONS", "/v1/completions"),
)


@pytest.fixture(scope="module")
def session():
    return FakeSession()


@pytest.fixture(scope="module")
def server(session):
    with running(session) as server:
        yield server


@pytest.fixture
def client(server, session):
    session.calls.clear()
    session.raises = None
    return server.client


@pytest.fixture(scope="module")
def stranger(server):
    """Somebody without the token."""
    with httpx.Client(base_url=server.url, trust_env=False) as client:
        yield client


@pytest.mark.parametrize(("method", "path"), PRIVATE)
@pytest.mark.parametrize(
    "sent",
    [
        None,
        "",
        "Bearer",
        f"Bearer {TOKEN[:-1]}",
        f"Bearer {TOKEN}x",
        f"Basic {TOKEN}",
        TOKEN,
        "Bearer \xff\xfe",
    ],
)
def test_nothing_private_without_the_token(stranger, session, client, method, path, sent) -> None:
    headers = {} if sent is None else {"Authorization": sent.encode("latin-1")}
    response = stranger.request(method, path, headers=headers)
    assert response.status_code == 401
    assert response.json()["error"]["code"] == "invalid_api_key"
    assert response.headers["www-authenticate"] == "Bearer"
    assert TOKEN[:8] not in response.text
    assert session.calls == []


def test_two_authorizations_are_none(stranger) -> None:
    headers = [("Authorization", f"Bearer {TOKEN}"), ("Authorization", "Bearer other")]
    assert stranger.get("/v1/models", headers=headers).status_code == 401


@pytest.mark.parametrize("path", PAGE_FILES)
def test_the_pages_files_need_no_token_and_hold_nothing_private(stranger, path) -> None:
    response = stranger.get(path)
    assert response.status_code == 200
    assert TOKEN not in response.text
    kind = {"/": "text/html", "/page.css": "text/css"}.get(path, "text/javascript")
    assert response.headers["content-type"] == f"{kind}; charset=utf-8"
    for address in ("http://", "https://", "//cdn", "innerHTML", "eval("):
        assert address not in response.text


@pytest.mark.parametrize("path", ["/", "/page.js", "/v1/models", "/nothing"])
def test_every_response_is_sealed(client, path) -> None:
    headers = client.get(path).headers
    policy = dict(part.split(" ", 1) for part in headers["content-security-policy"].split("; "))
    assert policy["default-src"] == "'none'"
    assert {policy[f"{kind}-src"] for kind in ("script", "style", "connect")} == {"'self'"}
    assert policy["img-src"] == "'self' data:"
    assert policy["frame-ancestors"] == "'none'"
    assert "unsafe" not in headers["content-security-policy"]
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "no-referrer"
    assert headers["cache-control"] == "no-store"
    assert not [name for name in headers if name.startswith("access-control")]
    assert "server" not in headers


@pytest.mark.parametrize("path", ["/", "/v1/models"])
@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::1]", "LOCALHOST"])
def test_hosts_that_are_ours(server, client, path, host) -> None:
    headers = {"Host": f"{host}:{server.port}"}
    assert client.get(path, headers=headers).status_code == 200
    headers["Origin"] = f"http://{host.lower()}:{server.port}"
    assert client.get(path, headers=headers).status_code == 200


@pytest.mark.parametrize("path", ["/", "/v1/models"])
@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:{port}",
        "127.0.0.1",
        "127.0.0.1:1",
        "localhost.evil.example:{port}",
        "127.0.0.1.evil.example:{port}",
        "127.0.0.2:{port}",
        "",
    ],
)
def test_other_hosts_are_refused_even_with_the_token(server, client, path, host) -> None:
    response = client.get(path, headers={"Host": host.format(port=server.port)})
    assert (response.status_code, response.json()["error"]["code"]) == (403, "wrong_host")


@pytest.mark.parametrize("path", ["/", "/v1/models"])
@pytest.mark.parametrize(
    "origin",
    ["null", "http://evil.example", "https://127.0.0.1:{port}", "http://localhost:{port}", "x", ""],
)
def test_other_origins_are_refused_even_with_the_token(server, client, path, origin) -> None:
    response = client.get(path, headers={"Origin": origin.format(port=server.port)})
    assert (response.status_code, response.json()["error"]["code"]) == (403, "wrong_origin")


def raw(port: int, request: bytes) -> bytes:
    with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
        connection.sendall(request)
        return connection.recv(65536)


def test_a_missing_or_doubled_host_is_refused(server) -> None:
    assert b" 403 " in raw(server.port, b"GET / HTTP/1.0\r\n\r\n")
    ours = f"Host: 127.0.0.1:{server.port}\r\n".encode()
    doubled = b"GET / HTTP/1.1\r\n" + ours + b"Host: evil.example\r\n\r\n"
    assert b" 400 " in raw(server.port, doubled)


def test_only_the_loopback_address_listens(server) -> None:
    """All of 127.0.0.0/8 is this machine; a server bound to every address would answer there."""
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.2", server.port), 2)


@pytest.mark.parametrize("path", ["/v1/completions", "/api/compare", "/api/routing", "/api/forget"])
def test_bodies_are_limited_before_they_are_parsed(session, client, path) -> None:
    kind = {"Content-Type": "application/json"}
    large = b" " * (MAX_BODY_BYTES + 1)
    assert client.post(path, content=large, headers=kind).status_code == 413
    chunks = (b" " * 65536 for _ in range(MAX_BODY_BYTES // 65536 + 1))  # no Content-Length
    assert client.post(path, content=chunks, headers=kind).status_code == 413
    deep = b"[" * MAX_BODY_BYTES
    assert client.post(path, content=deep, headers=kind).status_code == 400
    for content in (b"", b"{", b"[]", b"null", b"NaN", b"\xff", b'{"prompt": "\\ud800"}'):
        assert client.post(path, content=content, headers=kind).status_code == 400
    assert (
        client.post(path, content=b"{}", headers={"Content-Type": "text/plain"}).status_code == 415
    )
    assert session.calls == []


def test_a_body_of_exactly_the_limit_is_read(client) -> None:
    frame = len(json.dumps({"model": "proper", "prompt": ""}))
    body = json.dumps({"model": "proper", "prompt": "x" * (MAX_BODY_BYTES - frame)})
    assert len(body) == MAX_BODY_BYTES
    kind = {"Content-Type": "application/json"}
    assert client.post("/v1/completions", content=body, headers=kind).status_code == 200


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/completions", {"model": CANARY, "prompt": CANARY}),
        ("/v1/completions", {**TEXT, CANARY: CANARY}),
        ("/v1/completions", {**TEXT, "logit_bias": {CANARY: CANARY}}),
        ("/v1/completions", {**TEXT, "stream_options": {CANARY: CANARY}}),
        ("/v1/completions", {**TEXT, "max_tokens": CANARY}),
        ("/v1/chat/completions", {"model": "proper", "messages": [{CANARY: CANARY}]}),
        ("/v1/chat/completions", {"model": "proper", "messages": CANARY}),
        ("/api/routing", {"prompt": "x", "stage": CANARY}),
        ("/api/compare", {"prompt": [CANARY]}),
        ("/api/forget", {"ids": [{CANARY: CANARY}]}),
        (f"/api/{CANARY}", {}),
    ],
)
def test_errors_repeat_nothing_that_was_sent(client, path, body) -> None:
    response = client.post(path, json=body)
    assert response.status_code in (400, 404)
    assert CANARY not in response.text


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("raised", "status", "told"),
    [
        (ValueError(CANARY), 500, "internal error (ValueError)"),
        (TrainingError(f"/home/x/{CANARY}"), 500, "internal error (TrainingError)"),
        (DataError("the prompt has 9 tokens", hint="shorten it"), 400, "9 tokens; shorten it"),
    ],
)
def test_an_exception_tells_its_type_only(
    session, client, capfd, caplog, stream, raised, status, told
) -> None:
    session.raises = raised
    response = client.post("/v1/completions", json={**TEXT, "stream": stream})
    assert response.status_code == status
    assert response.json()["error"]["message"].endswith(told)
    session.raises = None
    assert client.post("/v1/completions", json=TEXT).status_code == 200  # the server goes on
    assert "".join(capfd.readouterr()) == ""
    assert caplog.text == ""
    assert CANARY not in response.text


def test_an_exception_in_mid_stream_is_an_event_without_text(
    session, client, capfd, caplog
) -> None:
    def fail_later():
        if session.named("piece"):
            raise KeyError(CANARY)

    session.gate = fail_later
    response = client.post("/v1/completions", json={**TEXT, "stream": True})
    session.gate = lambda: None
    first, last, end = response.text.split("\n\n")
    assert json.loads(first.removeprefix("data: "))["choices"][0]["text"] == "3:"
    message = {"message": "internal error (KeyError)", "type": "server_error"}
    told = {"error": {**message, "param": None, "code": None}}
    assert (json.loads(last.removeprefix("data: ")), end) == (told, "")
    assert "".join(capfd.readouterr()) == ""
    assert caplog.text == ""


def test_unknown_addresses_and_methods(client) -> None:
    assert client.get("/nothing").status_code == 404
    assert client.get("/page/page.html").status_code == 404
    assert client.get("/..%2fserver.py").status_code == 404
    response = client.get("/v1/completions")
    assert response.status_code == 405
    assert response.json()["error"]["message"] == "Method Not Allowed"


def test_tokens_are_random_and_usable() -> None:
    made = {new_token() for _ in range(100)}
    assert len(made) == 100
    assert {len(token) for token in made} == {43}  # 32 bytes in base64 without padding
    assert all(check_token(token) == token for token in made)
    assert page_address("http://127.0.0.1:1", "t") == "http://127.0.0.1:1/#token=t"


def test_a_token_file_is_created_private_and_read_again(tmp_path) -> None:
    path = tmp_path / "token"
    token = token_of_file(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert token_of_file(path) == token
    assert len(token) == 43


def test_a_token_file_others_may_read_is_refused(tmp_path) -> None:
    path = tmp_path / "token"
    path.write_text(TOKEN)
    for mode in (0o640, 0o604, 0o620):
        path.chmod(mode)
        with pytest.raises(ConfigError, match="no other user may read"):
            token_of_file(path)
    path.chmod(0o600)
    assert token_of_file(path) == TOKEN


def test_odd_token_files_are_refused(tmp_path) -> None:
    path = tmp_path / "token"
    path.touch(mode=0o600)
    for content in (b"", b"short", b"x" * 31, TOKEN.encode() + b" \xff", b"a b" * 20):
        path.write_bytes(content)
        with pytest.raises(ConfigError, match="expected one token") as caught:
            token_of_file(path)
        assert TOKEN not in str(caught.value)
    link = tmp_path / "link"
    link.symlink_to(path)
    with pytest.raises(StorageError):
        token_of_file(link)
    os.mkfifo(tmp_path / "pipe", 0o600)
    with pytest.raises(ConfigError):
        token_of_file(tmp_path / "pipe")
