"""A real `proper serve` over the tiny release: a process of its own, at a port of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.device_cli import Person, publish_release, quick_release, write_jsonl
from tests.releases import small_users

ENDS_S = 60


@dataclass(frozen=True)
class Serving:
    """Where it answers, to whom, and a question of the person's task."""

    base_url: str
    token: str
    question: str


def adapted_person(folder: Path) -> Person:
    """Somebody of the tiny release with an adapter of their own."""
    person, user = Person.make(folder), small_users()[1][0]
    assert person.run("bundle", "add", publish_release(quick_release(), folder / "published")) == 0
    assert person.run("adapt", write_jsonl(folder / "h.jsonl", user.history)) == 0
    return person


@contextmanager
def serve_process(person: Person) -> Iterator[Serving]:
    """While within, it answers; at the end it must end by itself when it is interrupted."""
    repository = Path(__file__).resolve().parent.parent
    command = [sys.executable, "-m", "client", *person.options(), "serve", "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=repository) as process:
        assert process.stdout is not None
        try:
            address, found, token = process.stdout.readline().strip().partition("/#token=")
            assert found, "proper serve did not start"
            yield Serving(f"{address}/v1", token, small_users()[1][0].queries[0].input)
            process.send_signal(signal.SIGINT)
            assert process.wait(ENDS_S) == 0
        finally:
            process.kill()


def environment(**more: str) -> dict[str, str]:
    """For a client's process: without keys, proxies and folders of whoever runs the tests."""
    kept = {name: os.environ[name] for name in ("PATH", "LANG") if name in os.environ}
    return {**kept, **more}
