"""How long one person waits for the first token: of `proper generate`, and of a `proper serve` that is warm.

Wall-clock seconds, since a person waits by the clock; the answer has one token, so that all of it is
the first. Processes are ended here, whatever happens.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import httpx

from proper_model.errors import ProperError
from proper_model.federation.machine import high_water_bytes

POLL_S = 0.05
ASKED = 5  # requests of a warm server
WAIT_S = 300.0


class ProgramError(ProperError):
    """A run of `proper` failed."""


def program(home: Path, passphrase: Path) -> list[str]:
    """How `proper` is started over a home."""
    return [
        *(sys.executable, "-m", "client"),
        *("--home", str(home), "--passphrase-file", str(passphrase)),
    ]


def _started(command: Sequence[str], threads: int, stdout: int) -> subprocess.Popen[bytes]:
    """A process that is measured."""
    env = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    return subprocess.Popen(command, env=env, stdout=stdout, stderr=subprocess.DEVNULL)


def run_program(command: Sequence[str], threads: int) -> int:
    """Run a program; the highest resident memory it had, in bytes. Raises ProgramError if it failed."""
    peak = 0
    with _started(command, threads, subprocess.DEVNULL) as process:
        while process.poll() is None:
            # Not getrusage: that counts what this process held when it started the other one.
            peak = max(peak, high_water_bytes(Path(f"/proc/{process.pid}/status")) or 0)
            time.sleep(POLL_S)
    if process.returncode:
        raise ProgramError(
            f"{' '.join(command[1:3])} ended with exit code {process.returncode}",
            hint="run it by hand to see why",
        )
    return peak


def generate_once(command: Sequence[str], question: str, threads: int) -> float:
    """Seconds from the start of `proper generate` to the first sign of its answer."""
    begin = time.monotonic()
    words = [*command, "generate", question, "--max-tokens", "1"]
    with _started(words, threads, subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.read(1)
        seconds = time.monotonic() - begin
        process.stdout.read()
    if process.returncode:
        raise ProgramError(f"proper generate ended with exit code {process.returncode}")
    return seconds


@contextmanager
def serving(command: Sequence[str], threads: int) -> Iterator[Mapping[str, str]]:
    """What `proper serve --json` says of itself while it runs."""
    words = [*command, "serve", "--port", "0", "--json"]
    with _started(words, threads, subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            yield json.loads(process.stdout.readline())
        finally:
            process.terminate()


def serve_seconds(command: Sequence[str], question: str, threads: int) -> float:
    """Median seconds from a request to the first piece of its answer, of a server that has answered before."""
    with serving(command, threads) as said:
        address, token = said["api"], said["token"]
        asked = {"model": "proper", "prompt": question, "stream": True, "max_tokens": 1}
        headers = {"Authorization": f"Bearer {token}"}
        with httpx.Client(timeout=WAIT_S, trust_env=False, headers=headers) as client:
            times = [
                _first_piece(client, f"{address}/completions", asked) for _ in range(ASKED + 1)
            ]
    return statistics.median(times[1:])


def _first_piece(client: httpx.Client, address: str, asked: Mapping[str, object]) -> float:
    begin = time.monotonic()
    with client.stream("POST", address, json=asked) as answer:
        answer.raise_for_status()
        for line in answer.iter_lines():
            if not line.startswith("data: {"):
                continue
            (choice,) = json.loads(line.removeprefix("data: "))["choices"]
            if choice["text"] or choice["finish_reason"]:
                return time.monotonic() - begin
    raise ProgramError("proper serve ended an answer without a piece")
