"""`python -m benchmarks.engine`: the engine against its rivals, as one JSON file and a table.

Options that may be given several times span a grid: two sizes and three numbers of users are six
settings. Contenders are named as in `benchmarks.specs`. Ratios are made round by round in one run on one
machine; nothing here is a test, and no figure decides whether a build is good.
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
import itertools
import os
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from benchmarks.command import start
from benchmarks.devices import device_of
from benchmarks.outputs import ready_file
from benchmarks.rounds import Plan, measure_setting
from benchmarks.schema import BenchReport, Setting, write_report
from benchmarks.show import print_setting
from benchmarks.sizes import shape_of
from benchmarks.specs import Spec, parse_spec
from benchmarks.workload import Lengths, Workload
from client.terminal.console import WIDE, print_line, say
from proper_model.errors import ConfigError, ReportError
from simulations.outcome.environment import commit, hardware

# Defaults of options that may be repeated.
SIZE, TOKENS, USERS, ALIKE = ["small"], [96], [32], ["fixed"]
CONTENDERS = [
    *("trainer", "peft-loop", "peft-loop:logits=answer", "naive-moe", "naive-moe:logits=answer"),
    *("vmap", "peft-mixed", "ours", "ours-moe"),
]
VERSIONS = ("torch", "transformers", "peft", "accelerate", "numpy")
LENGTHS: tuple[Lengths, ...] = ("fixed", "lognormal", "real")

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


def grid(
    sizes: list[str],
    tokens: list[int],
    users: list[int],
    lengths: list[str],
    samples: int,
    seed: int,
) -> list[Workload]:
    """All combinations, in the given order. Raises ConfigError for what does not exist."""
    for size in sizes:
        shape_of(size)
    found = []
    for size, kind, length, count in itertools.product(sizes, lengths, tokens, users):
        if kind not in LENGTHS:
            raise ConfigError(f"unknown lengths '{kind}'", hint="known are: " + ", ".join(LENGTHS))
        found.append(Workload(size, count, samples, length, kind, seed))
    return found


def chosen_specs(
    contenders: list[str], threads: int, dtype: str, tokens_per_step: int
) -> list[Spec]:
    """The contenders and the limit of each dtype and number of threads among them."""
    defaults: dict[str, str | int] = {
        "threads": threads,
        "dtype": dtype,
        "tokens_per_step": tokens_per_step,
    }
    specs = [parse_spec(text, **defaults) for text in contenders]
    limits = [
        dataclasses.replace(spec, kind="limit", backend=Spec.backend)
        for spec in specs
        if spec.kind.startswith("ours")
    ]
    return list(dict.fromkeys([*specs, *limits]))


@app.command()
def run(
    out: Annotated[Path, typer.Option(help="JSON file to write.")],
    size: Annotated[list[str], typer.Option(help="overhead, small, mini or 7b.")] = SIZE,
    tokens: Annotated[list[int], typer.Option(min=8, help="Tokens a sample.")] = TOKENS,
    users: Annotated[list[int], typer.Option(min=1, help="Users together.")] = USERS,
    lengths: Annotated[list[str], typer.Option(help="fixed, lognormal or real.")] = ALIKE,
    samples: Annotated[int, typer.Option(min=1, help="Samples a user.")] = 4,
    contender: Annotated[list[str], typer.Option(help="kind:key=value,...")] = CONTENDERS,
    dtype: Annotated[str, typer.Option(help="Where a contender names none.")] = "float32",
    threads: Annotated[int, typer.Option(min=1, help="The same for threads.")] = 1,
    tokens_per_step: Annotated[int, typer.Option(min=1, help="Tokens a pass.")] = 8192,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds that count.")] = 5,
    warmup: Annotated[int, typer.Option(min=0, help="Rounds before them.")] = 1,
    rival_users: Annotated[int, typer.Option(min=1, help="Equal users a loop trains.")] = 4,
    dropout: Annotated[float, typer.Option(min=0.0, max=0.9)] = 0.0,
    history_tokens: Annotated[int, typer.Option(min=1, help="For users an hour.")] = 48_000,
    in_turn: Annotated[bool, typer.Option("--in-turn", help="One base in memory.")] = False,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    seed: Annotated[int, typer.Option(help="Of weights, tokens and lengths.")] = 0,
) -> None:
    """Measure contenders over a grid of settings; write OUT and print one table a setting."""
    plan = Plan(
        device=device,
        rounds=rounds,
        warmup=warmup,
        rival_users=rival_users,
        dropout=dropout,
        history_tokens=history_tokens,
        interleaved=not in_turn,
    )
    works = grid(size, tokens, users, lengths, samples, seed)
    specs = chosen_specs(contender, threads, dtype, tokens_per_step)
    device_of(device)
    ready_file(out)
    load = os.getloadavg()[0]
    settings = []
    # What is no terminal has no width to keep to.
    console = Console(width=None if sys.stdout.isatty() else WIDE, highlight=False)
    for number, work in enumerate(works, 1):
        say(f"setting {number} of {len(works)}: {work}")
        settings.append(measure_setting(work, specs, plan, say))
        print_setting(settings[-1], console)
        # After every setting: a sweep of hours that is stopped keeps what it has.
        write_report(_report(plan, settings, seed, load), out)
    print_line(str(out))
    raced = [c for one in settings for c in one.contenders]
    # The limit runs by itself; it is a result of its own only where nobody else was asked.
    if not any(c.measured for c in [c for c in raced if c.kind != "limit"] or raced):
        raise ReportError(
            "no contender was measured", hint="their reasons stand under the tables and in the file"
        )


def _report(plan: Plan, settings: list[Setting], seed: int, load: float) -> BenchReport:
    return BenchReport(
        benchmark="engine",
        hardware=hardware(),
        device=plan.device,
        commit=commit(),
        versions={name: importlib.metadata.version(name) for name in VERSIONS},
        seed=seed,
        rounds=plan.rounds,
        warmup=plan.warmup,
        dropout=plan.dropout,
        history_tokens=plan.history_tokens,
        interleaved=plan.interleaved,
        load_before=load,
        settings=settings,
    )


def main() -> None:
    """The command."""
    start(app)


if __name__ == "__main__":
    main()
