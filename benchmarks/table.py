"""`python -m benchmarks.table`: benchmark files of any kind as tables, for a terminal or a document."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from benchmarks.command import start
from benchmarks.results import machine_notes, read_sources, shown
from client.terminal.console import print_line, print_table

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def run(
    sources: Annotated[list[Path], typer.Argument(help="JSON of any benchmark.")],
    markdown: Annotated[bool, typer.Option("--markdown", help="For a document.")] = False,
) -> None:
    """Print what the files hold, and where they were measured.

    Settings that differ in users alone become one growth table.
    """
    found = read_sources(sources)
    for table, notes in shown(found):
        if markdown:
            print_line(f"**{table.title}**\n")
        print_table(table, markdown=markdown)
        print_line()
        for note in notes:
            print_line(f"* {note}")
        if notes:
            print_line()
    for line in machine_notes(found):
        print_line(line)


if __name__ == "__main__":
    start(app)
