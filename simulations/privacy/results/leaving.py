"""What every attack leaves in OUT, and what it says: the same files and words for all of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from client.terminal.console import print_line, print_table, say
from client.terminal.tables import Table, to_markdown
from proper_model.storage.files import storage_errors, write_atomic
from simulations.outcome.results import write_document
from simulations.privacy.results.seeded import SeededResult
from simulations.privacy.statistics.shares import Control
from simulations.reporting.figures import BLUE, GREY, ORANGE
from simulations.reporting.report import TEMPLATES as SHARED_TEMPLATES
from simulations.reporting.report import page_environment

TEMPLATES = Path(__file__).resolve().parent / "templates"
COLOURS: Mapping[Control, str] = {"none": BLUE, "positive": ORANGE, "negative": GREY}


def page(template: str, **content: Any) -> str:
    """A page of one of our templates as text."""
    return page_environment(TEMPLATES, SHARED_TEMPLATES).get_template(template).render(**content)


def leave(
    result: SeededResult,
    path: Path,
    *,
    tables: Sequence[Table],
    html: str,
    said: Sequence[str],
    failed: Sequence[str],
) -> None:
    """Write `path` (.json), and beside it tables (.md) and page (.html); print the first table and sentences.

    Args:
        failed: controls that did not do what they must.
    """
    with storage_errors(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_document(result, path)
        markdown = "\n\n".join(map(to_markdown, tables)) + "\n"
        write_atomic(path.with_suffix(".md"), markdown.encode())
        write_atomic(path.with_suffix(".html"), html.encode())
    print_table(tables[0])
    for line in said:
        print_line(line)
    for line in failed:
        say(f"warning: {line}")
    say(f"result: {path}, page: {path.stem}.html")
