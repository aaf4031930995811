"""`proper config`: defaults of options, and where each value in use comes from."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from client.commands import completing
from client.commands import options as o
from client.settings import names
from client.settings.file import is_there, set_value
from client.settings.file import unset as remove
from client.settings.sources import Source, Value
from client.terminal.console import print_line, print_table, say
from client.terminal.document import gives
from client.terminal.session import Session
from client.terminal.tables import Table
from client.terminal.terminal_text import harmless
from proper_model.errors import ConfigError

app = typer.Typer(
    help="Show settings and where they come from; set defaults of options.",
    invoke_without_command=True,
    pretty_exceptions_enable=False,
)


Name = Annotated[
    str,
    typer.Argument(
        metavar="NAME",
        help="A setting that `proper config` lists.",
        autocompletion=completing.setting,
        show_default=False,
    ),
]


@app.callback()
def config(context: typer.Context, as_json: o.AsJson = False) -> None:
    """Show every setting, its value and where that comes from: flag, environment, file or default.

    An option counts more than a variable, that more than the file. Options of single commands,
    such as --max-memory, are given to those commands and are not seen here.
    """
    if context.invoked_subcommand is None:
        show(context, as_json=as_json)
    elif as_json:
        raise ConfigError(
            "--json stands before the last word of the command, expected behind it",
            hint=f"proper config {context.invoked_subcommand} ... --json",
        )


@gives("config")
def show(context: typer.Context, *, as_json: bool) -> dict[str, Any]:
    """All settings. Raises what is wrong with them, after showing what holds without the faulty part."""
    session = context.ensure_object(Session)
    session.found = shown_settings(session)
    if not as_json:
        rows = tuple(
            (name, _cell(name, one), one.source, _where(name, one))
            for name, one in session.settings.items()
        )
        print_table(Table("Settings", ("name", "value", "from", "set it by"), rows, labels=4))
        say(f"the file: {session.settings_file}")
    if session.fault is not None:
        raise session.fault
    return session.found


def shown_settings(session: Session) -> dict[str, Any]:
    """The settings as `--json` prints them."""
    return {
        "file": str(session.settings_file),
        "settings": [
            {
                "name": name,
                "value": str(one.value) if isinstance(one.value, Path) else one.value,
                "source": one.source.value,
                "option": names.SETTINGS[name].option,
                "variable": names.SETTINGS[name].variable,
            }
            for name, one in session.settings.items()
        ],
    }


def _cell(name: str, one: Value) -> str:
    if one.value is None:
        return f"({names.SETTINGS[name].default})"
    return _said(one.value)


def _said(value: Any) -> str:
    """A value as it is typed."""
    return harmless(str(value).lower() if isinstance(value, bool) else str(value))


def _where(name: str, one: Value) -> str:
    setting = names.SETTINGS[name]
    return setting.variable if one.source is Source.ENVIRONMENT else setting.option


# An option's name, and a number below zero, look like options: they are told apart by what is set.
AS_TYPED = {"ignore_unknown_options": True}


@app.command("set", context_settings=AS_TYPED)
@gives("config set")
def set_(
    context: typer.Context,
    name: Name,
    value: Annotated[
        str,
        typer.Argument(
            metavar="VALUE",
            help="What it shall be.",
            autocompletion=completing.value,
            show_default=False,
        ),
    ],
) -> dict[str, Any]:
    """Write a default into the file; remarks that stand in it stay."""
    path = context.ensure_object(Session).settings_file
    name, stored = set_value(path, name, value)
    shown = str(stored) if isinstance(stored, Path) else stored
    print_line(f"{name} is {_said(stored)} from now on, where nothing else is said.")
    return {"file": str(path), "name": name, "value": shown}


@app.command(context_settings=AS_TYPED)
@gives("config unset")
def unset(context: typer.Context, name: Name) -> dict[str, Any]:
    """Take a default out of the file, or a line that is no setting."""
    path = context.ensure_object(Session).settings_file
    changed = remove(path, name)
    print_line("It is set no longer." if changed else "It was not set.")
    return {"file": str(path), "changed": changed}


@app.command()
@gives("config path")
def path(context: typer.Context) -> dict[str, Any]:
    """Print the place of the file, whether it is there or not."""
    place = context.ensure_object(Session).settings_file
    print_line(str(place))
    return {"file": str(place), "there": is_there(place)}
