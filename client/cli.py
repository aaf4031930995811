"""`proper`: one person's private adaptation on this machine.

stdout is data, stderr is progress, errors and hints; see `client.terminal.command_line`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from click.core import ParameterSource

from client.commands import (
    adapt,
    base,
    bundle,
    chat,
    doctor,
    evaluate,
    export,
    forget,
    generate,
    import_backup,
    inspect,
    new_task,
    rebase,
    serve,
    start,
    update,
    vault,
)
from client.home import VARIABLE
from client.person.workspace import KEY_FILE_VARIABLE, PASSPHRASE_FILE_VARIABLE
from client.terminal import command_line
from client.terminal.command_line import Session, begin, run_command

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
    home: Annotated[
        Path | None,
        typer.Option("--home", envvar=VARIABLE, help="Folder for everything that is kept."),
    ] = None,
    passphrase_file: Annotated[
        Path | None,
        typer.Option(
            "--passphrase-file",
            envvar=PASSPHRASE_FILE_VARIABLE,
            help="A file whose first line is the passphrase, instead of asking.",
        ),
    ] = None,
    key_file: Annotated[
        Path | None,
        typer.Option("--key-file", envvar=KEY_FILE_VARIABLE, help="A key file of the vault."),
    ] = None,
    weak_passphrase: Annotated[
        bool,
        typer.Option("--weak-passphrase", help="Take a new passphrase that is easily guessed."),
    ] = False,
) -> None:
    """Personalize a language model on this machine; nothing private leaves it."""
    begin(context, debug=debug, version=version)
    session = context.ensure_object(Session)
    session.home = home
    session.weak_passphrase = weak_passphrase
    # An option counts more than the environment, whichever kind of key it names.
    said = {
        name
        for name in ("passphrase_file", "key_file")
        if context.get_parameter_source(name) is ParameterSource.COMMANDLINE
    }
    session.passphrase_file = None if said == {"key_file"} else passphrase_file
    session.key_file = None if said == {"passphrase_file"} else key_file


app.add_typer(bundle.app, name="bundle")
app.add_typer(base.app, name="base")
app.command("new-task")(new_task.new_task)
for command in (
    start.start,
    adapt.adapt,
    update.update,
    generate.generate,
    chat.chat,
    evaluate.evaluate,
    inspect.inspect,
    export.export,
    rebase.rebase,
    forget.forget,
    vault.status,
    vault.path,
    vault.lock,
    vault.passwd,
    vault.rollback,
    doctor.doctor,
    serve.serve,
):
    app.command()(command)
app.command("import")(import_backup.import_backup)


def run_cli(arguments: Sequence[str]) -> int:
    """Run one command line; returns the exit code and prints errors to stderr."""
    return run_command(app, "proper", arguments)


def main() -> None:
    """Entry point of the command."""
    command_line.start(app, "proper", private=True)
