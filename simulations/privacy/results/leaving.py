"""What every attack leaves in OUT, and what it says: the same files and words for all of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jinja2 import Template

from client.terminal.console import print_line, print_table, say
from client.terminal.tables import Table, to_markdown
from proper_model.storage.files import storage_errors, write_atomic
from simulations.outcome.results import write_document
from simulations.privacy.results.seeded import SeededResult
from simulations.privacy.statistics.shares import Control
from simulations.reporting.figures import Figure
from simulations.reporting.report import TEMPLATES as SHARED_TEMPLATES
from simulations.reporting.report import page_environment

TEMPLATES = Path(__file__).resolve().parent / "templates"
# How a figure marks them (`charts.TONES`), and what it calls them.
TONES: Mapping[Control, str] = {"none": "one", "positive": "two", "negative": "rest"}
CALLED: Mapping[Control, str] = {
    "none": "attack",
    "positive": "must succeed",
    "negative": "must not",
}


@dataclass(frozen=True)
class Shown:
    """What is shown of a result, on its page and on the terminal.

    Attributes:
        title: what was attacked, in one line.
        template: of the page, one that extends `attack.html.j2`.
        draw: draws the page's figures, by their names there; it takes most of the time, and only a page needs it.
        sentences: for a record of processing.
        failed: controls that did not do what they must.
        also_said: after the sentences on the terminal, where the attack is made.
        more: what else the template needs, by name.
    """

    title: str
    template: str
    tables: Sequence[Table]
    draw: Callable[[], Mapping[str, Figure | None]]
    sentences: Sequence[str]
    failed: Sequence[str]
    also_said: Sequence[str] = ()
    more: Mapping[str, Any] = field(default_factory=dict)


def render(result: SeededResult, shown: Shown) -> str:
    """The page as text."""
    return page_template(shown.template).render(
        result=result,
        title=shown.title,
        tables=shown.tables,
        sentences=shown.sentences,
        failed=shown.failed,
        **shown.draw(),
        **shown.more,
    )


def page_template(name: str) -> Template:
    """A page of `templates`, which may use what all pages share."""
    return page_environment(TEMPLATES, SHARED_TEMPLATES).get_template(name)


def leave(result: SeededResult, path: Path, shown: Shown) -> dict[str, str]:
    """Write `path` (.json), and beside it tables (.md) and page (.html); print the first table and sentences.

    Returns the three files by what they are.
    """
    table, page = path.with_suffix(".md"), path.with_suffix(".html")
    with storage_errors(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_document(result, path)
        markdown = "\n\n".join(map(to_markdown, shown.tables)) + "\n"
        write_atomic(table, markdown.encode())
        write_atomic(page, render(result, shown).encode())
    print_table(shown.tables[0])
    for line in (*shown.sentences, *shown.also_said):
        print_line(line)
    for line in shown.failed:
        say(f"warning: {line}")
    say(f"result: {path}, page: {page.name}")
    return {"result": str(path), "table": str(table), "page": str(page)}
