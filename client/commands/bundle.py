"""`proper bundle add|list|verify`: releases on this machine."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, Any

import typer

from client.commands import options as o
from client.terminal.console import print_line, print_table, progress_bars, say
from client.terminal.document import gives
from client.terminal.tables import Table
from proper_model.bundle.trusted_root import OWN_CHANNEL

app = typer.Typer(
    help="Install and check releases: the frozen model that your adapter is trained over.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)

Source = Annotated[
    str,
    typer.Argument(
        metavar="PATH_OR_URL", help="A release folder, or its https address.", show_default=False
    ),
]
Root = Annotated[
    Path | None,
    typer.Option("--root", help="The publisher's root.json; needed once, for an address."),
]
Base = Annotated[
    str | None,
    typer.Option("--base", help="Folder or hub id of the base that the release refers to."),
]


@app.command()
@gives("bundle add")
def add(
    context: typer.Context,
    source: Source,
    root: Root = None,
    base: Base = None,
) -> dict[str, Any]:
    """Install a release after verification; older ones are refused, a broken download goes on.

    It and `verify` open a connection for an address; of the other commands only `base add` and `start`
    do, for a base by name.
    """
    from client.releases.add import add_bundle

    home = o.workspace(context).home
    with progress_bars() as show:
        added = add_bundle(home, source, root=root, base=base, progress=show)
    for note in added.notes:
        say(note)
    for warning in added.bundle.warnings:
        say(f"warning: {warning}")
    what = "installed" if added.changed else "installed already"
    print_line(f"{added.bundle.called} ({added.bundle.bundle_id[:16]}) {what}")
    return {
        "release_version": added.bundle.version,
        "bundle_id": added.bundle.bundle_id,
        "changed": added.changed,
        "notes": list(added.notes),
        "warnings": [str(one) for one in added.bundle.warnings],
    }


@app.command("list")
@gives("bundle list")
def list_(context: typer.Context, as_json: o.AsJson = False) -> dict[str, Any]:
    """List the releases on this machine."""
    from client.releases.installed_list import list_bundles

    rows = list_bundles(o.workspace(context).home)
    found = {"releases": [dataclasses.asdict(row) for row in rows]}
    if as_json:
        return found
    if not rows:
        print_line(
            "no release is installed; add one with: proper bundle add PATH_OR_URL, or make your own with: "
            "proper start"
        )
        return found
    header = ("", "version", "id", "task", "preset", "base", "expires", "size")
    lines = tuple(
        (
            "current" if row.current else "",
            f"{row.version}, your own" if row.channel == OWN_CHANNEL else str(row.version),
            row.short_id,
            row.task,
            row.preset,
            row.base,
            row.expires[:10],
            o.readable_bytes(row.size_bytes),
        )
        for row in rows
    )
    print_table(Table("Releases", header, lines, labels=7))
    for row in rows:
        for warning in row.warnings:
            say(f"warning: {row.short_id}: {warning}")
    return found


@app.command()
@gives("bundle verify")
def verify(
    context: typer.Context,
    source: Annotated[
        str | None, typer.Argument(metavar="PATH_OR_URL", help="Left out: the installed release.")
    ] = None,
    root: Root = None,
    base: Base = None,
) -> dict[str, Any]:
    """Check a release, signature and every byte, without installing it."""
    from client.releases.verify import verify_bundle

    home = o.workspace(context).home
    with progress_bars() as show:
        found = verify_bundle(home, source, root=root, base=base, progress=show)
    for note in found.notes:
        say(note)
    for warning in found.warnings:
        say(f"warning: {warning}")
    print_line(
        f"release {found.manifest.version} ({found.bundle_id[:16]}, {found.relation}): "
        f"{len(found.manifest.files)} files, {o.readable_bytes(found.size_bytes)}, all as signed"
    )
    return {
        "release_version": found.manifest.version,
        "bundle_id": found.bundle_id,
        "relation": found.relation,
        "files": len(found.manifest.files),
        "size_bytes": found.size_bytes,
        "notes": list(found.notes),
        "warnings": [str(one) for one in found.warnings],
    }
