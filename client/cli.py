"""`proper`: one person's private adaptation on this machine.

stdout is data, stderr is progress, errors and hints. Conventions: `client.command_line`. Commands
stand in modules of their own and are put together here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import typer

from client.command_line import begin, run_command, start

app = typer.Typer(
    name="proper",
    help="Personalize a language model on this machine; nothing private leaves it.",
    invoke_without_command=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback()
def before(
    context: typer.Context,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False,
    version: Annotated[bool, typer.Option("--version", help="Show the version.")] = False,
) -> None:
    """Personalize a language model on this machine; nothing private leaves it."""
    begin(context, debug=debug, version=version)


def run_cli(arguments: Sequence[str]) -> int:
    """Run one command line; returns the exit code and prints errors to stderr."""
    return run_command(app, "proper", arguments)


def main() -> None:
    """Entry point of the command."""
    start(app, "proper")
