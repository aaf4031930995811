"""`proper doctor`: what may stand in the way on this machine."""

from __future__ import annotations

import typer

from client.commands import options as o
from client.terminal.console import print_table
from client.terminal.tables import Table
from proper_model.errors import UnfitError

SIGNS = {True: "ok", False: "mend", None: ""}


def doctor(context: typer.Context) -> None:
    """Check software, folder, release, vault and machine. Needs no key, tells nothing private."""
    from client.commands.doctor_lines import examine

    found = examine(o.workspace(context).home)
    rows = tuple((SIGNS[one.ok], one.name, one.told) for one in found)
    print_table(Table("proper doctor", ("", "what", "found"), rows, labels=3))
    broken = [one.name for one in found if one.ok is False]
    if broken:
        raise UnfitError(f"to be mended: {', '.join(broken)}", hint="the table says what was found")
