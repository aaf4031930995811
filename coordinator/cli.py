"""`proper-coordinator`: the publisher's program for keys, roots, releases and people's consents.

Exit codes are those of `proper_model.errors`; 2 is wrong usage, 1 a bug, 130 Ctrl-C. The client's program
has more of the same in `client.terminal.command_line`: the two packages do not import each other.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Annotated

import click
import typer

from coordinator.commands import consent, keys, release, root
from coordinator.commands.document import JSON, Session, print_error, session_of
from coordinator.commands.examples import add_examples
from coordinator.commands.options import say, tell
from proper_model.errors import ProperError, traceback_of

PROGRAM = "proper-coordinator"
USAGE, INTERRUPTED = 2, 130

app = typer.Typer(
    name=PROGRAM,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
GROUPS = {"keys": keys.app, "root": root.app, "release": release.app, "consent": consent.app}
for name, group in GROUPS.items():
    add_examples(name, group, PROGRAM)
    app.add_typer(group, name=name)


@app.callback(invoke_without_command=True)
def before(
    context: typer.Context,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False,
    show_version: Annotated[bool, typer.Option("--version", help="Show the version.")] = False,
) -> None:
    """Keys, roots, releases and consents of a population. The steps: docs/releases.md."""
    session_of().debug = debug
    if show_version:
        try:
            tell(f"{PROGRAM} {version('proper')}")
        except PackageNotFoundError:
            tell(f"{PROGRAM} (a checkout, not installed)")
        raise typer.Exit
    if context.invoked_subcommand is None:
        say("error: a command is missing")
        say(f"hint: {PROGRAM} --help lists them")
        raise typer.Exit(USAGE)


def run_cli(arguments: Sequence[str]) -> int:
    """Run one command line; returns the exit code and prints errors to stderr."""
    session = Session(words=arguments)
    try:
        code = app(args=list(arguments), obj=session, prog_name=PROGRAM, standalone_mode=False)
    except SystemExit as ending:  # completion has said what it has
        return int(ending.code or 0)
    except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001 - a bug must not print what a key file holds
        return _failed(error, session)
    if code == INTERRUPTED:  # typer's answer to Ctrl-C
        return _failed(KeyboardInterrupt(), session)
    return code if isinstance(code, int) else 0


def _failed(error: BaseException, session: Session) -> int:
    """Say what went wrong, on stderr and with `--json` on stdout; returns the exit code."""
    if session.debug and not isinstance(
        error, KeyboardInterrupt | click.ClickException | click.Abort
    ):
        sys.stderr.write(traceback_of(error))
    code, kind, message, hint = _told_of(error)
    say("interrupted" if code == INTERRUPTED else f"error: {message}")
    if hint:
        say(f"hint: {hint}")
    print_error(session, code=code, kind=kind, message=message, hint=hint)
    return code


def _told_of(error: BaseException) -> tuple[int, str, str, str]:
    """Exit code, kind, message and what to do next of whatever ended a command."""
    if isinstance(error, KeyboardInterrupt | click.Abort):
        return INTERRUPTED, "InterruptedRunError", "interrupted", ""
    if isinstance(error, ProperError):
        return error.exit_code, type(error).__name__, error.message, error.hint or ""
    if isinstance(error, click.ClickException):
        message = error.format_message()
        if isinstance(error, click.NoSuchOption) and error.option_name == JSON:
            message = f"{JSON} stands before the last word of the command, expected behind it"
        hint = f"{PROGRAM} COMMAND --help lists arguments and options"
        return error.exit_code, "UsageError", message, hint
    hint = f"repeat with `{PROGRAM} --debug ...` and report what it shows"
    return 1, "InternalError", f"internal error ({type(error).__name__})", hint


def main() -> None:
    """Entry point of the command."""
    sys.exit(run_cli(sys.argv[1:]))
