"""`python -m benchmarks.pipeline`: seconds of a whole `proper-sim run` by phase, as JSON and table.

Checkouts of PROPER take turns, round by round, each in a folder and with a cache of its own, so that
nothing is found finished. A checkout tells the phases that its own `results.json` holds; what its
command took beyond them is `untimed`: imports, scoring in versions that did not time it. Means of
every arm are kept beside the seconds, because a faster run that answers differently is another run.
"""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

import psutil
import typer

from benchmarks.command import mark_of, ready_file, start, where
from benchmarks.results import write_report
from benchmarks.results.schema import Checkout, PipelineReport, WholeRun
from benchmarks.results.tables import phase_table
from client.terminal.console import QUIET, print_line, print_table, say
from proper_model.errors import ConfigError, SimulationError
from proper_model.federation.machine import usable_cores
from proper_model.storage.files import expanded
from simulations.flower.supervisor import adopt_orphans, alive, stop
from simulations.outcome.environment import commit

COMMAND = "from simulations.cli import main; main()"
POLL_S = 0.1
STOP_S = 60.0  # Flower takes seconds to end


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
    one, other = (
        {(arm, name): mean for arm, row in means.items() for name, mean in row.items()}
        for means in (a, b)
    )
    if one.keys() != other.keys():
        return math.inf
    both = ((mean, other[key]) for key, mean in one.items())
    return max((abs(x - y) / max(abs(x), abs(y), 1e-9) for x, y in both), default=0.0)


def sources_of(texts: Sequence[str]) -> dict[str, Path]:
    """Label to checkout from `label=folder`. Raises ConfigError."""
    found: dict[str, Path] = {}
    for text in texts:
        label, _, folder = text.partition("=")
        path = expanded(folder).resolve()
        known = folder and (path / "simulations" / "cli.py").is_file()
        if not label or label in found or not known:
            raise ConfigError(
                f"--source {text}: expected a new label, '=' and the folder of a checkout",
                hint="for example --source before=../old --source after=.",
            )
        found[label] = path
    return found


def inputs_of(data: Path, task: str, base: Path) -> list[str]:
    """Words that name the inputs for a run in whatever folder; each run looks at them itself.

    A shipped task stays a name: each checkout has its own.
    """
    place = str(Path(task).resolve()) if Path(task).suffix == ".toml" else task
    return [str(data.resolve()), "--task", place, "--base", str(base.resolve())]


def run_once(source: Path, arguments: Sequence[str]) -> tuple[WholeRun, dict[str, Any]]:
    """Run a checkout's `proper-sim run` once; its seconds and the content of its results.

    Raises SimulationError if it fails; its own words went to stderr. On Ctrl-C the run has ended
    before this returns, since its folder goes then.
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
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            process_group=0,  # a terminal's Ctrl-C comes here alone, and is passed on once
        )
        try:
            cpu_s = cpu_seconds(process)
        except BaseException:
            end(process)
            raise
        wall_s = time.monotonic() - start
        if process.returncode:
            raise SimulationError(
                f"{source.name}: proper-sim run ended with {process.returncode}",
                hint="its own message stands above",
            )
        results: dict[str, Any] = json.loads((out / "results.json").read_text(encoding="utf-8"))
    phases = results["timings_s"]
    took = WholeRun(
        wall_s=wall_s,
        cpu_s=cpu_s,
        phases_s=phases,
        node_phases_s=results.get("node_timings_s", {}),
        untimed_s=wall_s - math.fsum(phases.values()),
        load_before=load,
    )
    return took, results


def end(process: subprocess.Popen[bytes]) -> None:
    """Stop a run as Ctrl-C would, wait for it, and kill what is left of all it started.

    A second Ctrl-C waits no longer.
    """
    with suppress(ProcessLookupError):
        process.send_signal(signal.SIGINT)
    with suppress(subprocess.TimeoutExpired, KeyboardInterrupt):
        process.wait(STOP_S)
    stop(process.pid, set(), 0.0)
    process.wait()


def cpu_seconds(process: subprocess.Popen[bytes]) -> float:
    """Wait for a command; CPU seconds of it and of all it started, even of what it left orphaned.

    Some processes are nobody's children by the time they end. They become this process's, which
    waits for them too: the system counts a process where it was waited for.
    """
    before, others = os.times(), children() - {process.pid}
    adopt_orphans()
    process.wait()
    while True:
        with suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        if children() <= others:
            break
        time.sleep(POLL_S)
    now = os.times()
    return (now.children_user - before.children_user) + (
        now.children_system - before.children_system
    )


def children() -> set[int]:
    """Processes that this one started or adopted and that still run."""
    return {process.pid for process in alive(psutil.Process().children())}


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
    ready_file(out, mark_of("pipeline"))
    took: dict[str, list[WholeRun]] = {label: [] for label in sources}
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
            **where(seed),
            usable_cores=usable_cores(),
            data=data.resolve().name,
            task=Path(task).stem,
            arguments=options,
            checkouts=checkouts,
        )
        write_report(report, out)
    print_table(phase_table(checkouts))
    print_line(str(out))


if __name__ == "__main__":
    start(app)
