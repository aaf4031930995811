"""How every command of the benchmarks starts and ends: quiet libraries, PROPER's errors and codes."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import click
import typer

from client.terminal.console import QUIET, say, say_error
from proper_model.errors import InterruptedRunError, ProperError
from proper_model.storage.files import storage_errors


def start(app: typer.Typer) -> None:
    """Run the command of this process and leave with its exit code."""
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    sys.exit(run_command(app, sys.argv[1:]))


def run_command(app: typer.Typer, arguments: list[str]) -> int:
    """Run one command line; its exit code. What goes wrong on purpose is said in a line or two."""
    try:
        with storage_errors(Path.cwd()):
            code = app(args=arguments, standalone_mode=False)
    except KeyboardInterrupt:
        code = InterruptedRunError.exit_code
    except ProperError as error:
        say_error(error)
        return error.exit_code
    except click.ClickException as error:
        say(f"error: {error.format_message()}")
        say("hint: --help lists arguments and options")
        return error.exit_code
    # Typer makes this code of Ctrl-C.
    if code == InterruptedRunError.exit_code:
        say("interrupted")
    return code if isinstance(code, int) else 0
