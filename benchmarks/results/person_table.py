"""One person from start to end: the parts of `proper adapt`, and first tokens."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.results.schema import Part, PersonRun
from client.terminal.tables import Table

MIB = 2**20
NONE = "–"
CLOCKS = ("cpu_s", "wall_s")


def person_table(runs: Sequence[PersonRun]) -> Table:
    """A row a part, two columns a base: CPU seconds, and seconds by the clock."""
    parts = dict.fromkeys(name for run in runs for name in run.parts)
    rows = [[name] for name in (*parts, "whole", "first token of generate")]
    rows += [["first token of a warm serve"], ["peak, MiB"]]
    for run in runs:
        spent = [run.parts.get(name) for name in parts]
        cells = [
            *([NONE] * 2 if one is None else _seconds([one]) for one in spent),
            _seconds(list(run.parts.values())),
            ["", f"{run.generate_s:.1f}"],
            ["", f"{run.serve_s:.2f}"],
            ["", f"{run.peak_bytes / MIB:,.0f}"],
        ]
        for row, own in zip(rows, cells, strict=True):
            row += own
    header = [f"{run.base}: {name}" for run in runs for name in ("CPU s", "seconds")]
    what = ", ".join(
        f"{run.items} items of {run.data}, {run.tokens / run.items:.0f} tokens each, over {run.base}"
        for run in runs
    )
    return Table(f"proper from start to end, {what}", ("part", *header), tuple(map(tuple, rows)))


def _seconds(parts: Sequence[Part]) -> list[str]:
    """Of all these together, by both clocks."""
    return [f"{sum(getattr(part, clock) for part in parts):.1f}" for clock in CLOCKS]
