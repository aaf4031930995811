"""`python -m benchmarks.memory`: peak memory of training against what the memory model predicts.

Every setting runs in a process of its own: base, model, then one round of private training, whose
peak of resident memory over what was resident before is compared with `MemoryModel.peak` for the
users and tokens of that round. The model is what `--memory-budget` relies on.
"""

from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path
from typing import Annotated

import torch
import typer

from benchmarks.command import mark_of, ready_file, start, where
from benchmarks.contenders import Ours, Spec, Workload, build_world, shape_of
from benchmarks.contenders.measure import (
    Stopwatch,
    memory_bytes,
    peak_memory_bytes,
    reset_peak_memory,
)
from benchmarks.measuring import in_own_process
from benchmarks.results import write_report
from benchmarks.results.schema import MemoryPeak, MemoryReport
from client.terminal.console import print_line, say
from proper_model.engine.memory import return_freed_memory
from proper_model.engine.memory_budget import memory_model
from simulations.outcome.environment import commit

CPU = torch.device("cpu")
USERS, TOKENS = [8, 32, 128], [1024, 4096, 16384]

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


def measure(work: Workload, tokens_per_step: int, recompute: bool) -> MemoryPeak:
    """One setting, in this process."""
    torch.set_num_threads(1)
    return_freed_memory()  # as every process with a budget does
    spec = Spec("ours-moe", tokens_per_step=tokens_per_step)
    world = build_world(work, spec, device=CPU)
    world.settings = dataclasses.replace(world.settings, recompute=recompute)
    ours = Ours(world, experts=True)
    longest = max((s for user in world.users for s in user.samples), key=lambda s: len(s.tokens))
    model = memory_model(ours.model, world.encoder, longest, world.settings)
    step = sum(len(user.samples[0].tokens) for user in world.users)
    before = memory_bytes(CPU) or 0
    reset_peak_memory(CPU)
    ours.round(Stopwatch(CPU))
    peak = peak_memory_bytes(CPU) or 0
    return MemoryPeak(
        size=work.size,
        users=work.users,
        tokens_per_step=tokens_per_step,
        recompute=recompute,
        dtype=spec.dtype,
        slot_bytes=model.slot_bytes,
        token_bytes=model.token_bytes,
        predicted_bytes=model.peak(work.users, min(step, tokens_per_step), work.users),
        measured_bytes=peak - before,
        base_bytes=before,
    )


@app.command()
def run(
    out: Annotated[Path, typer.Option(help="JSON file to write.")],
    size: Annotated[str, typer.Option(help="overhead, small, 135m, 1b or 7b.")] = "small",
    users: Annotated[list[int], typer.Option(min=1, help="Users together.")] = USERS,
    tokens_per_step: Annotated[list[int], typer.Option(min=1, help="Tokens a pass.")] = TOKENS,
    sample_tokens: Annotated[int, typer.Option(min=8, help="Tokens a sample.")] = 96,
    seed: Annotated[int, typer.Option(help="Of weights and tokens.")] = 0,
) -> None:
    """Measure peaks over a grid of settings and write OUT."""
    shape_of(size)
    ready_file(out, mark_of("memory"))
    facts = where(seed) | {"commit": commit(), "sample_tokens": sample_tokens}
    peaks: list[MemoryPeak] = []
    for count, tokens, recompute in itertools.product(users, tokens_per_step, (False, True)):
        say(f"{size}, {count} users, {tokens} tokens a pass, recompute {recompute}")
        work = Workload(size, count, 2, sample_tokens, "fixed", seed)
        peaks.append(in_own_process(measure, work, tokens, recompute))
        say(in_words(peaks[-1]))
        # After every setting: what is stopped, or runs out of memory, keeps what it has.
        write_report(MemoryReport(**facts, peaks=peaks), out)
    print_line(str(out))


def in_words(peak: MemoryPeak) -> str:
    """What was predicted and measured; no deviation where training took nothing that shows."""
    off = "nothing to compare" if peak.deviation is None else f"{peak.deviation:+.0%}"
    measured, predicted = (n / 2**20 for n in (peak.measured_bytes, peak.predicted_bytes))
    return f"{measured:.0f} MiB measured, {predicted:.0f} predicted ({off})"


if __name__ == "__main__":
    start(app)
