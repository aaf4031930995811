"""A table of text: for a terminal or as Markdown."""

from __future__ import annotations

from dataclasses import dataclass

from rich.table import Table as RichTable
from rich.text import Text


@dataclass(frozen=True)
class Table:
    """`header` and `rows` hold text; the first `labels` columns are names, the rest numbers.

    The last column may be a `sentence`.
    """

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    labels: int = 1
    sentence: bool = False

    def is_text(self, column: int) -> bool:
        """Whether a column holds names or sentences, no numbers."""
        return column < self.labels or (self.sentence and column == len(self.header) - 1)


def to_markdown(table: Table) -> str:
    """A GitHub table; pipes inside cells are escaped."""
    rule = ["---" if table.is_text(place) else "---:" for place in range(len(table.header))]
    lines = [table.header, tuple(rule), *table.rows]
    return "\n".join(
        "| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines
    )


def to_rich(table: Table) -> RichTable:
    """The same for a terminal. Text is never read as markup."""
    drawn = RichTable(title=Text(table.title), title_justify="left")
    for place, name in enumerate(table.header):
        drawn.add_column(Text(name), justify="left" if table.is_text(place) else "right")
    for row in table.rows:
        drawn.add_row(*(Text(cell) for cell in row))
    return drawn
