"""`python -m benchmarks.engine`: the engine against its rivals, as one JSON file and a table.

Several sizes and numbers of users are as many settings. Contenders are named as in
`benchmarks.contenders.specs`. Ratios are made round by round in one run on one machine; nothing here is
a test, and no figure decides whether a build is good.
"""

from __future__ import annotations

import dataclasses
import itertools
import os
from pathlib import Path
from typing import Annotated

import typer

from benchmarks.command import mark_of, ready_file, start, where
from benchmarks.contenders import Spec, Workload, parse_spec, shape_of
from benchmarks.contenders.workload import Lengths
from benchmarks.measuring import in_own_process
from benchmarks.measuring.agreement import agreements
from benchmarks.measuring.rounds import WARMUP, measure_setting
from benchmarks.results import write_report
from benchmarks.results.schema import EngineReport, Setting
from benchmarks.results.tables import setting_notes, setting_table
from client.terminal.console import print_line, print_table, say
from proper_model.errors import ReportError
from simulations.outcome.environment import commit

SIZE, USERS = ["small"], [32]
CONTENDERS = [
    *("stacked-loop:compile=true", "stacked-loop:batch=4,compile=true"),
    *("vmap-moe", "peft-loop:logits=answer", "ours-moe", "ours-moe:batch=4"),
]

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


def chosen_specs(contenders: list[str]) -> list[Spec]:
    """The contenders and the limit of each dtype and number of threads among the engines."""
    specs = [parse_spec(text) for text in contenders]
    limits = [
        dataclasses.replace(spec, kind="limit", backend=Spec.backend)
        for spec in specs
        if spec.kind.startswith("ours")
    ]
    return list(dict.fromkeys([*specs, *limits]))


@app.command()
def run(
    out: Annotated[Path, typer.Option(help="JSON file to write.")],
    size: Annotated[list[str], typer.Option(help="overhead, small, 135m, 1b or 7b.")] = SIZE,
    tokens: Annotated[int, typer.Option(min=8, help="Tokens a sample.")] = 96,
    users: Annotated[list[int], typer.Option(min=1, help="Users together.")] = USERS,
    lengths: Annotated[Lengths, typer.Option(help="Of samples.")] = "fixed",
    samples: Annotated[int, typer.Option(min=1, help="Samples a user.")] = 4,
    contender: Annotated[list[str], typer.Option(help="kind:key=value,...")] = CONTENDERS,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds that count.")] = 5,
    dropout: Annotated[float, typer.Option(min=0.0, max=0.9)] = 0.0,
    seed: Annotated[int, typer.Option(help="Of weights, tokens and lengths.")] = 0,
) -> None:
    """Measure contenders in every setting; write OUT and print a table a setting."""
    for name in size:
        shape_of(name)
    specs = chosen_specs(contender)
    ready_file(out, mark_of("engine"))
    facts = where(seed) | {"commit": commit(), "load_before": os.getloadavg()[0]}
    say("comparing what contenders train")
    agreement = in_own_process(agreements, specs)
    for one in agreement:
        found = one.cause or f"{one.error:.1e} from the reference"
        say(f"{one.variant} in {one.dtype}: {found}")
    settings: list[Setting] = []
    for name, count in itertools.product(size, users):
        work = Workload(name, count, samples, tokens, lengths, seed)
        say(f"setting {len(settings) + 1} of {len(size) * len(users)}: {work.in_words()}")
        settings.append(measure_setting(work, specs, rounds=rounds, dropout=dropout, say=say))
        print_table(setting_table(settings[-1]))
        for line in setting_notes(settings[-1]):
            print_line(line)
        # After every setting: a sweep of hours that is stopped keeps what it has.
        report = EngineReport(
            **facts,
            rounds=rounds,
            warmup=WARMUP,
            dropout=dropout,
            agreement=agreement,
            settings=settings,
        )
        write_report(report, out)
    print_line(str(out))
    raced = [c for one in settings for c in one.contenders]
    # The limit runs by itself; it is a result of its own only where nobody else was asked.
    if not any(c.measured for c in [c for c in raced if c.kind != "limit"] or raced):
        raise ReportError(
            "no contender was measured", hint="their reasons stand under the tables and in the file"
        )


if __name__ == "__main__":
    start(app)
