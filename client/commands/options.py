"""Options that several commands share, each declared once."""

from __future__ import annotations

import math
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from client.commands import completing
from client.home import Home
from client.person.workspace import Keys, Workspace
from client.settings.names import SETTINGS
from client.terminal import document
from client.terminal.session import Session
from proper_model.errors import ConfigError


class Unlock(StrEnum):
    """Where the vault's key comes from when no file is named."""

    AUTO = "auto"
    KEYRING = "keyring"
    ASK = "ask"


def _or_variable(name: str, about: str) -> str:
    """The help of an option whose variable is read by `settle`: click would refuse a wrong one too early."""
    return f"{about} (variable: {SETTINGS[name].variable})"


# What stands before every command.
ConfigFile = Annotated[
    Path | None,
    typer.Option("--config", metavar="FILE", help="Another file of settings (proper config)."),
]
HomeFolder = Annotated[
    Path | None,
    typer.Option("--home", help=_or_variable("home", "Folder for everything that is kept.")),
]
PassphraseFile = Annotated[
    Path | None,
    typer.Option(
        "--passphrase-file",
        help=_or_variable(
            "passphrase_file", "A file whose first line is the passphrase, instead of asking."
        ),
    ),
]
KeyFile = Annotated[
    Path | None,
    typer.Option("--key-file", help=_or_variable("key_file", "A key file of the vault.")),
]
UnlockBy = Annotated[
    Unlock | None,
    typer.Option(
        "--unlock",
        help=_or_variable("unlock", "Where the key comes from without a file. (default: auto)"),
    ),
]
Threads = Annotated[
    int | None,
    typer.Option(
        "--threads",
        min=1,
        max=1024,
        help=_or_variable("threads", "How many threads compute. (default: as many as help)"),
    ),
]

