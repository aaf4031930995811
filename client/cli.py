"""`proper`: one person's private adaptation on this machine.

stdout is data, stderr is progress, errors and hints; see `client.terminal.command_line`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import typer

from client.commands import (
    adapt,
    base,
    bundle,
    chat,
    config,
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
from client.commands import options as o
from client.commands.examples import EXAMPLES
from client.commands.settling import settle
from client.terminal import command_line
from client.terminal.command_line import begin, run_command
from client.terminal.examples import add_examples
from client.terminal.session import Session

app = typer.Typer(
    name="proper",
    help="Personalize a language model on this machine; nothing private leaves it.",
    invoke_without_command=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback()
def before(
    context: typer.Context,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False,
    version: Annotated[bool, typer.Option("--version", help="Show the version.")] = False,
    config_file: o.ConfigFile = None,
    home: o.HomeFolder = None,
    passphrase_file: o.PassphraseFile = None,
    key_file: o.KeyFile = None,
    unlock: o.UnlockBy = None,
    threads: o.Threads = None,
    weak_passphrase: Annotated[
        bool,
        typer.Option("--weak-passphrase", help="Take a new passphrase that is easily guessed."),
    ] = False,
) -> None:
    """Personalize a language model on this machine; nothing private leaves it."""
    begin(context, debug=debug, version=version)
    session = context.ensure_object(Session)
    session.weak_passphrase = weak_passphrase
    given = {
        "home": home,
        "passphrase_file": passphrase_file,
        "key_file": key_file,
        "unlock": None if unlock is None else unlock.value,
        "threads": threads,
    }
    flags = {name: value for name, value in given.items() if value is not None}
    settle(context, session, config_file, flags)


app.add_typer(config.app, name="config")
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
add_examples(app, "proper", EXAMPLES)


def run_cli(arguments: Sequence[str]) -> int:
    """Run one command line; returns the exit code and prints errors to stderr."""
    return run_command(app, "proper", arguments)


def main() -> None:
    """Entry point of the command."""
    command_line.start(app, "proper", private=True)
