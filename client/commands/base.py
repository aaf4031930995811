"""`proper base add|list|show`: language models to train over, without a hub."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Annotated

import typer

from client.commands import options as o
from client.terminal.console import print_line, print_table, progress_bars, say
from client.terminal.tables import Table

app = typer.Typer(
    help="Language models to train over: fetched by name, or made from a GGUF file.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


@app.command()
def add(
    what: Annotated[
        str,
        typer.Argument(
            metavar="NAME|FILE",
            help="A name that `list` shows, FILE.gguf, or the known base's wheel as a file.",
            show_default=False,
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option("--out", help="The folder to make. (default: bases/NAME)", show_default=False),
    ] = None,
    plain: Annotated[
        bool,
        typer.Option(
            "--plain",
            help="Leave the chat template out: short prompts are a third as long, and stage 1 "
            "teaches how to answer.",
        ),
    ] = False,
) -> None:
    """Make a folder of a base, for --base of proper-sim; whole or not at all.

    By name it is downloaded with pip, from the package index that pip is set to; of a file nothing
    leaves or reaches this machine. Hashes are checked before anything is unpacked.
    """
    from client.bases.adding import add_base

    with progress_bars() as show:
        added = add_base(what, out, show, plain=plain)
    if not added.changed:
        say("it is there already, from the same file")
    print_line(str(added.folder))


@app.command("list")
def list_(as_json: o.AsJson = False) -> None:
    """List the bases in the folder bases, and those that can be added by name."""
    from client.bases.listing import list_bases

    rows = list_bases()
    if as_json:
        for row in rows:
            print_line(json.dumps(dataclasses.asdict(row), sort_keys=True))
        return
    header = ("name", "folder", "license", "parameters", "size")
    lines = tuple(
        (
            row.name,
            row.folder or "(not here; proper base add)",
            row.license,
            f"{row.parameters:,}" if row.parameters else "",
            o.readable_bytes(row.size_bytes),
        )
        for row in rows
    )
    print_table(Table("Bases", header, lines, labels=3))


@app.command()
def show(
    base: Annotated[str, typer.Argument(metavar="FOLDER", help="The folder of a base.")],
    as_json: o.AsJson = False,
) -> None:
    """Check a base as a run would, and say what it is."""
    from client.bases.listing import describe_base

    facts = describe_base(base)
    if as_json:
        print_line(json.dumps(facts, sort_keys=True, ensure_ascii=False))
        return
    for name, value in facts.items():
        shown = f"{value:,}" if type(value) is int else str(value)
        print_line(f"{name.replace('_', ' '):<22}{shown}")
