"""How `proper` and `proper-sim` start and end: quiet libraries, exit codes, errors without data.

Every error that PROPER knows has its own exit code (`proper_model.errors`); 2 is wrong usage, 1 a
bug, 130 Ctrl-C, 141 a reader of stdout that went away, 20 a stdout that takes no more or was never
there. Messages of unknown exceptions are not shown, with `--debug` either, nor words of the command
line in errors of usage, because both may quote a person's text.
"""

from __future__ import annotations

import ctypes
import errno
import gc
import io
import os
import signal
import sys
from collections.abc import Sequence
from contextlib import redirect_stdout, suppress
from typing import TextIO

import click
import typer

from client.terminal.console import (
    FEWER_PARTS,
    QUIET,
    package_version,
    print_line,
    remarks,
    say,
    say_as_it_is,
    say_error,
    stopping,
)
from client.terminal.document import asked_for_json, print_error
from client.terminal.session import Session
from client.terminal.usage import told_of_usage
from proper_model.errors import InterruptedRunError, ProperError, StorageError, traceback_of

USAGE, INTERRUPTED = 2, 130
OUTPUT_CLOSED = 141  # as the shell says of a program that SIGPIPE ended
_REFUSED = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EPIPE, errno.EBADF)


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
    stand_in_for_no_output()
    session = Session(words=arguments)
    return flush_output(_run(app, program, arguments, session))


def stand_in_for_no_output() -> None:
    """Where the program was started without a stdout, have one that says so when it is written to."""
    stdout: TextIO | None = sys.stdout
    if stdout is None:
        sys.stdout = _Absent()


def flush_output(code: int) -> int:
    """Write what is still held for stdout; the exit code, another one where stdout takes no more."""
    try:
        sys.stdout.flush()  # here, not by Python after the exit code
    except OSError as error:
        _drop_output()
        return code or tell_refused(error)
    return code


def is_of_output(error: OSError) -> bool:
    """Whether an error is, most likely, of stdout: those of files that commands open name the file."""
    return error.filename is None and error.errno in _REFUSED


def _run(app: typer.Typer, program: str, arguments: Sequence[str], session: Session) -> int:
    try:
        code = app(args=list(arguments), obj=session, prog_name=program, standalone_mode=False)
    except SystemExit as ending:
        # Of completion, which says what it has and ends; else click's answer to a reader of stdout
        # that went away.
        asked = completion_variable(program) in os.environ or any(
            word.startswith(("--install-completion", "--show-completion")) for word in arguments
        )
        return int(ending.code or 0) if asked else OUTPUT_CLOSED
    except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001 - a bug must not print a person's text
        return _failed(error, program, session)
    if code == INTERRUPTED:  # typer's answer to Ctrl-C, which `stopping` has told
        _document(KeyboardInterrupt(), program, session)
    return code if isinstance(code, int) else 0


def completion_variable(program: str) -> str:
    """Where a shell says that it wants a command line completed."""
    return f"_{program.replace('-', '_').upper()}_COMPLETE"


def _failed(error: BaseException, program: str, session: Session) -> int:
    """Say what went wrong, on stderr and with `--json` on stdout; returns the exit code."""
    if isinstance(error, OSError) and error.errno in _REFUSED:
        code = tell_refused(error)
        if code != OUTPUT_CLOSED:
            _document(_refused(error), program, session)
        return code
    if session.debug and not isinstance(
        error, KeyboardInterrupt | click.ClickException | click.Abort | InterruptedRunError
    ):
        say_as_it_is(traceback_of(error))
    code, _, message, hint = told_of(error, program)
    say("interrupted" if code == INTERRUPTED else f"error: {message}")
    if hint:
        say(f"hint: {hint}")
    _document(error, program, session)
    return code


def _document(error: BaseException, program: str, session: Session) -> None:
    """The error on stdout, where the command line asks for JSON and stdout takes it."""
    if not asked_for_json(session.words):
        return
    code, kind, message, hint = told_of(error, program)
    with suppress(OSError):
        print_error(session, code=code, kind=kind, message=message, hint=hint)


def told_of(error: BaseException, program: str) -> tuple[int, str, str, str]:
    """Exit code, kind, message and what to do next of whatever ended a command."""
    if isinstance(error, InterruptedRunError):
        return INTERRUPTED, "InterruptedRunError", "interrupted", error.hint or ""
    if isinstance(error, KeyboardInterrupt | click.Abort):
        return INTERRUPTED, "InterruptedRunError", "interrupted", ""
    if isinstance(error, ProperError):
        return error.exit_code, type(error).__name__, error.message, error.hint or ""
    if isinstance(error, click.ClickException):
        said, hint = told_of_usage(error)
        hint += f"{program} COMMAND --help lists arguments and options"
        return error.exit_code, "UsageError", said, hint
    hint = f"repeat with `{program} --debug ...` and report what it shows"
    return 1, "InternalError", f"internal error ({type(error).__name__})", hint


def tell_refused(error: OSError) -> int:
    """Say that stdout, or a file no command has named, takes no more; returns the exit code."""
    if error.errno == errno.EPIPE:
        return OUTPUT_CLOSED
    refused = _refused(error)
    say_error(refused)
    return refused.exit_code


def _refused(error: OSError) -> StorageError:
    return StorageError(
        f"{error.filename or 'standard output'}: {os.strerror(error.errno or 0)}; "
        "expected to write there",
        # Repeated, `forget --items 2` would take what has come to be item 2.
        hint="make room where the output goes; a command that changes something may have done so, so "
        "look before it is repeated",
    )


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


# New objects between two searches for rings of garbage, which Python makes every 700, and after how many of those older
# ones are searched. Libraries make hundreds of thousands that stay, and searching them again and again took a
# seventh of the time that imports take.
GARBAGE_EVERY, OLDER, OLDEST = 50_000, 5, 2

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
        gc.set_threshold(GARBAGE_EVERY, OLDER, OLDEST)  # one command, over one model
        os.environ["HF_HUB_OFFLINE"] = "1"
        os.environ.setdefault(FEWER_PARTS, "1")
        protect_process()
    # In the background it is ignored, and stays so.
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, stopping)
    sys.exit(run_command(app, program, sys.argv[1:]))
