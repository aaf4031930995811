"""Where the output goes may refuse it: a full disk is told, a reader that went away is not."""

from __future__ import annotations

import errno
import io
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import typer

from client.cli import run_cli as device_cli
from client.terminal.command_line import GARBAGE_EVERY, Session, run_command
from client.terminal.console import agreed, asks, print_line, say, stdin_bytes
from coordinator.cli import run_cli as coordinator_cli
from proper_model.errors import ConfigError, DataError
from simulations.cli import run_cli as simulation_cli

SMALL = "print_line('one line')"
LARGE = "[print_line('x' * 1000) for _ in range(1000)]"
FAILING = "print_line('one line'); raise ConfigError('no')"
PROGRAM = """
import sys, typer
from client.terminal.command_line import start
from client.terminal.console import print_line
from proper_model.errors import ConfigError
app = typer.Typer(pretty_exceptions_enable=False)
@app.command()
def only(): {body}
start(app, "proper", private=True)
"""


def run(
    body: str,
    stdout: int,
    *,
    buffered: bool = True,
    stderr: int = subprocess.PIPE,
    before: tuple[str, ...] = (),
) -> tuple[int, str]:
    environment = {**os.environ, "PYTHONUNBUFFERED": "" if buffered else "1"}
    done = subprocess.run(
        [*before, sys.executable, "-c", PROGRAM.format(body=body)],
        stdout=stdout,
        stderr=stderr,
        text=True,
        check=False,
        env=environment,
    )
    return done.returncode, done.stderr


def test_garbage_is_searched_for_less_often_and_still_found(tmp_path: Path) -> None:
    body = (
        "import gc, weakref; A = type('A', (), {}); a = A(); a.me = a; gone = weakref.ref(a); del a; "
        f"kept = [[] for _ in range({2 * GARBAGE_EVERY})]; "
        "print_line(str((gc.get_threshold()[0], gone())))"
    )
    with (tmp_path / "out").open("wb") as out:
        assert run(body, out.fileno())[0] == 0
    assert (tmp_path / "out").read_text() == f"({GARBAGE_EVERY}, None)\n"


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
    assert "look before it is repeated" in hint, "it may have changed what numbers of items mean"


@pytest.mark.parametrize("buffered", [True, False])
@pytest.mark.parametrize("body", [SMALL, LARGE])
def test_a_reader_that_went_away_is_no_error(body: str, buffered: bool) -> None:
    write = refusing("closed pipe")
    try:
        assert run(body, write, buffered=buffered) == (141, "")
    finally:
        os.close(write)


def test_an_error_of_the_command_itself_comes_first() -> None:
    with Path("/dev/full").open("wb") as full:
        assert run(FAILING, full.fileno()) == (11, "proper: error: no\n")


CODES = {"pass": 0, "raise ConfigError('no')": 11, "1 / 0": 1, "raise KeyboardInterrupt": 130}


def refusing(kind: str) -> int:
    """A descriptor that takes nothing: a full disk, or a pipe that nobody reads."""
    if kind == "full":
        return os.open("/dev/full", os.O_WRONLY)
    read, write = os.pipe()
    os.close(read)
    return write


@pytest.mark.parametrize("kind", ["full", "closed pipe"])
def test_an_exit_code_survives_a_stderr_that_takes_nothing(kind: str) -> None:
    descriptor = refusing(kind)
    try:
        assert run(FAILING, subprocess.DEVNULL, stderr=descriptor)[0] == 11
    finally:
        os.close(descriptor)


