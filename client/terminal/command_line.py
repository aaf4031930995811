"""How `proper` and `proper-sim` start and end: quiet libraries, exit codes, errors without data.

Every error that PROPER knows has its own exit code (`proper_model.errors`); 2 is wrong usage, 1 a
bug, 130 Ctrl-C, 141 a reader of stdout that went away, 20 a stdout that takes no more or was never
there. Messages of unknown exceptions are not shown, with `--debug` either, nor words of the command
line in errors of usage, because both may quote a person's text.
"""

from __future__ import annotations

import ctypes
import errno
import io
import os
import signal
import sys
from collections.abc import Sequence
from contextlib import redirect_stdout, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

import click
import typer

from client.terminal.console import (
    QUIET,
    package_version,
    print_line,
    remarks,
    say,
    say_as_it_is,
    say_error,
    stopping,
)
from client.terminal.usage import told_of_usage
from proper_model.errors import InterruptedRunError, ProperError, StorageError, traceback_of

USAGE, INTERRUPTED = 2, 130
OUTPUT_CLOSED = 141  # as the shell says of a program that SIGPIPE ended
_REFUSED = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EPIPE, errno.EBADF)


@dataclass
class Session:
    """What the options before the command say; `proper-sim` sets only `debug`."""

    debug: bool = False
    home: Path | None = None
    passphrase_file: Path | None = None
    key_file: Path | None = None
    weak_passphrase: bool = False


def begin(context: typer.Context, *, debug: bool, version: bool) -> None:
    """What every program does before its command. Raises typer.Exit where there is none."""
    program = context.info_name or "proper"
    context.ensure_object(Session).debug = debug
    if version:
        print_line(f"{program} {package_version()}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        say("error: a command is missing")
        say(f"hint: the list below; {program} COMMAND --help says more about one")
        with redirect_stdout(remarks()):  # the help was not asked for, and typer prints it
            print_line(context.get_help().rstrip())
        raise typer.Exit(USAGE)


def run_command(app: typer.Typer, program: str, arguments: Sequence[str]) -> int:
    """Run one command line; returns the exit code and prints errors to stderr."""
    stdout: TextIO | None = sys.stdout
    if stdout is None:  # the program was started without one
        sys.stdout = _Absent()
    code = _run(app, program, arguments)
    try:
        sys.stdout.flush()  # here, not by Python after the exit code
    except OSError as error:
        _drop_output()
        return code or _told(error)
    return code


def _run(app: typer.Typer, program: str, arguments: Sequence[str]) -> int:
    session = Session()
    try:
        code = app(args=list(arguments), obj=session, prog_name=program, standalone_mode=False)
    except (KeyboardInterrupt, click.Abort, InterruptedRunError) as error:
        say("interrupted")
        if isinstance(error, InterruptedRunError) and error.hint:
            say(f"hint: {error.hint}")
        return INTERRUPTED
    except ProperError as error:
        if session.debug:
            say_as_it_is(traceback_of(error))
        say_error(error)
        return error.exit_code
    except click.ClickException as error:
        said, hint = told_of_usage(error)
        say(f"error: {said}")
        say(f"hint: {hint}{program} COMMAND --help lists arguments and options")
        return error.exit_code
    except SystemExit:  # click's answer to a reader of stdout that went away
        return OUTPUT_CLOSED
    except Exception as error:  # noqa: BLE001 - a bug must not print a person's text
        if isinstance(error, OSError) and error.errno in _REFUSED:
            return _told(error)
        if session.debug:
            say_as_it_is(traceback_of(error))
        say(f"error: internal error ({type(error).__name__})")
        say(f"hint: repeat with `{program} --debug ...` and report what it shows")
        return 1
    return code if isinstance(code, int) else 0


def _told(error: OSError) -> int:
    """Say that stdout, or a file no command has named, takes no more; returns the exit code."""
    if error.errno == errno.EPIPE:
        return OUTPUT_CLOSED
    refused = StorageError(
        f"{error.filename or 'standard output'}: {os.strerror(error.errno or 0)}; "
        "expected to write there",
        # Repeated, `forget --items 2` would take what has come to be item 2.
        hint="make room where the output goes; a command that changes something may have done so, so "
        "look before it is repeated",
    )
    say_error(refused)
    return refused.exit_code


class _Absent(io.TextIOBase):
    """For a stdout that was closed before the start: writing is an error."""

    def write(self, _text: str) -> int:
        raise OSError(errno.EBADF, os.strerror(errno.EBADF), "standard output")


def _drop_output() -> None:
    """Discard what Python still holds for stdout, so that its own flush at exit is silent."""
    with suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        try:
            os.dup2(nowhere, sys.stdout.fileno())
        finally:
            os.close(nowhere)


def _occupy_standard_files() -> None:
    """Open those that were closed before the start.

    Else the next file opened, perhaps a private one, takes the number, and what a library prints is
    written into it.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDONLY)  # writing to it fails, and is told


_PR_SET_DUMPABLE = 4  # linux/prctl.h


def protect_process() -> None:
    """Keep new files and this process's memory from others, as far as the system allows.

    With the vault open, key, history and adapter lie in memory: a crash must not write them to a
    core file, nor another process of the same user read them. Source: docs/security.md 2.
    """
    os.umask(0o077)
    if sys.platform == "win32":  # neither limits nor core files of this kind
        return
    import resource

    with suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.platform == "linux":
        with suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)


def start(app: typer.Typer, program: str, *, private: bool = False) -> None:
    """Entry point of a program: quiet libraries, Ctrl-C answered at once, exit code.

    Commands import libraries when they need them, so that these switches come first. A `private`
    program also keeps its memory and files to itself, and no library of it asks the hub.
    """
    _occupy_standard_files()
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    if private:
        os.environ["HF_HUB_OFFLINE"] = "1"
        protect_process()
    # In the background it is ignored, and stays so.
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, stopping)
    sys.exit(run_command(app, program, sys.argv[1:]))
