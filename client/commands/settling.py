"""From options, environment and file to the settings that a command goes by."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
import typer

from client.settings.file import read_settings, settings_file
from client.settings.names import SETTINGS
from client.settings.sources import from_environment, settled
from client.terminal.document import options_of
from client.terminal.session import Session
from proper_model.errors import ProperError

# What says what is wrong with the settings, and mends them.
MENDING = ("config", "doctor")
HELP = {"-h", "--help"}


def settle(
    context: typer.Context, session: Session, option: Path | None, flags: Mapping[str, Any]
) -> None:
    """Settle all settings, before the command is looked at; its options get what the file says.

    Args:
        option: `--config`.
        flags: what options before the command say, by name of the setting.

    Raises ConfigError for settings that cannot be used, unless the command is one that mends them
    or only asks for help: then they stand in `session.fault`.
    """
    session.settings_file, named = settings_file(option)
    file: dict[str, Any] = {}
    environment, faults = from_environment()
    session.fault = next(iter(faults), None)
    try:
        file = read_settings(session.settings_file, named=named)
    except ProperError as error:
        session.fault = session.fault or error
    session.settings = settled(flags, environment, file)
    session.home = session.settings["home"].value
    session.passphrase_file = session.settings["passphrase_file"].value
    session.key_file = session.settings["key_file"].value
    session.unlock = session.settings["unlock"].value
    session.threads = session.settings["threads"].value
    asks_for_help = not HELP.isdisjoint(options_of(session.words))
    if (
        session.fault is not None
        and context.invoked_subcommand not in MENDING
        and not asks_for_help
    ):
        raise session.fault
    context.default_map = defaults_of(context.command, file)


def defaults_of(group: click.Command, file: Mapping[str, Any]) -> dict[str, Any]:
    """The file's values by command and parameter, as click takes them: below options and variables."""
    assert isinstance(group, click.Group)
    return {
        name: {
            option.name: file[option.name]
            for option in command.params
            if option.name in file and option.envvar == SETTINGS[option.name].variable
        }
        for name, command in group.commands.items()
    }
