"""One self-contained HTML page from one or several benchmarks; nothing in it is fetched or executed.

Numbers come from result files. A person's text enters only through an `Example`, which the caller makes
for synthetic people, or for real ones on request (`--show-examples`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from client.terminal.tables import Table
from proper_model.evaluation import LOWER_IS_BETTER
from proper_model.storage.files import make_private_folder, write_atomic
from simulations.experiments.benchmark_brief import brief_tables
from simulations.experiments.benchmark_figures import draw
from simulations.experiments.benchmark_schema import BenchmarkResult
from simulations.experiments.benchmark_tables import (
    Standing,
    beside_the_paper,
    joined_table,
    sentences,
    standing,
    tables_of,
    title,
)
from simulations.experiments.comparing import THRESHOLD
from simulations.reporting.figures import Figure
from simulations.reporting.report import TEMPLATES as SHARED_TEMPLATES
from simulations.reporting.report import Example, page_environment

TEMPLATES = Path(__file__).resolve().parent / "templates"


@dataclass(frozen=True)
class Section:
    """One benchmark on the page."""

    result: BenchmarkResult
    anchor: str
    title: str
    tables: tuple[Table, ...]
    figures: tuple[Figure, ...]
    sentences: tuple[str, ...]
    standing: Standing
    example: Example | None = None


def section(result: BenchmarkResult, anchor: str, example: Example | None = None) -> Section:
    """Tables, sentences and figures of one benchmark."""
    return Section(
        result=result,
        anchor=anchor,
        title=title(result),
        tables=tuple(tables_of(result)),
        figures=tuple(draw(result, anchor)),
        sentences=tuple(sentences(result)),
        standing=standing(result),
        example=example,
    )


def render(sections: Sequence[Section]) -> str:
    """The page as text."""
    results = [part.result for part in sections]
    template = page_environment(TEMPLATES, SHARED_TEMPLATES).get_template("benchmark.html.j2")
    return template.render(
        sections=sections,
        brief=brief_tables(results) if len(results) > 1 else [],
        joined=joined_table(results) if len(results) > 1 else None,
        paper=beside_the_paper(results),
        lower_is_better=sorted(LOWER_IS_BETTER),
        threshold=THRESHOLD,
    )


def write_page(
    results: Sequence[BenchmarkResult],
    target: Path,
    *,
    examples: Sequence[Example | None] = (),
) -> tuple[Section, ...]:
    """Write the page; `examples[i]` is shown with `results[i]`."""
    shown = [*examples, *(None for _ in results[len(examples) :])]
    sections = tuple(
        section(result, f"set{number}", example)
        for number, (result, example) in enumerate(zip(results, shown, strict=True))
    )
    make_private_folder(target.parent)
    write_atomic(target, render(sections).encode())
    return sections
