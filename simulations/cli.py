"""`proper-sim`: simulate PROPER on many users of one machine.

stdout is data (tables, commands, paths), stderr is progress, errors and hints. Every error that
PROPER knows has its own exit code (`proper_model.errors`); 2 is wrong usage, 1 is a bug, 130 is
Ctrl-C. Conventions: age's `proper: error:` and `proper: hint:` lines.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from client.terminal.command_line import begin, run_command, start
from client.terminal.console import print_line, print_table, say
from client.terminal.document import gives, session_of
from client.terminal.examples import add_examples
from proper_model.errors import ConfigError, DataError, InterruptedRunError
from proper_model.tasks import counted
from simulations.experiments.command import app as experiments
from simulations.outcome.timings import progress_bars
from simulations.privacy.commands import app as privacy
from simulations.setup import cli_options as o
from simulations.setup.examples import EXAMPLES
from simulations.setup.options import DEMOS, RunOptions, missing_task
from simulations.setup.run_folder import check_out

if TYPE_CHECKING:
    from proper_model.data import ValidationReport

app = typer.Typer(
    name="proper-sim",
    help="Simulate PROPER: population, group and user level on many users of one machine.",
    invoke_without_command=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(experiments)
app.add_typer(privacy)


@app.callback()
def before(
    context: typer.Context,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False,
    version: Annotated[bool, typer.Option("--version", help="Show the version.")] = False,
) -> None:
    """Simulate PROPER: population, group and user level on many users of one machine."""
    begin(context, debug=debug, version=version)


@app.command()
@gives("validate")
def validate(
    data: o.Data,
    task: o.TaskName = None,
    template: o.TaskTemplate = None,
    columns: o.Columns = None,
) -> dict[str, Any]:
    """Say what is in DATA and what is wrong with it, by file, record and field.

    DATA is a folder with OPPU's or LaMP's files, one file in OPPU's form, or a dataset.
    """
    from proper_model.tasks import load_task
    from simulations.reporting.tables import problem_lines, summary_table
    from simulations.setup.sources import validate_data

    if data in DEMOS:
        say(f"{data} makes its own people, which need no validation; start it with: run {data}")
        return {"makes_people": data}
    if task is None:
        raise missing_task()
    with progress_bars() as show:
        found = validate_data(data, load_task(task, template=template), columns, show)
    print_table(summary_table(found))
    for line in problem_lines(found):
        print_line(line)
    told = _validated(found)
    if not found.ok:
        session_of().found = told
        raise DataError(
            f"{data}: {counted(found.errors, 'error')}; a run would refuse these data",
            hint="each line above names its file, and record and field where there is one to mend",
        )
    return told


@app.command()
@gives("fetch")
def fetch(
    task: Annotated[str, typer.Argument(metavar="TASK", help="LaMP_1, LaMP_2M, ... LaMP_7.")],
    out: o.FetchOut,
    split: Annotated[str, typer.Option("--split", help="LaMP's own split: user or time.")] = "time",
) -> dict[str, Any]:
    """Download a LaMP task from its own server; a broken download goes on where it stopped."""
    from simulations.setup.fetch import fetch as download

    with progress_bars() as show:
        files = download(
            task,
            split,
            out,
            progress=lambda name, done, total: show(f"fetching {name}", done, total),
        )
    for file in files:
        print_line(f"{file.sha256}  {file.bytes:>12}  {file.records:>8}  {out / file.name}")
    return {
        "files": [
            {
                "file": str(out / file.name),
                "sha256": file.sha256,
                "size_bytes": file.bytes,
                "records": file.records,
            }
            for file in files
        ]
    }


@app.command()
@gives("prepare")
@o.takes_run_options
def prepare(options: RunOptions) -> dict[str, Any]:
    """Write OUT with plan and devices, and print the command that runs it through Flower."""
    if options.all_folds:
        raise ConfigError(
            "prepare writes one federation, so --folds needs --fold",
            hint="add --fold I, or use proper-sim run for all folds",
        )
    check_out(options.places)
    from simulations.setup.prepare import prepare as write

    (one,) = options.runs()
    _say_preset(options)
    with progress_bars() as show:
        write(one, show)
    launching = next_command("launch", options.out)
    print_line(launching)
    say(f"then: {next_command('score', options.out)}")
    return {"out": str(options.out), "next": launching}


@app.command()
@gives("launch")
def launch(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder that prepare wrote.")],
) -> dict[str, Any]:
    """Run a prepared federation through Flower, or go on with it; `score` comes after."""
    from simulations.pipeline import run_prepared

    with progress_bars() as show:
        run_prepared(out, show)
    scoring = next_command("score", out)
    say(f"then: {scoring}")
    return {"out": str(out), "next": scoring}


@app.command()
@gives("run")
@o.takes_run_options
def run(
    options: RunOptions,
    plan: o.Plan = False,
    show_examples: o.ShowExamples = False,
    tensorboard: o.Tensorboard = None,
) -> dict[str, Any]:
    """Train population and groups, personalize every test user through Flower, and score.

    DATA is a folder with OPPU's or LaMP's files, a dataset, or `demo` (also `demo:rate`, `demo:text`)
    for synthetic people with a task and a tiny base of their own.
    """
    check_out(options.places)
    _say_preset(options)
    if plan:
        return _print_costs(options)
    from simulations.pipeline import execute

    try:
        with progress_bars() as show:
            execute(options, show, show_examples=show_examples, tensorboard=tensorboard)
    except (KeyboardInterrupt, InterruptedRunError):
        raise InterruptedRunError(
            "interrupted",
            hint=f"go on with the same command and --resume; {options.out} keeps what is finished",
        ) from None
    return _print_run(options.out)


@app.command()
@gives("score")
def score(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder of a run.")],
    show_examples: o.ShowExamples = False,
) -> dict[str, Any]:
    """Recompute results.json and report.html from the devices' folders."""
    from simulations.pipeline import finish

    with progress_bars() as show:
        finish(out.resolve(), show, show_examples=show_examples)
    return _print_run(out)


