"""A session without a model, and the real server around it on a real port."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import httpx

from client.serving.app import build_app
from client.serving.connections import Limits
from client.serving.server import Server, bound
from client.serving.session import Ending, ForgetReport, ItemRow, Routing
from client.serving.turns import Turns

TOKEN = "test-token-0123456789-0123456789-abcd"
CREATED = 1_700_000_000
WEIGHTS = ((0.75, 0.25, 0.0), (0.1, 0.2, 0.7))


@dataclass
class FakeSession:
    """Answers `stage: last message` word by word; counts words as tokens; `gate` holds back every piece."""

    stages: tuple[str, ...] = ("1", "2", "3")
    model_names: dict[str, str] = field(
        default_factory=lambda: {"proper": "3", "proper-stage2": "2", "proper-stage1": "1"}
    )
    task: str = "LaMP_2M"
    bundle_id: str = "toy-7"
    adapted: bool = True
    stored: bool = True
    label_choices: tuple[str, ...] = ("comedy", "drama")
    rows: list[ItemRow] = field(
        default_factory=lambda: [
            ItemRow(1, "a", "2024-01-02", "first <b>item</b>"),
            ItemRow(2, "b", None, "second item"),
            ItemRow(3, "c", "2024-03-04", "third item"),
        ]
    )
    gate: Callable[[], None] = lambda: None
    raises: Exception | None = None
    calls: list[tuple] = field(default_factory=list)
    asked: list[tuple] = field(default_factory=list)  # messages and manner
    threads: set[int] = field(default_factory=set)
    changes: list[Callable[[FakeSession], None]] = field(default_factory=list)
    refreshes: int = 0
    forget_gate: Callable[[], None] = lambda: None
    forget_raises: Exception | None = None  # after the items are gone

    def refresh(self):
        """What another command did since, one change a look."""
        self.refreshes += 1
        self.threads.add(threading.get_ident())
        if self.changes:
            self.changes.pop(0)(self)

    def wording(self, messages):
        return "task" if len(messages) == 1 else "chat"

    def generate(self, messages, *, stage, manner):
        prompt, max_tokens = messages[-1].text, manner.max_tokens
        self.asked.append((messages, manner))
        self._note("generate", prompt, stage, max_tokens)
        words = f"{stage}: {prompt}".split(" ")
        counted = sum(len(message.text.split(" ")) for message in messages)
        made = 0
        try:
            if self.raises is not None:
                raise self.raises
            for word in words[:max_tokens]:
                self.gate()
                self._note("piece")
                made += 1
                yield word if made == 1 else f" {word}"
            return Ending("length" if made < len(words) else "stop", made, counted)
        finally:
            self._note("ended", made)

    def routing(self, prompt, *, stage):
        self._note("routing", prompt, stage)
        return Routing(("layer 0 q_proj", "layer 1 v_proj"), WEIGHTS)

    def items(self):
        self._note("items")
        return self.rows

    def forget(self, ids, *, progress):
        self._note("forget", ids)
        progress("retraining", 1, 4)
        self.forget_gate()
        progress("retraining", 4, 4)
        before = len(self.rows)
        self.rows = [row for row in self.rows if ids is not None and row.id not in ids]
        if self.forget_raises is not None:
            raise self.forget_raises
        self.stored = ids is not None
        return ForgetReport(before - len(self.rows), len(self.rows), ("Trained again.",))

    def _note(self, *call):
        self.calls.append(call)
        self.threads.add(threading.get_ident())

    def named(self, name):
        return [call for call in self.calls if call[0] == name]


class Gate:
    """Lets a session make as many pieces as have been released."""

    def __init__(self) -> None:
        self._free = threading.Semaphore(0)

    def __call__(self) -> None:
        assert self._free.acquire(timeout=10)

    def release(self, count: int = 1) -> None:
        self._free.release(count)


@dataclass
class Running:
    """A started server."""

    url: str
    port: int
    turns: Turns
    client: httpx.Client
    server: Server


@contextmanager
def running(
    session: FakeSession, *, max_waiting: int = 4, limits: Limits | None = None
) -> Iterator[Running]:
    """The real server in a thread; what it answers is fixed but for the text."""
    started = threading.Event()
    with bound(0) as listeners:
        port = listeners[0].getsockname()[1]
        turns = Turns(session, max_waiting=max_waiting)
        app = build_app(turns, token=TOKEN, port=port, clock=lambda: CREATED, new_id=lambda: "x1")
        server = Server(app, turns, started.set, limits=limits)
        thread = threading.Thread(target=server.run, kwargs={"sockets": listeners})
        thread.start()
        try:
            assert started.wait(10)
            url = f"http://127.0.0.1:{port}"
            headers = {"Authorization": f"Bearer {TOKEN}"}
            with httpx.Client(base_url=url, headers=headers, trust_env=False, timeout=20) as client:
                yield Running(url, port, turns, client, server)
        finally:
            server.handle_exit(0, None)
            thread.join(10)
            assert turns.close(5)
            assert not thread.is_alive()


def wait_until(condition: Callable[[], bool], timeout_s: float = 5.0) -> None:
    """Return as soon as `condition` holds; fail after `timeout_s`."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)
