"""`python -m benchmarks.device_table`: the tables of `benchmarks.device`'s JSON file.

What was measured for one person on this machine, and what the memory model predicts for larger
bases. Every number is a stored one.
"""

from __future__ import annotations

from pathlib import Path
from statistics import median
from typing import Annotated

import typer

from benchmarks.command import start
from benchmarks.schema import read_as
from benchmarks.schema_device import DeviceReport, Foretold
from client.terminal.console import print_line, print_table
from client.terminal.tables import Table

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
GIB = 2**30
MIB = 2**20


def measured(report: DeviceReport) -> Table:
    """Seconds and peak of the whole process by how the base is held."""
    rows = tuple(
        (
            one.base_weights,
            "yes" if one.recompute else "no",
            f"{median(one.seconds):.0f}",
            f"{median(one.peak_bytes) / MIB:,.0f}",
        )
        for one in report.adaptations
    )
    header = ("base weights", "recompute", "seconds", "peak of the process, MiB")
    title = f"proper adapt, {report.items} items of {report.data}, preset {report.preset}"
    return Table(title, header, rows, labels=2)


def foretold(report: DeviceReport) -> Table:
    """GiB of base and training by shape: one row a way to hold the base."""
    rows = []
    plain = {_key(one): one for one in report.foretold if not one.recompute}
    for one in report.foretold:
        if one.recompute:
            whole = plain[_key(one)]
            rows.append(
                (
                    one.shape,
                    one.dtype or "",
                    one.weights,
                    f"{one.base_bytes / GIB:.2f}",
                    "" if one.loading_bytes is None else f"{one.loading_bytes / GIB:.2f}",
                    f"{whole.training_bytes / GIB:.2f}",
                    f"{one.training_bytes / GIB:.2f}",
                )
            )
    header = (
        *("base", "computed in", "weights", "base, GiB", "loading it, GiB"),
        *("training, GiB", "training, recomputed, GiB"),
    )
    title = f"memory model, samples of {report.sample_tokens} tokens"
    return Table(title, header, tuple(rows), labels=2)


def _key(one: Foretold) -> tuple[str, str | None, str]:
    return one.shape, one.dtype, one.weights


@app.command()
def run(
    source: Annotated[Path, typer.Argument(help="JSON of benchmarks.device.")],
    markdown: Annotated[bool, typer.Option("--markdown", help="For a README.")] = False,
) -> None:
    """Print both tables and where they were measured."""
    report = read_as(DeviceReport, source, "device")
    print_table(measured(report), markdown=markdown)
    print_line()
    print_table(foretold(report), markdown=markdown)
    print_line()
    hardware = report.hardware
    rounds = len(report.adaptations[0].seconds)
    print_line(
        f"* Measured on {hardware.cpu}, {hardware.cores} cores; threads: {report.threads}, "
        f"rounds: {rounds}; code {report.commit[:12]}."
    )


def main() -> None:
    """The command."""
    start(app)


if __name__ == "__main__":
    main()
