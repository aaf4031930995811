"""Self-contained HTML pages from benchmarks; nothing in them is fetched or executed.

One benchmark is a page. Several are a page each, and one that compares them and links to the others, so
that every page opens at once on a phone. Numbers come from result files. A person's text enters only through
an `Example`, which the caller makes for synthetic people, or for real ones on request (`--show-examples`).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Template

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
UNSAFE = re.compile(
    r"[^A-Za-z0-9_.-]"
)  # in a file name; no task is named so, but any file may say it is
KEY = "set"  # before every id of a figure


@dataclass(frozen=True)
class Section:
    """One benchmark as its page shows it."""

    result: BenchmarkResult
    title: str
    tables: tuple[Table, ...]
    figures: tuple[Figure, ...]
    sentences: tuple[str, ...]
    standing: Standing
    example: Example | None = None


def section(result: BenchmarkResult, example: Example | None = None) -> Section:
    """Tables, sentences and figures of one benchmark."""
    return Section(
        result=result,
        title=title(result),
        tables=tuple(tables_of(result)),
        figures=tuple(draw(result, KEY)),
        sentences=tuple(sentences(result)),
        standing=standing(result),
        example=example,
    )


def render(part: Section, above: str | None = None) -> str:
    """A benchmark's page as text; `above` is the file name of the page that compares it with others."""
    return _template("benchmark.html.j2").render(
        part=part, above=above, **_explained([part.result])
    )


def render_comparison(results: Sequence[BenchmarkResult], names: Sequence[str]) -> str:
    """The page that compares several, which links to the files of these names, as text."""
    return _template("benchmarks.html.j2").render(
        sets=[
            {
                "task": result.task,
                "title": title(result),
                "tally": standing(result).tally,
                "page": name,
            }
            for result, name in zip(results, names, strict=True)
        ],
        brief=brief_tables(results),
        joined=joined_table(results),
        **_explained(results),
    )


def _template(name: str) -> Template:
    return page_environment(TEMPLATES, SHARED_TEMPLATES).get_template(name)


def _explained(results: Sequence[BenchmarkResult]) -> dict[str, object]:
    """What any of the pages says about how to read it."""
    return {
        "paper": beside_the_paper(results),
        "lower_is_better": sorted(LOWER_IS_BETTER),
        "threshold": THRESHOLD,
    }


def write_page(result: BenchmarkResult, target: Path, *, example: Example | None = None) -> Section:
    """Write one benchmark's page."""
    made = section(result, example)
    _write(target, render(made))
    return made


def write_pages(results: Sequence[BenchmarkResult], target: Path) -> list[Path]:
    """Write the pages of several benchmarks: the comparison as `target`, beside it one of each."""
    if len(results) == 1:
        write_page(results[0], target)
        return [target]
    beside = [target.with_name(name) for name in page_names(results, target)]
    _write(target, render_comparison(results, [path.name for path in beside]))
    for result, path in zip(results, beside, strict=True):
        _write(path, render(section(result), target.name))
    return [target, *beside]


def page_names(results: Sequence[BenchmarkResult], target: Path) -> list[str]:
    """A file name a benchmark, by its task; all with their number where two would be one file."""
    tasks = [UNSAFE.sub("_", result.task) for result in results]
    alike = len({task.casefold() for task in tasks}) < len(tasks)
    return [
        f"{target.stem}-{f'{number}-' if alike else ''}{task}.html"
        for number, task in enumerate(tasks, 1)
    ]


def _write(target: Path, text: str) -> None:
    make_private_folder(target.parent)
    write_atomic(target, text.encode())
