"""`proper-sim exp`: experiments as commands. Each leaves a result file and a figure."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from client.terminal.console import print_line, print_table, say
from client.terminal.document import gives
from proper_model.errors import ConfigError
from simulations.experiments import benchmark_commands
from simulations.outcome.timings import progress_bars
from simulations.setup import cli_options as o
from simulations.setup.options import RunOptions

if TYPE_CHECKING:
    from simulations.experiments.schema import Experiment

app = typer.Typer(name="exp", no_args_is_help=True)

Parts = Annotated[
    int, typer.Option("--parts", metavar="K", help="In how many parts the second half arrives.")
]
SecondTask = Annotated[
    str, typer.Option("--second-task", metavar="T", help="Another shipped task or TOML file.")
]
SecondData = Annotated[
    str | None,
    typer.Option(
        "--second-data",
        metavar="DATA",
        help="Folder with the same users' second task. (default: DATA, whose items are asked twice)",
    ),
]


@app.callback()
def experiments() -> None:
    """Experiments on one person's device, with many users of one machine."""


@app.command()
@gives("exp drift")
@o.takes_experiment_options
def drift(options: RunOptions, parts: Parts = 2) -> dict[str, Any]:
    """Measure `update` on a time-ordered history against training anew and doing nothing.

    DATA is a folder with OPPU's or LaMP's files, or 'demo' for synthetic people who change.
    """
    from simulations.experiments.drift import drift as measure

    (run,) = options.runs()
    with progress_bars() as show:
        result = measure(run, parts=parts, progress=show)
    return _leave(result, options.out)


@app.command()
@gives("exp multitask")
@o.takes_experiment_options
def multitask(
    options: RunOptions, second_task: SecondTask, second_data: SecondData = None
) -> dict[str, Any]:
    """Measure one embedding shared by two tasks of the same users against one a task."""
    from simulations.experiments.multitask import multitask as measure

    (run,) = options.runs()
    with progress_bars() as show:
        result = measure(run, second_data=second_data, second_task=second_task, progress=show)
    return _leave(result, options.out)


benchmark_commands.add_to(app)


@app.command()
@gives("exp table")
def table(
    sources: Annotated[list[Path], typer.Argument(metavar="RESULT...", help="Result files.")],
    markdown: o.Markdown = False,
    only: Annotated[
        benchmark_commands.Only | None,
        typer.Option(
            help="Of benchmarks: means of all methods, differences that stages are claimed for, or "
            "what learning a person took. (default: everything)",
            show_default=False,
        ),
    ] = None,
) -> dict[str, Any]:
    """Print the tables of finished experiments."""
    from simulations.experiments.benchmark_schema import BenchmarkResult, read_result
    from simulations.setup.documents import Benchmark, Experiment, fields_of

    found = [read_result(path) for path in sources]
    benchmarks = [result for result in found if isinstance(result, BenchmarkResult)]
    if only is not None and len(benchmarks) < len(found):
        raise ConfigError(
            "--only chooses a part of benchmarks, and not all of these files are benchmarks",
            hint="leave --only out, or those files",
        )
    for number, result in enumerate(r for r in found if not isinstance(r, BenchmarkResult)):
        if number:
            print_line()
        _print(result, markdown=markdown)
    if benchmarks:
        benchmark_commands.print_benchmarks(benchmarks, markdown=markdown, only=only)
    told: dict[type, list[dict[str, Any]]] = {Experiment: [], Benchmark: []}
    for path, one in zip(sources, found, strict=True):
        part = Benchmark if isinstance(one, BenchmarkResult) else Experiment
        told[part].append({"source": str(path), **fields_of(part, one)})
    return {"experiments": told[Experiment], "benchmarks": told[Benchmark]}


@app.command()
@gives("exp page")
def page(
    sources: Annotated[list[Path], typer.Argument(metavar="RESULT...", help="Benchmarks.")],
    out: Annotated[
        Path,
        typer.Option(
            metavar="PAGE", help="HTML file to write; of several benchmarks others beside it."
        ),
    ],
) -> dict[str, Any]:
    """Write the page of a finished benchmark; of several one that compares them, and a page each."""
    from proper_model.storage.files import storage_errors
    from simulations.experiments.benchmark_page import write_pages
    from simulations.experiments.benchmark_schema import read_benchmark

    o.check_page(out)

    with storage_errors(out):
        written = write_pages([read_benchmark(path) for path in sources], out)
    say(f"page: {out}" + (f", and beside it {len(written) - 1} more" if len(written) > 1 else ""))
    return {"page": str(out), "pages": list(map(str, written)), "sources": len(sources)}


def _print(result: Experiment, *, markdown: bool = False) -> None:
    from simulations.experiments.show import difference_table, fact_table, result_table

    for number, shown in enumerate(
        (result_table(result), difference_table(result), fact_table(result))
    ):
        if markdown:
            print_line(("" if number == 0 else "\n") + f"**{shown.title}**\n")
        print_table(shown, markdown=markdown)
    for note in result.notes:
        print_line(f"\n- {note}" if markdown else f"note: {note}")


def _leave(result: Experiment, out: Path) -> dict[str, Any]:
    """Write result and figure into `out`, and print the tables; what a program is told of it."""
    from proper_model.storage.files import storage_errors, write_atomic
    from simulations.experiments.show import loss_figure
    from simulations.outcome.results import write_document
    from simulations.setup import documents

    path = out / f"{result.experiment}.json"
    figure = path.with_suffix(".svg")
    with storage_errors(out):
        out.mkdir(parents=True, exist_ok=True)
        write_document(result, path)
        write_atomic(figure, loss_figure(result).file().encode())
    _print(result)
    say(f"result: {path}, figure: {figure.name}")
    told = documents.fields_of(documents.Experiment, result)
    return {"result": str(path), "figure": str(figure), **told}