@app.command()
@gives("report")
def report(
    sources: Annotated[list[Path], typer.Argument(metavar="RESULTS...", help="Results or runs.")],
    out: Annotated[
        Path | None, typer.Option("--out", help="HTML file (default: in the run, or here).")
    ] = None,
    show_examples: o.ShowExamples = False,
) -> dict[str, Any]:
    """Write one HTML report from one or several results files or run folders."""
    from simulations.pipeline import REPORT_FILE, report_sources

    o.check_page(out)

    target = out
    if target is None:
        alone = len(sources) == 1 and sources[0].is_dir()
        target = (sources[0] if alone else Path()) / REPORT_FILE
    report_sources(sources, target, show_examples=show_examples)
    print_line(str(target))
    return {"page": str(target), "sources": len(sources)}


@app.command()
@gives("table")
def table(
    sources: Annotated[list[Path], typer.Argument(metavar="RESULTS...", help="Results or runs.")],
    markdown: o.Markdown = False,
    phases: o.Phases = False,
) -> dict[str, Any]:
    """Compare results files: a row a task and metric, a column an arm. One file: as `run` does."""
    from simulations.outcome.results import read_results
    from simulations.reporting.tables import (
        comparison_table,
        contrast_table,
        phase_table,
        run_table,
    )
    from simulations.setup.documents import Scores, fields_of

    results = [read_results(path) for path in sources]
    if phases:
        print_table(phase_table(results, [path.stem for path in sources]), markdown=markdown)
    elif len(results) > 1:
        print_table(comparison_table(results), markdown=markdown)
    else:
        print_table(run_table(results[0]), markdown=markdown)
        if markdown:
            print_line()  # or the two would be one table
        print_table(contrast_table(results[0], brief=True), markdown=markdown)
    told = zip(sources, results, strict=True)
    return {"results": [{"source": str(path), **fields_of(Scores, one)} for path, one in told]}


def next_command(name: str, out: Path) -> str:
    """The command that goes on with the run in `out`, to be typed as it stands."""
    given = str(out)
    return shlex.join(["proper-sim", name, f"./{given}" if given.startswith("-") else given])


def _say_preset(options: RunOptions) -> None:
    """Before hours of work: which preset nobody named, and what its name promises and is left out."""
    from proper_model.settings import uncalibrated

    if options.preset is None:
        say(f"preset {options.preset_name}, the usual one of profile {options.settings.name}")
    if note := uncalibrated(options.runs()[0].training.structure, options.settings):
        say(f"warning: {note}; profiles tiny, tiny-few and smollm2-cpu calibrate")


def _validated(found: ValidationReport) -> dict[str, Any]:
    """What is in the data, for programs."""
    return {
        "name": found.name,
        "form": found.form,
        "task": found.task,
        "template": found.template,
        "errors": found.errors,
        "warnings": found.warnings,
        "pooled": asdict(found.pooled),
        "test": asdict(found.test),
        "problems": [
            {"severity": one.severity, "count": one.count, "told": str(one)} for one in found.groups
        ],
    }


def _print_run(out: Path) -> dict[str, Any]:
    """Tables of a scored run on stdout, and where the report lies on stderr; what a program is told."""
    from simulations.outcome.details import DETAILS_FILE, read_details
    from simulations.outcome.results import RESULTS_FILE, read_results
    from simulations.pipeline import REPORT_FILE
    from simulations.reporting.tables import contrast_table, level_table, run_table
    from simulations.setup.documents import Scores, fields_of

    results, details = read_results(out), read_details(out / DETAILS_FILE)
    print_table(run_table(results))
    if details is not None and details.levels is not None:
        print_table(level_table(details.levels))
    print_table(contrast_table(results, brief=True))
    remarks = details.remarks if details is not None else []
    for remark in remarks:
        say(f"warning: {remark}")
    say(f"report: {out / REPORT_FILE}")
    return {
        "out": str(out),
        "results": str(out / RESULTS_FILE),
        "report": str(out / REPORT_FILE),
        "warnings": remarks,
        **fields_of(Scores, results),
    }


def _print_costs(options: RunOptions) -> dict[str, Any]:
    from simulations.setup.costs import plan_costs
    from simulations.setup.estimate import as_table

    with progress_bars() as show:
        costs = plan_costs(options, show)
    print_table(as_table(costs))
    whole = costs.total_seconds
    return {
        "phases": [
            {"name": name, "fastest_s": part.low, "slowest_s": part.high}
            for name, part in costs.seconds.items()
        ],
        "fastest_s": whole.low,
        "slowest_s": whole.high,
        "memory_bytes": asdict(costs.memory_bytes),
        "disk_bytes": asdict(costs.disk_bytes),
        "exceeding_bytes": costs.exceeding_bytes,
    }


add_examples(app, "proper-sim", EXAMPLES)


def run_cli(arguments: Sequence[str]) -> int:
    """Run one command line; returns the exit code and prints errors to stderr."""
    return run_command(app, "proper-sim", arguments)


def main() -> None:
    """Entry point of the command."""
    start(app, "proper-sim")
