"""What users gain from sharing passes, by how many train together: a column a size.

Every cell is the engine's stored ratio against the naive loop at batch 1 in the same setting.
"""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.schema import BenchReport
from benchmarks.show import times
from benchmarks.sources import Source
from benchmarks.targets import RIVAL_DTYPE, race_of
from client.terminal.tables import Table

HIDDEN = {"overhead": 64, "small": 256, "mini": 256, "7b": 4096}  # of `sizes`, which needs torch
NONE = "–"


def growth_table(sources: Sequence[Source]) -> Table | None:
    """A row a number of users; None if no file holds several numbers of users on a CPU."""
    columns: dict[tuple[int, str], dict[int, str]] = {}
    for number, source in enumerate(sources):
        report = source.report
        if not isinstance(report, BenchReport) or report.device != "cpu":
            continue
        for setting in report.settings:
            race = race_of(setting, RIVAL_DTYPE)
            ratio = race.ratio(race.naive) if race else None
            if ratio is not None:
                what = f"{setting.tokens} tokens" if setting.lengths == "fixed" else setting.lengths
                width = f"hidden {HIDDEN[setting.size]} ({setting.size})"
                name = f"{width}, {what}, {setting.samples} a user"
                columns.setdefault((number, name), {})[setting.users] = times(ratio)
    columns = {key: cells for key, cells in columns.items() if len(cells) > 1}
    if not columns:
        return None
    counts = sorted({users for cells in columns.values() for users in cells})
    rows = tuple(
        (str(users), *(cells.get(users, NONE) for cells in columns.values())) for users in counts
    )
    title = "The engine as a multiple of the naive loop at batch 1, by users trained together"
    return Table(title, ("users together", *(name for _, name in columns)), rows)
