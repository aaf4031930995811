"""`proper-sim privacy table`: finished attacks again, from their files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from client.terminal.console import print_line, print_table
from simulations.setup import cli_options as o


def table(
    sources: Annotated[list[Path], typer.Argument(metavar="RESULT...", help="Result files.")],
    markdown: o.Markdown = False,
) -> dict[str, Any]:
    """Print the main table of finished attacks, a line for a record of processing each."""
    from simulations.privacy.results.kinds import read_result
    from simulations.privacy.results.told import told_of

    told = []
    for number, path in enumerate(sources):
        result, shown = read_result(path)
        told.append({"source": str(path), **told_of(result, shown)})
        if number:
            print_line()
        if markdown:
            print_line(f"**{shown.title}**\n")
        print_table(shown.tables[0], markdown=markdown)
        for line in [*shown.sentences, *(f"a control failed: {line}" for line in shown.failed)]:
            print_line(f"\n- {line}" if markdown else f"note: {line}")
    return {"results": told}
