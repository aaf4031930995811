"""`proper-sim privacy table`: finished attacks again, from their files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from client.terminal.console import print_line, print_table
from simulations.setup import cli_options as o

if TYPE_CHECKING:
    from simulations.privacy.results.leaving import Shown


def table(
    sources: Annotated[list[Path], typer.Argument(metavar="RESULT...", help="Result files.")],
    markdown: o.Markdown = False,
) -> None:
    """Print the main table of finished attacks, a line for a record of processing each."""
    for number, path in enumerate(sources):
        shown = shown_of(path)
        if number:
            print_line()
        if markdown:
            print_line(f"**{shown.title}**\n")
        print_table(shown.tables[0], markdown=markdown)
        for line in [*shown.sentences, *(f"a control failed: {line}" for line in shown.failed)]:
            print_line(f"\n- {line}" if markdown else f"note: {line}")


def shown_of(path: Path) -> Shown:
    """What an attack's file tells. Raises ReportError for a file that is none."""
    from simulations.outcome.results import experiment_in
    from simulations.privacy.results import backdoor_schema, backdoor_show, canary_schema
    from simulations.privacy.results import canary_show, deletion_schema, deletion_show
    from simulations.privacy.results import epsilon_schema, epsilon_show, poison_schema
    from simulations.privacy.results import poison_show, rates, rates_show, schema, show

    named = experiment_in(path)
    if named == "canaries":
        return canary_show.shown(canary_schema.read_canaries(path))
    if named == "backdoor":
        return backdoor_show.shown(backdoor_schema.read_backdoor(path))
    if named == "deletion":
        return deletion_show.shown(deletion_schema.read_deletion(path))
    if named == "epsilon":
        return epsilon_show.shown(epsilon_schema.read_epsilon(path))
    if named == "poisoning":
        return poison_show.shown(poison_schema.read_poisoning(path))
    if named in ("linkage", "inversion"):
        return rates_show.shown(rates.read_rates(path))
    return show.shown(schema.read_privacy(path))
