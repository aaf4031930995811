"""Where the output goes may refuse it: a full disk is told, a reader that went away is not."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

SMALL = "print_line('one line')"
LARGE = "[print_line('x' * 1000) for _ in range(1000)]"
FAILING = "print_line('one line'); raise ConfigError('no')"
PROGRAM = """
import sys, typer
from client.command_line import start
from client.console import print_line
from proper_model.errors import ConfigError
app = typer.Typer(pretty_exceptions_enable=False)
@app.command()
def only(): {body}
start(app, "proper")
"""


def run(body: str, stdout: int, *, buffered: bool = True) -> tuple[int, str]:
    environment = {**os.environ, "PYTHONUNBUFFERED": "" if buffered else "1"}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(body=body)],
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
        env=environment,
    )
    return done.returncode, done.stderr


@pytest.mark.parametrize("buffered", [True, False])
@pytest.mark.parametrize("body", [SMALL, LARGE])
def test_a_full_output_is_told(body: str, buffered: bool) -> None:
    with Path("/dev/full").open("wb") as full:
        code, told = run(body, full.fileno(), buffered=buffered)
    assert code == 20
    first, hint = told.splitlines()
    assert first == (
        "proper: error: standard output: No space left on device; expected to write there"
    )
    assert hint.startswith("proper: hint: ")


@pytest.mark.parametrize("buffered", [True, False])
@pytest.mark.parametrize("body", [SMALL, LARGE])
def test_a_reader_that_went_away_is_no_error(body: str, buffered: bool) -> None:
    read, write = os.pipe()
    os.close(read)
    try:
        assert run(body, write, buffered=buffered) == (141, "")
    finally:
        os.close(write)


def test_an_error_of_the_command_itself_comes_first() -> None:
    with Path("/dev/full").open("wb") as full:
        assert run(FAILING, full.fileno()) == (11, "proper: error: no\n")
