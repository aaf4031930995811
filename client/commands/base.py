"""`proper base add|list|show`: language models to train over, without a hub."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, Any

import typer

from client.commands import completing
from client.commands import options as o
from client.terminal.console import print_line, print_table, progress_bars, say
from client.terminal.document import gives
from client.terminal.tables import Table

app = typer.Typer(
    help="Language models to train over: fetched by name, or made from a GGUF file.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


@app.command()
@gives("base add")
def add(
    what: Annotated[
        str,
        typer.Argument(
            metavar="NAME|FILE",
            autocompletion=completing.base,
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
) -> dict[str, Any]:
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
    return {"folder": str(added.folder), "changed": added.changed}


@app.command("list")
@gives("base list")
def list_(as_json: o.AsJson = False) -> dict[str, Any]:
    """List the bases in the folder bases, and those that can be added by name."""
    from client.bases.listing import list_bases

    rows = list_bases()
    found = {"bases": [dataclasses.asdict(row) for row in rows]}
    if as_json:
        return found
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
    return found


@app.command()
@gives("base show")
def show(
    base: Annotated[str, typer.Argument(metavar="FOLDER", help="The folder of a base.")],
    as_json: o.AsJson = False,
) -> dict[str, Any]:
    """Check a base as a run would, and say what it is."""
    from client.bases.listing import describe_base

    facts = describe_base(base)
    if not as_json:
        for name, value in facts.items():
            shown = f"{value:,}" if type(value) is int else str(value)
            print_line(f"{name.replace('_', ' '):<22}{shown}")
    return {"facts": dict(facts)}
