"""`python -m benchmarks.pipeline`: seconds of a whole `proper-sim run` by phase, as JSON and table.

Checkouts of PROPER take turns, round by round, each in a folder and with a cache of its own, so that
nothing is found finished. A checkout tells the phases that its own `results.json` holds; what its
command took beyond them is `untimed`: imports, scoring in versions that did not time it. Means of
every arm are kept beside the seconds, because a faster run that answers differently is another run.
"""

from __future__ import annotations

import importlib.metadata
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from pydantic import BaseModel, ConfigDict, Field

from client.console import QUIET, print_line, print_table, say, say_error
from client.tables import Table
from proper_model.errors import ConfigError, ProperError, SimulationError
from proper_model.files import write_atomic
from proper_model.machine import usable_cores
from simulations.environment import commit, hardware
from simulations.results import Hardware
from simulations.supervisor import Process, adopt_orphans, family

VERSIONS = ("torch", "transformers", "peft", "flwr", "ray", "numpy")
COMMAND = "from simulations.cli import main; main()"
UNTIMED, WALL, CPU = "untimed", "whole run", "CPU seconds"
CPU_EVERY_S = 1.0


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Round(_Strict):
    """One run. `phases_s` and `untimed_s` make up `wall_s`; `node_phases_s` lie within phases.

    `cpu_s` is of all processes of the run together and holds still when others use the machine;
    `load_before` is the machine's load average: what else was going on.
    """

    wall_s: float = Field(ge=0)
    cpu_s: float = Field(ge=0)
    phases_s: dict[str, float]
    node_phases_s: dict[str, float]
    untimed_s: float
    load_before: float = Field(ge=0)


class Checkout(_Strict):
    """A version of the code. `means[arm][metric]` is over queries; `apart` the largest relative
    distance of any of them from the first checkout's.
    """

    label: str
    commit: str
    rounds: list[Round] = Field(min_length=1)
    means: dict[str, dict[str, float]]
    apart: float = Field(ge=0)


class PipelineReport(_Strict):
    schema_: int = Field(default=1, ge=1, le=1, alias="schema")
    benchmark: Literal["pipeline"] = "pipeline"
    hardware: Hardware
    usable_cores: int = Field(ge=1)
    versions: dict[str, str]
    seed: int
    data: str
    task: str
    arguments: list[str]
    checkouts: list[Checkout]

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)


def run_once(source: Path, arguments: Sequence[str]) -> tuple[Round, dict[str, Any]]:
    """Run a checkout's `proper-sim run` once; its seconds and the content of its results.

    Raises SimulationError if it fails; its own words went to stderr.
    """
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory(prefix="proper-") as scratch:
        out = Path(scratch) / "out"
        command = [sys.executable, "-c", COMMAND, "run", *arguments, "--out", str(out)]
        start = time.monotonic()
        process = subprocess.Popen(
            [*command, "--cache", str(Path(scratch) / "cache")],
            cwd=source,
            env={**os.environ, **QUIET, "PYTHONPATH": str(source)},
            stdout=subprocess.DEVNULL,
        )
        cpu_s = watch_cpu(process)
        wall_s = time.monotonic() - start
        if process.returncode:
            raise SimulationError(
                f"{source.name}: proper-sim run ended with {process.returncode}",
                hint="its own message stands above",
            )
        results: dict[str, Any] = json.loads((out / "results.json").read_text(encoding="utf-8"))
    phases = results["timings_s"]
    took = Round(
        wall_s=wall_s,
        cpu_s=cpu_s,
        phases_s=phases,
        node_phases_s=results.get("node_timings_s", {}),
        untimed_s=wall_s - math.fsum(phases.values()),
        load_before=load,
    )
    return took, results


def watch_cpu(process: subprocess.Popen[bytes]) -> float:
    """Wait for a command; CPU seconds of it and of all it started, even of what it left orphaned.

    Ray's processes are nobody's children by the time they end, so the family is looked at once a
    second; what a process took in its last second may be missing.
    """
    adopt_orphans()
    seen: dict[Process, float] = {}
    while True:
        ended = process.poll() is not None
        for member in family(set(seen)):
            with suppress(OSError, IndexError, ValueError):
                stat = Path(f"/proc/{member[0]}/stat").read_text().rpartition(")")[2].split()
                seen[member] = (int(stat[11]) + int(stat[12])) / os.sysconf("SC_CLK_TCK")
        if ended:
            return math.fsum(seen.values())
        time.sleep(CPU_EVERY_S)


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
    """Median seconds of each phase, a column a checkout."""
    columns = []
    for checkout in checkouts:
        rows = [
            {**one.phases_s, UNTIMED: one.untimed_s, WALL: one.wall_s, CPU: one.cpu_s}
            for one in checkout.rounds
        ]
        columns.append(
            {name: statistics.median(row.get(name, 0.0) for row in rows) for name in rows[0]}
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


app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def run(
    data: Annotated[Path, typer.Argument(help="Folder of users.")],
    out: Annotated[Path, typer.Option(help="JSON file to write.")],
    task: Annotated[Path, typer.Option(help="Task file.")],
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
    places = [str(data.resolve()), "--task", str(task.resolve()), "--base", str(base.resolve())]
    took: dict[str, list[Round]] = {label: [] for label in sources}
    means: dict[str, dict[str, dict[str, float]]] = {}
    for number in range(rounds):
        for label, folder in sources.items():
            say(f"round {number + 1} of {rounds}: {label}")
            one, results = run_once(folder, [*places, *options])
            took[label].append(one)
            means[label] = means_of(results)
        first = next(iter(means.values()))
        checkouts = [
            Checkout(
                label=label,
                commit=commit(folder),
                rounds=took[label],
                means=means[label],
                apart=apart(first, means[label]),
            )
            for label, folder in sources.items()
        ]
        report = PipelineReport(
            hardware=hardware(),
            usable_cores=usable_cores(),
            versions={name: importlib.metadata.version(name) for name in VERSIONS},
            seed=seed,
            data=data.name,
            task=task.stem,
            arguments=options,
            checkouts=checkouts,
        )
        out.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(out, (report.model_dump_json(by_alias=True, indent=1) + "\n").encode())
    print_table(phase_rows(checkouts))
    print_line(str(out))


def main() -> None:
    """The command, with PROPER's error lines and exit codes."""
    for name, value in {**QUIET, "HF_HUB_OFFLINE": "1"}.items():
        os.environ.setdefault(name, value)
    try:
        app(standalone_mode=True)
    except ProperError as error:
        say_error(error)
        raise SystemExit(error.exit_code) from None


if __name__ == "__main__":
    main()