class Refusing(io.TextIOBase):
    """A stream as `sys.stderr` is one, of which every write fails."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def write(self, _text: str) -> int:
        raise self.error


STREAMS = {
    "full": lambda: Refusing(OSError(errno.ENOSPC, "No space left on device")),
    "broken disk": lambda: Refusing(OSError(errno.EIO, "Input/output error")),
    "closed pipe": lambda: Refusing(BrokenPipeError(errno.EPIPE, "Broken pipe")),
    "closed file": lambda: Refusing(ValueError("I/O operation on closed file")),
    "never there": lambda: None,
}


@pytest.mark.parametrize("stream", STREAMS.values(), ids=STREAMS)
@pytest.mark.parametrize("body", CODES)
@pytest.mark.parametrize("program", ["proper", "proper-sim"])
def test_every_exit_code_survives_every_stderr(
    program: str, body: str, stream: Callable[[], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    app = typer.Typer(pretty_exceptions_enable=False)

    @app.callback(invoke_without_command=True)
    def only(context: typer.Context) -> None:
        context.ensure_object(Session).debug = body == "1 / 0"
        say("at work")
        print_line("data")
        exec(body, {"ConfigError": ConfigError})

    shown = io.StringIO()
    monkeypatch.setattr("sys.stdout", shown)
    monkeypatch.setattr("sys.stderr", stream())
    assert run_command(app, program, []) == CODES[body]
    assert shown.getvalue() == "data\n"


@pytest.mark.parametrize("argument", ["--version", "--no-such-option", "help"])
@pytest.mark.parametrize("program", [device_cli, simulation_cli])
def test_so_do_those_of_wrong_usage(
    program: Callable[[list[str]], int], argument: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = [] if argument == "help" else [argument]
    expected = program(words)
    assert expected == (0 if argument == "--version" else 2)
    monkeypatch.setattr("sys.stderr", STREAMS["full"]())
    assert program(words) == expected


def run_closed(body: str) -> tuple[int, str]:
    """The exit code and stderr where stdin and stdout are closed at the start."""
    command = ["sh", "-c", 'exec "$@" >&- <&-', "sh", sys.executable, "-c"]
    command.append(PROGRAM.format(body=body))
    done = subprocess.run(command, stderr=subprocess.PIPE, text=True, check=False)
    return done.returncode, done.stderr


@pytest.mark.parametrize("body", [SMALL, 'print_line(\'{"as": "json"}\')'])
def test_data_that_nobody_gets_are_an_error(body: str) -> None:
    code, told = run_closed(body)
    assert code == 20
    assert "error: standard output: Bad file descriptor" in told


def test_no_private_file_takes_the_number_of_a_closed_stdout(tmp_path: Path) -> None:
    """Else what a library prints at descriptor 1 would be written into it."""
    file = tmp_path / "file"
    body = f"import os; f = open({str(file)!r}, 'wb'); os.write(2, str(f.fileno()).encode())"
    code, number = run_closed(body)
    assert code == 0
    assert int(number) > 2


def test_a_question_without_input_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", None)
    assert not asks()
    with pytest.raises(DataError, match="stdin: closed"):
        stdin_bytes()
    with pytest.raises(ConfigError, match="no input") as caught:
        agreed("Remove?")
    assert "--yes" in caught.value.hint


TEXT = "zqwhat shall I tell my doctor"


@pytest.mark.parametrize(
    ("words", "said", "hint"),
    [
        (["generate", "and", TEXT], "do not fit this command", "goes in quotes"),
        (["generate", f"--{TEXT}"], "No such option", "goes in quotes"),
        (["generate", "--max-token", TEXT], "No such option; did you mean --max-tokens", "--help"),
        ([TEXT], "No such command", "--help"),
        (["generat", TEXT], "No such command; did you mean generate?", "--help"),
        (["bundle", TEXT], "No such command", "--help"),
        (
            ["generate", "--max-tokens", TEXT, "x"],
            "'--max-tokens': expected a whole number",
            "--help",
        ),
        (["generate", "x", "--max-memory", TEXT], "'--max-memory': expected a number", "--help"),
        (
            ["export", "--format", TEXT, "--out", "x"],
            "expected one of peft, merged, gguf",
            "--help",
        ),
        (["generate", "--max-tokens"], "'--max-tokens' requires an argument", "--help"),
        (["adapt"], "Missing argument 'HISTORY'", "--help"),
    ],
)
def test_wrong_usage_says_what_is_expected_and_repeats_nothing(
    words: list[str], said: str, hint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert device_cli(words) == 2
    shown = capsys.readouterr()
    error, then = shown.err.splitlines()
    assert error.startswith("proper: error: ")
    assert said in error
    assert then.startswith("proper: hint: ")
    assert hint in then
    assert "zqwhat" not in shown.err + shown.out


def test_the_bounds_of_a_number_and_a_parser_of_ours(capsys: pytest.CaptureFixture[str]) -> None:
    assert device_cli(["generate", "x", "--max-tokens", "0"]) == 2
    assert "expected a whole number, at least 1" in capsys.readouterr().err
    assert simulation_cli(["run", "demo", "--out", "x", "--memory-budget", "zqword"]) == 2
    shown = capsys.readouterr().err
    assert "expected GiB without a unit" in shown
    assert "zqword" not in shown


@pytest.mark.parametrize("program", ["proper", "proper-coordinator"])
def test_debug_shows_where_a_bug_is_and_quotes_nothing(
    program: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*_: object) -> None:
        try:
            int(TEXT)
        except ValueError as error:
            raise KeyError(TEXT) from error

    run, words = {
        "proper": (device_cli, ["path"]),
        "proper-coordinator": (coordinator_cli, ["keys", "show", "x"]),
    }[program]
    monkeypatch.setattr("client.home.Home.find", broken)
    monkeypatch.setattr("coordinator.commands.keys.load_key", broken)
    assert run(["--debug", *words]) == 1
    shown = capsys.readouterr().err
    assert shown.index("ValueError\n") < shown.index("from this came:") < shown.index("KeyError\n")
    assert "in broken" in shown
    assert "zqwhat" not in shown
