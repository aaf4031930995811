"""One person from start to end: the parts of `proper adapt`, and first tokens."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.results.schema import PersonRun
from client.terminal.tables import Table

MIB = 2**20
CLOCKS = ("cpu_s", "wall_s")


def person_table(runs: Sequence[PersonRun]) -> Table:
    """A row a part, two columns a base: CPU seconds, and seconds by the clock."""
    parts = dict.fromkeys(name for run in runs for name in run.parts)
    rows = [[name] for name in (*parts, "whole", "first token of generate")]
    rows += [["first token of a warm serve"], ["peak, MiB"]]
    for run in runs:
        whole = [sum(getattr(part, clock) for part in run.parts.values()) for clock in CLOCKS]
        cells = [
            *([f"{getattr(run.parts[name], clock):.1f}" for clock in CLOCKS] for name in parts),
            [f"{seconds:.1f}" for seconds in whole],
            ["", f"{run.generate_s:.1f}"],
            ["", f"{run.serve_s:.2f}"],
            ["", f"{run.peak_bytes / MIB:,.0f}"],
        ]
        for row, own in zip(rows, cells, strict=True):
            row += own
    header = [f"{run.base}: {name}" for run in runs for name in ("CPU s", "seconds")]
    what = ", ".join(f"{run.items} items of {run.data} over {run.base}" for run in runs)
    return Table(f"proper from start to end, {what}", ("part", *header), tuple(map(tuple, rows)))
