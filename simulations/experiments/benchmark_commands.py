"""The paper's tables and figures as commands: `exp table1`, `table2`, `table3`, `fig3`, `fig45`,
`fig6-efficiency`, `fig6-experts`. Started again after a stop, each goes on where it was.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from client.terminal.console import print_line, print_table, say
from client.terminal.document import gives
from proper_model.errors import ConfigError, InterruptedRunError, ReportError
from simulations.outcome.timings import progress_bars
from simulations.setup import cli_options as o
from simulations.setup.options import RunOptions

if TYPE_CHECKING:
    from client.terminal.tables import Table
    from simulations.experiments.benchmark import Measured
    from simulations.experiments.benchmark_plan import Asked, Plan
    from simulations.experiments.benchmark_schema import BenchmarkResult, Routing, Texts
    from simulations.reporting.report import Example

Value = TypeVar("Value")
Seeds = Annotated[
    str, typer.Option("--seeds", metavar="A,B", help="Seeds of training; rows are their means.")
]
Lengths = Annotated[
    str,
    typer.Option(
        "--lengths", metavar="N,M", help="Also with histories cut to the newest N, M ... items."
    ),
]
Presets = Annotated[
    str | None,
    typer.Option(
        "--presets",
        metavar="A,B",
        help="Structures to compare, by preset. (default: the usual one of the profile)",
    ),
]
Rivals = Annotated[
    str | None,
    typer.Option(
        "--rivals",
        metavar="A,B",
        help="Other methods to compare with; 'none' for none. (default: all that fit the task)",
    ),
]
Experts = Annotated[
    str, typer.Option("--experts", metavar="A,B", help="Numbers of experts to compare.")
]


LeastActive = Annotated[
    str | None,
    typer.Option(
        "--split",
        help="Who is a test user, as of `table1`. (default: inactive:100; with --folds: given)",
    ),
]


def add_to(app: typer.Typer) -> None:
    """Give the commands to `proper-sim exp`."""
    for name, command in (
        ("table1", table1),
        ("table2", table2),
        ("table3", table3),
        ("fig3", fig3),
        ("fig45", fig45),
        ("fig6-efficiency", fig6_efficiency),
        ("fig6-experts", fig6_experts),
    ):
        app.command(name)(gives(f"exp {name}")(o.takes_benchmark_options(command)))


def table1(
    options: RunOptions,
    presets: Presets = None,
    seeds: Seeds = "0",
    lengths: Lengths = "",
    rivals: Rivals = None,
    show_examples: o.ShowExamples = False,
) -> dict[str, Any]:
    """Compare all methods on one data set, beside the paper's table 1."""
    from simulations.experiments import benchmark_plan as plans

    chosen = (options.preset_name,) if presets is None else _names(presets, "--presets")
    asked = _asked(seeds, lengths, presets=chosen)
    if rivals is not None:
        others = () if rivals.strip() == "none" else _names(rivals, "--rivals")
        asked = replace(asked, rivals=others)
    return _run(plans.table1(options, asked), show_examples=show_examples)


def table2(
    options: RunOptions,
    split: LeastActive = None,
    seeds: Seeds = "0",
    lengths: Lengths = "",
    show_examples: o.ShowExamples = False,
) -> dict[str, Any]:
    """Compare PROPER with a private LoRA alone on the 100 least active people, or on --split."""
    from simulations.experiments import benchmark_plan as plans

    if split is None:  # folds rotate who is a test user
        split = "inactive:100" if options.folds == 1 else "given"
    options = replace(options, split=split)
    asked = _asked(seeds, lengths, presets=(options.preset_name,))
    return _run(plans.table2(options, asked), show_examples=show_examples)


def table3(
    options: RunOptions, seeds: Seeds = "0", show_examples: o.ShowExamples = False
) -> dict[str, Any]:
    """Take parts of the model away, one at a time."""
    from simulations.experiments import benchmark_plan as plans

    asked = _asked(seeds, "", presets=(options.preset_name,))
    return _run(plans.table3(options, asked), show_examples=show_examples)


def fig3(options: RunOptions, show_examples: o.ShowExamples = False) -> dict[str, Any]:
    """Show one person's texts, and what every stage answers."""
    from simulations.experiments import benchmark_plan as plans

    asked = _asked(str(options.seed), "", presets=(options.preset_name,))
    return _run(plans.one_person(options, asked), show_examples=show_examples)


def fig45(options: RunOptions) -> dict[str, Any]:
    """Show how experts' weights spread over people, with and without the user's half."""
    from simulations.experiments import benchmark_plan as plans

    return _run(
        plans.densities(options, _asked(str(options.seed), "", presets=(options.preset_name,)))
    )


def fig6_efficiency(options: RunOptions) -> dict[str, Any]:
    """Measure numbers and minutes of every stage; its phases are trained for it."""
    from simulations.experiments import benchmark_plan as plans

    return _run(
        plans.efficiency(options, _asked(str(options.seed), "", presets=(options.preset_name,)))
    )


def fig6_experts(
    options: RunOptions, seeds: Seeds = "0", experts: Experts = "2,5,8"
) -> dict[str, Any]:
    """Compare numbers of experts."""
    from simulations.experiments import benchmark_plan as plans

    asked = _asked(seeds, "", presets=(options.preset_name,))
    asked = replace(asked, experts=_numbers(experts, "--experts"))
    return _run(plans.experts(options, asked))


class Only(StrEnum):
    """A part of what benchmarks tell."""

    MEANS = "means"
    CLAIMS = "claims"
    COSTS = "costs"


