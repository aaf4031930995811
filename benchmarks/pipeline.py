"""`python -m benchmarks.pipeline`: seconds of a whole `proper-sim run` by phase, as JSON and table.

Checkouts of PROPER take turns, round by round, each in a folder and with a cache of its own, so that
nothing is found finished. A checkout tells the phases that its own `results.json` holds; what its
command took beyond them is `untimed`: imports, scoring in versions that did not time it. Means of
every arm are kept beside the seconds, because a faster run that answers differently is another run.
"""

from __future__ import annotations

import importlib.metadata
import math
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from benchmarks.command import start
from benchmarks.one_run import run_once
from benchmarks.outputs import ready_file
from benchmarks.schema import write_report
from benchmarks.schema_pipeline import Checkout, PipelineReport, Round
from client.terminal.console import print_line, print_table, say
from client.terminal.tables import Table
from proper_model.errors import BaseModelError, ConfigError, DataError
from proper_model.federation.machine import usable_cores
from proper_model.tasks.task import load_task
from simulations.outcome.environment import commit, hardware

VERSIONS = ("torch", "transformers", "peft", "flwr", "numpy")
UNTIMED, WALL, CPU = "untimed", "whole run", "CPU seconds"


def means_of(results: dict[str, Any]) -> dict[str, dict[str, float]]:
    """Mean over queries of every arm and metric; those that are not a number are left out."""
    return {
        arm: {
            name: float(row["mean"])
            for name, row in content["metrics"].items()
            if row["mean"] is not None
        }
        for arm, content in results["arms"].items()
    }


def apart(a: dict[str, dict[str, float]], b: dict[str, dict[str, float]]) -> float:
    """Largest relative distance of two sets of means; infinite if they are not about the same."""
    if {arm: set(row) for arm, row in a.items()} != {arm: set(row) for arm, row in b.items()}:
        return math.inf
    return max(
        (
            abs(value - b[arm][name]) / max(abs(value), abs(b[arm][name]), 1e-9)
            for arm, row in a.items()
            for name, value in row.items()
        ),
        default=0.0,
    )


def phase_rows(checkouts: Sequence[Checkout]) -> Table:
    """Median seconds of each phase, a column a checkout; a round without a phase spent none on it."""
    columns = []
    for checkout in checkouts:
        rows = [
            {**one.phases_s, UNTIMED: one.untimed_s, WALL: one.wall_s, CPU: one.cpu_s}
            for one in checkout.rounds
        ]
        known = dict.fromkeys(name for row in rows for name in row)
        columns.append(
            {name: statistics.median(row.get(name, 0.0) for row in rows) for name in known}
        )
    names = [*dict.fromkeys(name for column in columns for name in column)]
    last = [UNTIMED, WALL, CPU]
    names = [name for name in names if name not in last] + last
    return Table(
        "Seconds by phase",
        ("phase", *(checkout.label for checkout in checkouts)),
        tuple((name, *(f"{c[name]:.1f}" if name in c else "–" for c in columns)) for name in names),
    )


def sources_of(texts: Sequence[str]) -> dict[str, Path]:
    """Label to checkout from `label=folder`. Raises ConfigError."""
    found: dict[str, Path] = {}
    for text in texts:
        label, _, folder = text.partition("=")
        path = Path(folder).expanduser().resolve()
        if (
            not label
            or not folder
            or label in found
            or not (path / "simulations" / "cli.py").is_file()
        ):
            raise ConfigError(
                f"--source {text}: expected a new label, '=' and the folder of a checkout",
                hint="for example --source before=../old --source after=.",
            )
        found[label] = path
    return found


def inputs_of(data: Path, task: str, base: Path) -> list[str]:
    """Words that name the inputs for a run in whatever folder, looked at before any run starts.

    A shipped task stays a name: each checkout has its own. Raises DataError, TaskError and
    BaseModelError.
    """
    if not data.is_dir():
        raise DataError(f"{data}: not a folder", hint="DATA is the folder of a set of users")
    if not base.is_dir():
        raise BaseModelError(f"{base}: not a folder", hint="--base is the folder of a base")
    load_task(task)
    path = Path(task)
    place = str(path.resolve()) if path.suffix == ".toml" else task
    return [str(data.resolve()), "--task", place, "--base", str(base.resolve())]


app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def run(
    data: Annotated[Path, typer.Argument(help="Folder of users.")],
    out: Annotated[Path, typer.Option(help="JSON file to write.")],
    task: Annotated[str, typer.Option(help="Task by name, or a task file.")],
    base: Annotated[Path, typer.Option(help="Folder of the base.")],
    source: Annotated[list[str], typer.Option(help="label=folder of a checkout.")],
    pooled_users: Annotated[int, typer.Option(min=1)] = 20,
    users: Annotated[int, typer.Option(min=1)] = 8,
    max_items: Annotated[int, typer.Option(min=1)] = 12,
    rounds: Annotated[int, typer.Option(min=1, help="Runs of each checkout.")] = 1,
    seed: Annotated[int, typer.Option(min=0)] = 0,
) -> None:
    """Run every checkout on the same users, write OUT after each round, print a table."""
    sources = sources_of(source)
    sizes = {"--pooled-users": pooled_users, "--users": users, "--max-items": max_items}
    options = ["--profile", "tiny", "--seed", str(seed), "--threads", "1"]
    options += [word for name, value in sizes.items() for word in (name, str(value))]
    places = inputs_of(data, task, base)
    ready_file(out)
    took: dict[str, list[Round]] = {label: [] for label in sources}
    means: dict[str, dict[str, dict[str, float]]] = {}
    for number in range(rounds):
        for label, folder in sources.items():
            say(f"round {number + 1} of {rounds}: {label}")
            one, results = run_once(folder, [*places, *options])
            took[label].append(one)
            means[label] = means_of(results)
        checkouts = [
            Checkout(
                label=label,
                commit=commit(folder),
                rounds=took[label],
                means=means[label],
                apart=apart(next(iter(means.values())), means[label]),
            )
            for label, folder in sources.items()
        ]
        report = PipelineReport(
            hardware=hardware(),
            usable_cores=usable_cores(),
            versions={name: importlib.metadata.version(name) for name in VERSIONS},
            seed=seed,
            data=data.resolve().name,
            task=Path(task).stem,
            arguments=options,
            checkouts=checkouts,
        )
        write_report(report, out)
    print_table(phase_rows(checkouts))
    print_line(str(out))


def main() -> None:
    """The command."""
    start(app)


if __name__ == "__main__":
    main()
