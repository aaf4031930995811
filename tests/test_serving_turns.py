"""One at a time, in order, stopped when nobody listens; the page's own endpoints."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from serving import TOKEN, WEIGHTS, FakeSession, Gate, running, wait_until

from client.serving.session import Manner
from client.serving.turns import Turns, Worker
from proper_model.errors import DataError, StorageError
from proper_model.text import Message

TEXT = {"model": "proper", "prompt": "a b c"}
STREAM = {**TEXT, "stream": True}


@pytest.fixture
def gate():
    return Gate()


def piece_of(line: str) -> str:
    return json.loads(line.removeprefix("data: "))["choices"][0]["text"]


def test_pieces_are_sent_as_they_are_made(gate) -> None:
    session = FakeSession(gate=gate)
    with running(session) as server:
        gate.release()
        with server.client.stream("POST", "/v1/completions", json=STREAM) as response:
            lines = (line for line in response.iter_lines() if line)
            for made, piece in enumerate(("3:", " a", " b", " c"), 1):
                assert piece_of(next(lines)) == piece
                assert len(session.named("piece")) == made  # nothing was made ahead or held back
                gate.release()
            assert piece_of(next(lines)) == ""
            assert list(lines) == ["data: [DONE]"]


def test_a_client_that_goes_ends_a_stream(gate) -> None:
    session = FakeSession(gate=gate)
    with running(session) as server:
        gate.release()
        with server.client.stream("POST", "/v1/completions", json=STREAM) as response:
            next(response.iter_lines())
        wait_until(lambda: not server.turns.busy)
        gate.release()  # the step that was at work ends; no other one begins
        wait_until(lambda: session.named("ended"))
        assert len(session.named("piece")) <= 2
        gate.release(10)
        assert server.client.post("/v1/completions", json=TEXT).status_code == 200


def test_leaving_a_generation_closes_it_in_its_own_thread() -> None:
    """While somebody still refers to it, so that no garbage collection does it instead."""
    session = FakeSession()
    turns = Turns(session)

    async def leave_early():
        asked = [Message("user", "a b")]
        async with turns.turn(), turns.generating(asked, stage="2", manner=Manner()) as step:
            assert await step() == "2:"
        return step

    step = asyncio.run(leave_early())
    assert turns.close(5)
    assert step is not None
    assert session.calls[1:] == [("piece",), ("ended", 1)]
    assert threading.get_ident() not in session.threads


def hang_up(port: int, path: str, body: dict) -> socket.socket:
    """A request whose sender may close the connection at any time."""
    data = json.dumps(body).encode()
    head = (
        f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nAuthorization: Bearer {TOKEN}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n"
    )
    connection = socket.create_connection(("127.0.0.1", port), timeout=5)
    connection.sendall(head.encode() + data)
    return connection


@pytest.mark.parametrize("body", [TEXT, STREAM])
def test_a_client_that_goes_before_the_first_piece_ends_the_generation(gate, body) -> None:
    session = FakeSession(gate=gate)
    with running(session) as server:
        connection = hang_up(server.port, "/v1/completions", body)
        wait_until(lambda: session.named("generate"))
        connection.close()
        wait_until(lambda: not server.turns.busy)
        gate.release()
        wait_until(lambda: session.named("ended"))
        assert len(session.named("piece")) == 1
        gate.release(10)
        assert server.client.post("/v1/completions", json=TEXT).status_code == 200


def test_a_client_that_goes_while_it_waits_is_never_served(gate) -> None:
    session = FakeSession(gate=gate)
    with running(session) as server, ThreadPoolExecutor(1) as pool:
        first = pool.submit(server.client.post, "/v1/completions", json=TEXT)
        wait_until(lambda: session.named("generate"))
        connection = hang_up(server.port, "/v1/completions", {**TEXT, "prompt": "gone"})
        wait_until(lambda: server.turns._inside == 2)
        connection.close()
        wait_until(lambda: server.turns._inside == 1)
        gate.release(10)
        assert first.result(10).status_code == 200
        assert [call[1] for call in session.named("generate")] == ["a b c"]


def test_one_at_a_time_in_order_and_429_beyond_the_queue(gate) -> None:
    session = FakeSession(gate=gate)
    with running(session, max_waiting=2) as server, ThreadPoolExecutor(3) as pool:
        answers = []
        for count, prompt in enumerate(("one", "two", "three"), 1):
            body = {**TEXT, "prompt": prompt, "stream": count == 2}
            answers.append(pool.submit(server.client.post, "/v1/completions", json=body))
            wait_until(lambda count=count: server.turns._inside == count)
        for path, body in (
            ("/v1/completions", TEXT),
            ("/v1/completions", STREAM),
            ("/api/compare", {"prompt": "x"}),
            ("/api/routing", {"prompt": "x", "stage": "2"}),
        ):
            refused = server.client.post(path, json=body)
            assert refused.status_code == 429
            assert refused.json()["error"]["code"] == "rate_limit_exceeded"
            assert refused.headers["retry-after"] == "1"
        assert server.client.get("/api/items").status_code == 429
        assert server.client.get("/api/status").json()["busy"] is True
        gate.release(20)
        assert [answer.result(10).status_code for answer in answers] == [200, 200, 200]
        assert server.client.get("/api/status").json()["busy"] is False
    assert len(session.threads) == 1  # every call of the session, from one thread
    order = [call[1] for call in session.named("generate")]
    assert order == ["one", "two", "three"]
    names = [call[0] for call in session.calls if call[0] in ("generate", "ended")]
    assert names == ["generate", "ended"] * 3


def test_compare_answers_with_every_stage_in_one_turn() -> None:
    with running(FakeSession()) as server:
        response = server.client.post("/api/compare", json={"prompt": "a", "max_tokens": 2})
        blocks = response.text.split("\n\n")
        assert blocks[-2:] == ["data: [DONE]", ""]
        assert [json.loads(block.removeprefix("data: ")) for block in blocks[:-2]] == [
            event
            for stage in "123"
            for event in (
                {"stage": stage, "text": f"{stage}:"},
                {"stage": stage, "text": " a"},
                {"stage": stage, "finish_reason": "stop", "tokens": 2, "wording": "task"},
            )
        ]


def test_status_routing_and_items() -> None:
    session = FakeSession()
    with running(session) as server:
        idle = {"state": "idle", "phase": "", "done": 0, "total": 0, "left_s": None}
        idle |= {"report": None, "error": None}
        assert server.client.get("/api/status").json() == {
            "task": "LaMP_2M",
            "bundle_id": "toy-7",
            "adapted": True,
            "stored": True,
            "stages": ["1", "2", "3"],
            "models": {"proper": "3", "proper-stage2": "2", "proper-stage1": "1"},
            "label_choices": ["comedy", "drama"],
            "busy": False,
            "forget": idle,
        }
        assert session.calls == []
        routing = server.client.post("/api/routing", json={"prompt": "a b", "stage": "2"})
        assert routing.json() == {
            "stage": "2",
            "wording": "task",
            "sites": ["layer 0 q_proj", "layer 1 v_proj"],
            "weights": [list(row) for row in WEIGHTS],
        }
        assert session.named("routing") == [("routing", "a b", "2")]
        assert server.client.get("/api/items").json()["items"][:2] == [
            {"number": 1, "id": "a", "date": "2024-01-02", "preview": "first <b>item</b>"},
            {"number": 2, "id": "b", "date": None, "preview": "second item"},
        ]


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/api/routing", {"prompt": "a", "stage": "4"}, "stage"),
        ("/api/routing", {"prompt": "a"}, "stage"),
        ("/api/compare", {"prompt": 3}, "prompt"),
        ("/api/compare", {"prompt": "a", "max_tokens": 0}, "max_tokens"),
        ("/api/compare", {"prompt": "a", "temperature": 0}, None),
        ("/api/forget", {}, None),
        ("/api/forget", {"ids": [], "all": False}, "ids"),
        ("/api/forget", {"ids": ["a"], "all": True}, None),
        ("/api/forget", {"all": False}, None),
        ("/api/forget", {"all": "yes"}, "all"),
    ],
)
def test_wrong_requests_of_the_page(path, body, param) -> None:
    session = FakeSession()
    with running(session) as server:
        response = server.client.post(path, json=body)
        assert (response.status_code, response.json()["error"]["param"]) == (400, param)
        assert session.calls == []


def forget_state(client: httpx.Client) -> str:
    return client.get("/api/forget").json()["state"]


def test_forgetting_is_a_job_that_others_cannot_disturb(gate) -> None:
    session = FakeSession(forget_gate=gate)
    with running(session) as server:
        client = server.client
        begun = client.post("/api/forget", json={"ids": ["b", "c"]})
        assert (begun.status_code, begun.json()["state"]) == (202, "running")
        wait_until(lambda: client.get("/api/forget").json()["phase"] == "retraining")
        assert client.get("/api/forget").json()["done"] == 1
        for path, body in (("/v1/completions", TEXT), ("/v1/completions", STREAM)):
            refused = client.post(path, json=body)
            assert (refused.status_code, refused.json()["error"]["code"]) == (503, "forgetting")
        assert client.post("/api/forget", json={"all": True}).status_code == 409
        gate.release()
        wait_until(lambda: forget_state(client) == "done")
        report = client.get("/api/forget").json()["report"]
        assert report == {"forgotten": 2, "kept": 1, "notes": ["Trained again."]}
        assert [row["id"] for row in client.get("/api/items").json()["items"]] == ["a"]
        gate.release()
        client.post("/api/forget", json={"all": True})
        wait_until(lambda: forget_state(client) == "done")
        assert client.get("/api/forget").json()["report"]["kept"] == 0
        assert client.post("/v1/completions", json=TEXT).status_code == 200
    assert session.named("forget") == [("forget", ["b", "c"]), ("forget", None)]


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (DataError("no item of that id"), "no item of that id"),
        (StorageError("/home/canary/vault"), "internal error (StorageError)"),
    ],
)
def test_forgetting_that_fails_says_so_and_frees_the_session(error, told) -> None:
    def fail():
        raise error

    with running(FakeSession(forget_gate=fail)) as server:
        server.client.post("/api/forget", json={"ids": ["z"]})
        wait_until(lambda: forget_state(server.client) == "failed")
        assert server.client.get("/api/forget").json()["error"] == told
        assert server.client.post("/v1/completions", json=TEXT).status_code == 200


def test_the_worker_keeps_order_passes_errors_and_skips_what_was_cancelled() -> None:
    worker = Worker()
    hold, done = threading.Event(), []
    worker.submit(hold.wait)
    futures = [worker.submit(lambda number=number: done.append(number)) for number in range(4)]
    failing = worker.submit(lambda: 1 / 0)
    assert futures[1].cancel()
    assert not worker.stop(0.05)  # held
    hold.set()
    assert worker.stop(5)
    assert done == [0, 2, 3]
    assert isinstance(failing.exception(), ZeroDivisionError)
