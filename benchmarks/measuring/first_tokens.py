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
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import httpx

from proper_model.errors import ProperError
from proper_model.federation.machine import high_water_bytes

POLL_S = 0.05
ASKED = 5  # requests of a warm server
WAIT_S = 300.0
ERROR = "proper: error: "


class ProgramError(ProperError):
    """A run of `proper` failed."""


def program(home: Path, passphrase: Path) -> list[str]:
    """How `proper` is started over a home."""
    return [
        *(sys.executable, "-m", "client"),
        *("--home", str(home), "--passphrase-file", str(passphrase)),
    ]


def environment(threads: int) -> dict[str, str]:
    """Of every process that is measured."""
    return {**os.environ, "OMP_NUM_THREADS": str(threads)}


@dataclass(frozen=True)
class Program:
    """One that runs, and what it says on stderr meanwhile."""

    process: subprocess.Popen[bytes]
    remarks: BinaryIO

    def failed(self, what: str) -> ProgramError:
        """That it ended by itself, with what it said of why."""
        code = self.process.wait()
        self.remarks.seek(0)
        said = self.remarks.read().decode(errors="replace").splitlines()
        errors = [line.removeprefix(ERROR) for line in said if line.startswith(ERROR)]
        return ProgramError(
            f"proper {what} ended with exit code {code}" + "".join(f": {e}" for e in errors[-1:]),
            hint="what was measured before it, if anything, is in OUT; docs/exit-codes.md says what a code means",
        )


@contextmanager
def started(
    command: Sequence[str], threads: int, stdout: int = subprocess.DEVNULL
) -> Iterator[Program]:
    """A program that runs while open, and is ended there, Ctrl-C or not."""
    with (
        tempfile.TemporaryFile() as remarks,
        subprocess.Popen(
            command, env=environment(threads), stdout=stdout, stderr=remarks
        ) as process,
    ):
        try:
            yield Program(process, remarks)
        finally:
            if process.poll() is None:
                process.terminate()
                process.wait()


def run_program(what: str, command: Sequence[str], threads: int) -> int:
    """Run a program; the highest resident memory it had, in bytes. Raises ProgramError if it failed.

    `what` names it where it fails.
    """
    peak = 0
    with started(command, threads) as program:
        while program.process.poll() is None:
            # Not getrusage: that counts what this process held when it started the other one.
            status = Path(f"/proc/{program.process.pid}/status")
            peak = max(peak, high_water_bytes(status) or 0)
            time.sleep(POLL_S)
        if program.process.returncode:
            raise program.failed(what)
    return peak


def generate_once(command: Sequence[str], question: str, threads: int) -> float:
    """Seconds from the start of `proper generate` to the first sign of its answer."""
    begin = time.monotonic()
    words = [*command, "generate", question, "--max-tokens", "1"]
    with started(words, threads, subprocess.PIPE) as program:
        assert program.process.stdout is not None
        program.process.stdout.read(1)
        seconds = time.monotonic() - begin
        program.process.stdout.read()
        if program.process.wait():
            raise program.failed("generate")
    return seconds


@contextmanager
def serving(command: Sequence[str], threads: int) -> Iterator[Mapping[str, str]]:
    """What `proper serve --json` says of itself while it runs."""
    words = [*command, "serve", "--port", "0", "--json"]
    with started(words, threads, subprocess.PIPE) as program:
        assert program.process.stdout is not None
        said = json.loads(program.process.stdout.readline() or "{}")
        if "api" not in said:  # it ended before it served
            raise program.failed("serve")
        yield said


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
