"""`python -m benchmarks.gpu`: the engine's variants against a strong rival on a GPU, within a budget.

Over each base, engine and rival train the same private adapters at the same number of samples in an
optimizer step, in turns, round by round; beside them the frozen base alone. Before that, every
variant's training is compared with the reference's, and the device's peak rates are measured. The
file is written again after every round, so that whatever ends the command leaves what it has.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from benchmarks.command import mark_of, ready_file, start
from client.terminal.console import print_line, say
from proper_model.errors import ReportError

BEGAN = time.monotonic()
SIZES = ["7b", "1b", "135m"]
LEAST = 0.04  # of the budget: a setting that would begin with less is skipped

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def run(
    out: Annotated[Path, typer.Option(help="JSON file to write.")],
    size: Annotated[list[str], typer.Option(help="7b, 1b, 135m; small and overhead.")] = SIZES,
    seconds: Annotated[float, typer.Option(min=1, help="Of the whole command.")] = 420.0,
    device: Annotated[str, typer.Option(help="cuda or cpu.")] = "cuda",
    users: Annotated[list[int] | None, typer.Option(min=1, help="Users together.")] = None,
    samples: Annotated[int, typer.Option(min=1, help="Samples a user and round.")] = 4,
    tokens: Annotated[int, typer.Option(min=8, help="Tokens a sample.")] = 150,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds that count.")] = 3,
    variant: Annotated[list[str] | None, typer.Option(help="Of the engine; all.")] = None,
    no_compile: Annotated[bool, typer.Option("--no-compile", help="Rivals as they are.")] = False,
    commit: Annotated[str | None, typer.Option(help="Where no checkout tells it.")] = None,
    seed: Annotated[int, typer.Option(help="Of weights, tokens and lengths.")] = 0,
) -> None:
    """Measure and write OUT."""
    # What follows needs torch, whose loading counts.
    from benchmarks.contenders.build import shape_of
    from benchmarks.gpu.budget import Budget
    from benchmarks.gpu.machine import ready_device
    from benchmarks.gpu.plan import planned
    from benchmarks.gpu.session import Session, chosen_variants

    ready_device(device)
    ready_file(out, mark_of("gpu"))
    budget, variants = Budget(seconds, BEGAN), chosen_variants(variant or ())
    for name in size:
        shape_of(name)
    plans = planned(size, users=users or (), samples=samples, tokens=tokens, seed=seed)

    def tell(text: str) -> None:
        say(f"{budget.elapsed:6.1f} s  {text}")

    session = Session(
        out,
        device=device,
        budget=budget,
        variants=variants,
        rounds=rounds,
        compiled=not no_compile,
        seed=seed,
        commit=commit,
        say=tell,
    )
    session.compare()
    for number, plan in enumerate(plans, 1):
        tell(f"setting {number} of {len(plans)}: {plan.work.in_words()}, dropout {plan.dropout:g}")
        if budget.left < LEAST * seconds:
            session.skip(plan, f"the budget of {seconds:g} s was used before its turn")
        else:
            session.race(plan)
    print_line(str(out))
    if not session.measured:
        raise ReportError(
            "no contender was measured", hint="their reasons are in the file and were told above"
        )


if __name__ == "__main__":
    start(app)
