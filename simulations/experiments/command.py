"""`proper-sim exp`: experiments as commands. Each leaves a result file and a figure."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from client.terminal.console import print_line, print_table, say
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
@o.takes_experiment_options
def drift(options: RunOptions, parts: Parts = 2) -> None:
    """Measure `update` on a time-ordered history against training anew and doing nothing.

    DATA is a folder with OPPU's or LaMP's files, or 'demo' for synthetic people who change.
    """
    from simulations.experiments.drift import drift as measure

    (run,) = options.runs()
    with progress_bars() as show:
        result = measure(run, parts=parts, progress=show)
    _leave(result, options.out)


@app.command()
@o.takes_experiment_options
def multitask(options: RunOptions, second_task: SecondTask, second_data: SecondData = None) -> None:
    """Measure one embedding shared by two tasks of the same users against one a task."""
    from simulations.experiments.multitask import multitask as measure

    (run,) = options.runs()
    with progress_bars() as show:
        result = measure(run, second_data=second_data, second_task=second_task, progress=show)
    _leave(result, options.out)


benchmark_commands.add_to(app)


@app.command()
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
) -> None:
    """Print the tables of finished experiments."""
    from simulations.experiments.benchmark_schema import BenchmarkResult, read_result

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


@app.command()
def page(
    sources: Annotated[list[Path], typer.Argument(metavar="RESULT...", help="Benchmarks.")],
    out: Annotated[
        Path,
        typer.Option(
            metavar="PAGE", help="HTML file to write; of several benchmarks others beside it."
        ),
    ],
) -> None:
    """Write the page of a finished benchmark; of several one that compares them, and a page each."""
    from proper_model.storage.files import storage_errors
    from simulations.experiments.benchmark_page import write_pages
    from simulations.experiments.benchmark_schema import read_benchmark

    with storage_errors(out):
        written = write_pages([read_benchmark(path) for path in sources], out)
    say(f"page: {out}" + (f", and beside it {len(written) - 1} more" if len(written) > 1 else ""))


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


def _leave(result: Experiment, out: Path) -> None:
    """Write result and figure into `out`, and print the tables."""
    from proper_model.storage.files import storage_errors, write_atomic
    from simulations.experiments.show import loss_figure
    from simulations.outcome.results import write_document

    with storage_errors(out):
        out.mkdir(parents=True, exist_ok=True)
        path = out / f"{result.experiment}.json"
        write_document(result, path)
        figure = loss_figure(result).file()
        write_atomic(path.with_suffix(".svg"), figure.encode())
    _print(result)
    say(f"result: {path}, figure: {path.with_suffix('.svg').name}")
