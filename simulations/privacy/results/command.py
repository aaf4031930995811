"""`proper-sim privacy table`: finished attacks again, from their files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from client.terminal.console import print_line, print_table
from simulations.setup import cli_options as o


def table(
    sources: Annotated[list[Path], typer.Argument(metavar="RESULT...", help="Result files.")],
    markdown: o.Markdown = False,
) -> None:
    """Print the main table of finished attacks, a line for a record of processing each."""
    from simulations.privacy.results.kinds import read_result

    for number, path in enumerate(sources):
        _, shown = read_result(path)
        if number:
            print_line()
        if markdown:
            print_line(f"**{shown.title}**\n")
        print_table(shown.tables[0], markdown=markdown)
        for line in [*shown.sentences, *(f"a control failed: {line}" for line in shown.failed)]:
            print_line(f"\n- {line}" if markdown else f"note: {line}")