def print_benchmarks(
    results: Sequence[BenchmarkResult], *, markdown: bool = False, only: Only | None = None
) -> None:
    """The tables of finished benchmarks; several of them side by side, then one after another."""
    from simulations.experiments import benchmark_tables as tables

    shown = _shown(results) if only is None else _part(results, only)
    for number, one in enumerate(shown):
        if markdown:
            print_line(("\n" if number else "") + f"**{one.title}**\n")
        print_table(one, markdown=markdown)
    if only is not None:
        return
    lines = [line for result in results for line in tables.standing(result).lines]
    for line in [*lines, *tables.beside_the_paper(results)]:
        print_line(f"\n- {line}" if markdown else f"note: {line}")


def _shown(results: Sequence[BenchmarkResult]) -> list[Table]:
    from simulations.experiments import benchmark_tables as tables

    several = len(results) > 1
    own = [table for result in results for table in tables.tables_of(result)[several:]]
    return [tables.joined_table(results), *own] if several else own


def _part(results: Sequence[BenchmarkResult], only: Only) -> list[Table]:
    from simulations.experiments import benchmark_brief as brief

    if only is Only.COSTS:
        found = [brief.cost_table(results)]
    else:
        found = brief.mean_tables(results) if only is Only.MEANS else brief.claim_tables(results)
    if not any(table.rows for table in found):
        raise ReportError(
            f"nothing in these results is for --only {only}", hint="leave --only out to see all"
        )
    return found


def _asked(seeds: str, lengths: str, *, presets: tuple[str, ...]) -> Asked:
    from simulations.experiments.benchmark_plan import Asked

    return Asked(
        presets=presets,
        seeds=_numbers(seeds, "--seeds"),
        lengths=_numbers(lengths, "--lengths") if lengths else (),
    )


def _numbers(text: str, option: str) -> tuple[int, ...]:
    return _parts(text, option, int, "whole numbers with commas between, such as 1,2,8")


def _names(text: str, option: str) -> tuple[str, ...]:
    return _parts(text, option, str, "names with commas between")


def _parts(
    text: str, option: str, read: Callable[[str], Value], expected: str
) -> tuple[Value, ...]:
    """The parts of one word. Raises ConfigError."""
    parts = [part.strip() for part in text.split(",") if part.strip()]
    try:
        found = tuple(read(part) for part in parts)
    except ValueError:
        found = ()
    if not found or len(set(found)) < len(found):
        raise ConfigError(
            f"{option} is '{text}'; expected {expected}", hint="at least one, and each once"
        )
    return found


def _run(plan: Plan, *, show_examples: bool = False) -> dict[str, Any]:
    """Run a plan, and leave result, tables, page and figures in OUT."""
    from proper_model.settings import uncalibrated
    from simulations.baselines.registry import make
    from simulations.experiments.benchmark import run_benchmark
    from simulations.experiments.benchmark_summary import as_result

    found = (uncalibrated(variant.structure, variant.settings) for variant in plan.variants)
    for note in dict.fromkeys(filter(None, found)):
        say(f"warning: {note}")
    try:
        with progress_bars() as show:
            measured = run_benchmark(plan, show, make)
            show("scoring", 0, 0)
            views, texts, notes = _views(measured)
            result = as_result(measured, routing=views, texts=texts, notes=notes)
            example = case_study(measured, show_examples=show_examples)
    except KeyboardInterrupt:
        raise InterruptedRunError(
            "interrupted", hint=f"go on with the same command; {plan.out} keeps what is finished"
        ) from None
    return _leave(result, plan.out, example)


def _views(measured: Measured) -> tuple[list[Routing], Texts | None, list[str]]:
    """What only some figures need: routing, texts as points, and what to say of them."""
    from simulations.experiments import one_person, routing_views

    if measured.plan.routing:
        return routing_views.routing_views(measured), None, []
    if measured.plan.experiment == "fig3":
        return [], one_person.texts_of(measured), [one_person.NOTE]
    return [], None, []


def case_study(measured: Measured, *, show_examples: bool) -> Example | None:
    """One query through the stages: of synthetic people, or of real ones if asked for."""
    from simulations.reporting.report import REAL_NOTE, SYNTHETIC_NOTE, choose_example

    synthetic = measured.source.truth is not None
    if not synthetic and not show_examples:
        return None
    predictions = {}
    for arm, variant, cells in measured.arms.values():
        if variant is measured.plan.variants[0]:
            predictions[arm] = list(cells[0].predictions)
    users = measured.first(measured.plan.variants[0]).users
    note = SYNTHETIC_NOTE if synthetic else REAL_NOTE
    return choose_example(measured.source.task, users, predictions, note=note)


def _leave(result: BenchmarkResult, out: Path, example: Example | None) -> dict[str, Any]:
    """Write JSON, Markdown, page and figures, and print the tables; what a program is told of it."""
    from proper_model.storage.files import make_private_folder, storage_errors, write_atomic
    from simulations.experiments.benchmark_page import write_page
    from simulations.experiments.benchmark_tables import markdown
    from simulations.outcome.results import write_document
    from simulations.setup.documents import Benchmark, fields_of

    name = result.experiment
    result_file, table, page = (out / f"{name}{suffix}" for suffix in (".json", ".md", ".html"))
    with storage_errors(out):
        write_document(result, result_file)
        write_atomic(table, markdown(result).encode())
        section = write_page(result, page, example=example)
        folder = make_private_folder(out / "figures")
        figures = {folder / f"{one.key.partition('-')[2]}.svg": one for one in section.figures}
        for path, figure in figures.items():
            write_atomic(path, figure.file().encode())
    print_benchmarks([result])
    say(f"result: {result_file}, table: {table.name}, page: {page.name}, figures: figures/")
    return {
        "result": str(result_file),
        "table": str(table),
        "page": str(page),
        "figures": list(map(str, figures)),
        **fields_of(Benchmark, result),
    }