History = Annotated[
    str,
    typer.Argument(
        metavar="HISTORY",
        help="Your items: JSON, JSONL, CSV, a LaMP profile, or a known site's export; - reads stdin.",
        show_default=False,
    ),
]
TaskName = Annotated[
    str | None,
    typer.Option(
        "--task",
        autocompletion=completing.task,
        metavar="T",
        help="Which question your items answer: a shipped task, a TOML file, or a task adapted "
        "before. (default: the release's)",
    ),
]
StoredTask = Annotated[
    str | None,
    typer.Option(
        "--task",
        autocompletion=completing.task,
        metavar="T",
        help="One of the tasks that you adapted: its name or its TOML file. (default: the only one)",
    ),
]
Form = Annotated[
    str | None,
    typer.Option(
        "--form",
        autocompletion=completing.one_of("json", "jsonl", "csv", "lamp", "whatsapp", "clippings"),
        help="json, jsonl, csv, lamp, whatsapp or clippings. (default: recognized)",
    ),
]
Columns = Annotated[
    list[str] | None,
    typer.Option(
        "--column",
        metavar="FIELD=NAME",
        help="Which column, or which path inside JSON (tweet.full_text), holds a field; FIELD= for "
        "none; repeatable.",
    ),
]
Scale = Annotated[
    str | None,
    typer.Option(
        "--scale",
        metavar="SCALE:RULE",
        help="How ratings become the task's: half-stars:round-up, quarter-stars:nearest, 1-10:1-5.",
    ),
]
DateOrder = Annotated[
    str | None,
    typer.Option(
        "--date-order",
        autocompletion=completing.one_of(*SETTINGS["date_order"].choices),
        metavar="ORDER",
        envvar=SETTINGS["date_order"].variable,
        help="dmy or mdy, for dates such as 03/04/2024.",
    ),
]
NoDate = Annotated[
    bool, typer.Option("--no-date", help="Read no dates; the file's order counts, oldest first.")
]
Sender = Annotated[
    str | None, typer.Option("--sender", metavar="NAME", help="Who you are in a chat's export.")
]
Yes = Annotated[
    bool, typer.Option("--yes", help="Take what a known export is said to hold; do not ask.")
]
MaxItems = Annotated[
    int | None,
    typer.Option(
        "--max-items",
        min=1,
        envvar=SETTINGS["max_items"].variable,
        help="Use only the newest items.",
    ),
]
Lenient = Annotated[
    bool,
    typer.Option(
        "--lenient/--no-lenient",
        envvar=SETTINGS["lenient"].variable,
        help="Leave faulty items out instead of stopping.",
    ),
]
MaxMemory = Annotated[
    float | None,
    typer.Option(
        "--max-memory",
        metavar="GIB",
        envvar=SETTINGS["max_memory"].variable,
        help="What the whole program may take of main memory; a GPU's own is used as far as free.",
    ),
]
BaseWeights = Annotated[
    str | None,
    typer.Option(
        "--base-weights",
        autocompletion=completing.one_of(*SETTINGS["base_weights"].choices),
        envvar=SETTINGS["base_weights"].variable,
        help="full, 8bit or 4bit: how the frozen base is held. (default: as when you adapted)",
    ),
]
Recompute = Annotated[
    bool,
    typer.Option(
        "--recompute/--no-recompute",
        envvar=SETTINGS["recompute"].variable,
        help="Recompute activations: less memory, about half more time.",
    ),
]
Retrieve = Annotated[
    str | None,
    typer.Option(
        "--retrieve",
        metavar="K",
        help="Put the K own items that fit best before every question, or all that there is room "
        "for. (default: as you adapted; 0 before)",
    ),
]
PrivateEpsilon = Annotated[
    str | None,
    typer.Option(
        "--private-epsilon",
        metavar="E",
        help="Train so that the adapter tells little of any single item: differential privacy with this "
        "epsilon, for example 8; off ends it. (default: as you adapted)",
    ),
]
PrivateDelta = Annotated[
    float | None,
    typer.Option(
        "--private-delta",
        metavar="D",
        help="The delta that --private-epsilon is stated at; below one over the number of items. "
        "(default: 1e-5)",
    ),
]
Resume = Annotated[bool, typer.Option("--resume", help="Go on where an interrupted run stopped.")]
Stage = Annotated[
    str | None,
    typer.Option(
        "--stage",
        autocompletion=completing.one_of("1", "2", "3"),
        help="1 population, 2 group, 3 personal. (default: the highest)",
    ),
]

AsJson = document.AsJson


def workspace(context: typer.Context) -> Workspace:
    """The folder and keys that the options before the command name. Raises what is wrong with settings."""
    session = context.ensure_object(Session)
    if session.fault is not None:
        raise session.fault
    keys = Keys(
        session.passphrase_file,
        session.key_file,
        session.weak_passphrase,
        session.unlock or "auto",
    )
    return Workspace(home(context), keys, threads=session.threads)


def home(context: typer.Context) -> Home:
    """The folder alone, whatever is wrong with settings. Raises StorageError if it is none."""
    found = Home.find(context.ensure_object(Session).home)
    found.check_folder()
    return found


def columns_of(pairs: list[str] | None) -> dict[str, str]:
    """`--column field=name` as a mapping; no name: nowhere. Raises ConfigError for anything else."""
    found = {}
    for pair in pairs or []:
        field, sign, name = pair.partition("=")
        if not sign or not field:
            raise ConfigError(
                "--column expects FIELD=NAME", hint="for example: --column title=Title"
            )
        if field in found:
            raise ConfigError(f"--column {field}: named twice", hint="name one column for a field")
        found[field] = name.strip()
    return found


def bytes_of(gib: float | None) -> int | None:
    """`--max-memory` in bytes. Raises ConfigError unless it is above zero."""
    if gib is None:
        return None
    if not 0 < gib < math.inf:
        raise ConfigError(
            f"--max-memory: expected a number of GiB above 0, got {gib}", hint="4, for example"
        )
    return int(gib * 2**30)


def readable_bytes(count: float) -> str:
    """1536 -> '1.5 KiB'."""
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} GiB"
