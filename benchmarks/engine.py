"""`python -m benchmarks.engine`: the engine against its rivals, as one JSON file and a table.

Options that may be given several times span a grid: two sizes and three numbers of users are six
settings. Contenders are named as in `benchmarks.contenders.specs`. Ratios are made round by round in
one run on one machine; nothing here is a test, and no figure decides whether a build is good.
"""

from __future__ import annotations

import dataclasses
import itertools
import os
import typing
from pathlib import Path
from typing import Annotated

import typer

from benchmarks.command import mark_of, ready_device, ready_file, start, where
from benchmarks.contenders import Spec, Workload, parse_spec, shape_of
from benchmarks.contenders.workload import Lengths
from benchmarks.kinds import OTHERS, Agreement, work_in_words
from benchmarks.measuring import in_own_process
from benchmarks.measuring.agreement import agreements
from benchmarks.measuring.rounds import Plan, measure_setting
from benchmarks.results import write_report
from benchmarks.results.schema import EngineReport, Setting
from benchmarks.results.tables import clock_of, setting_notes, setting_table
from client.terminal.console import print_line, print_table, say
from proper_model.errors import ConfigError, ReportError
from simulations.outcome.environment import commit

# Defaults of options that may be repeated.
SIZE, TOKENS, USERS, ALIKE = ["small"], [96], [32], ["fixed"]
CONTENDERS = [
    *("stacked-loop:compile=true", "stacked-loop:batch=4,compile=true"),
    *("vmap-moe", "peft-loop:logits=answer", "ours-moe", "ours-moe:batch=4"),
]
LENGTHS: tuple[Lengths, ...] = typing.get_args(Lengths)
SAVED = ("device", "rounds", "warmup", "dropout")  # of the plan, in the report

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


def chosen_specs(contenders: list[str]) -> list[Spec]:
    """The contenders and the limit of each dtype and number of threads among the engines."""
    specs = [parse_spec(text) for text in contenders]
    limits = [
        dataclasses.replace(spec, kind="limit", backend=Spec.backend)
        for spec in specs
        if spec.kind.startswith("ours")
    ]
    return list(dict.fromkeys([*specs, *limits]))


def compare(specs: list[Spec], device: str) -> list[Agreement]:
    """How far each contender's training is from the reference's, at a thread."""
    import torch

    torch.set_num_threads(1)
    same = {name: getattr(Spec, name) for name in ("threads", "tokens_per_step")}
    alike = dict.fromkeys(dataclasses.replace(spec, **same) for spec in specs)
    return list(agreements((spec for spec in alike if spec.kind not in OTHERS), device))


@app.command()
def run(
    out: Annotated[Path, typer.Option(help="JSON file to write.")],
    size: Annotated[list[str], typer.Option(help="overhead, small, 135m, 1b or 7b.")] = SIZE,
    tokens: Annotated[list[int], typer.Option(min=8, help="Tokens a sample.")] = TOKENS,
    users: Annotated[list[int], typer.Option(min=1, help="Users together.")] = USERS,
    lengths: Annotated[list[str], typer.Option(help="fixed, ragged, lognormal or real.")] = ALIKE,
    samples: Annotated[int, typer.Option(min=1, help="Samples a user.")] = 4,
    contender: Annotated[list[str], typer.Option(help="kind:key=value,...")] = CONTENDERS,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds that count.")] = 5,
    warmup: Annotated[int, typer.Option(min=0, help="Rounds before them.")] = 1,
    rival_users: Annotated[int, typer.Option(min=1, help="Equal users a loop trains.")] = 4,
    dropout: Annotated[float, typer.Option(min=0.0, max=0.9)] = 0.0,
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
    )
    works = grid(size, tokens, users, lengths, samples, seed)
    specs = chosen_specs(contender)
    ready_device(device)
    ready_file(out, mark_of("engine"))
    facts = where(seed) | {
        "commit": commit(),
        "load_before": os.getloadavg()[0],
        "interleaved": True,
    }
    facts |= {name: getattr(plan, name) for name in SAVED}
    say("comparing what contenders train")
    agreement = in_own_process(compare, specs, device)
    for one in agreement:
        found = one.cause or f"{one.error:.1e} from the reference"
        say(f"{one.variant} in {one.dtype}: {found}")
    facts["agreement"] = agreement
    settings: list[Setting] = []
    for number, work in enumerate(works, 1):
        say(f"setting {number} of {len(works)}: {work_in_words(work)}")
        settings.append(measure_setting(work, specs, plan, say))
        print_table(setting_table(settings[-1], clock_of(device)))
        for line in setting_notes(settings[-1], device):
            print_line(line)
        # After every setting: a sweep of hours that is stopped keeps what it has.
        write_report(EngineReport(**facts, settings=settings), out)
    print_line(str(out))
    raced = [c for one in settings for c in one.contenders]
    # The limit runs by itself; it is a result of its own only where nobody else was asked.
    if not any(c.measured for c in [c for c in raced if c.kind != "limit"] or raced):
        raise ReportError(
            "no contender was measured", hint="their reasons stand under the tables and in the file"
        )


if __name__ == "__main__":
    start(app)
