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

from benchmarks.command import mark_of, ready_device, ready_file, start, where
from benchmarks.contenders import Ours, Workload, build_world, parse_spec, shape_of
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

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
SIZES, USERS, TOKENS = ["small"], [8, 32, 128], [1024, 4096, 16384]


def measure(work: Workload, text: str, recompute: bool, device: str) -> MemoryPeak:
    """One setting, in this process."""
    torch.set_num_threads(1)
    return_freed_memory()  # as every process with a budget does
    spec = parse_spec(text)
    where = torch.device(device)
    world = build_world(work, spec, device=where)
    world.settings = dataclasses.replace(world.settings, recompute=recompute)
    ours = Ours(world, experts=True)
    longest = max((s for user in world.users for s in user.samples), key=lambda s: len(s.tokens))
    model = memory_model(ours.model, world.encoder, longest, world.settings)
    step = sum(len(user.samples[0].tokens) for user in world.users)
    before = memory_bytes(where) or 0
    reset_peak_memory(where)
    ours.round(Stopwatch(where))
    peak = peak_memory_bytes(where) or 0
    return MemoryPeak(
        size=work.size,
        users=work.users,
        tokens_per_step=spec.tokens_per_step,
        recompute=recompute,
        dtype=spec.dtype,
        slot_bytes=model.slot_bytes,
        token_bytes=model.token_bytes,
        predicted_bytes=model.peak(work.users, min(step, spec.tokens_per_step), work.users),
        measured_bytes=peak - before,
        base_bytes=before,
    )


@app.command()
def run(
    out: Annotated[Path, typer.Option(help="JSON file to write.")],
    size: Annotated[list[str], typer.Option(help="overhead, small, 135m, 1b or 7b.")] = SIZES,
    users: Annotated[list[int], typer.Option(min=1, help="Users together.")] = USERS,
    tokens_per_step: Annotated[list[int], typer.Option(min=1, help="Tokens a pass.")] = TOKENS,
    sample_tokens: Annotated[int, typer.Option(min=8, help="Tokens a sample.")] = 96,
    dtype: Annotated[str, typer.Option(help="What the base computes in.")] = "float32",
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    seed: Annotated[int, typer.Option(help="Of weights and tokens.")] = 0,
) -> None:
    """Measure peaks over a grid of settings and write OUT."""
    for name in size:
        shape_of(name)
    parse_spec(f"ours-moe:dtype={dtype}")
    ready_device(device)
    ready_file(out, mark_of("memory"))
    facts = where(seed) | {"commit": commit(), "sample_tokens": sample_tokens}
    peaks: list[MemoryPeak] = []
    for name, count, tokens, recompute in itertools.product(
        size, users, tokens_per_step, (False, True)
    ):
        work = Workload(name, count, 2, sample_tokens, "fixed", seed)
        text = f"ours-moe:tokens_per_step={tokens},dtype={dtype}"
        say(f"{name}, {count} users, {tokens} tokens a pass, recompute {recompute}")
        peaks.append(in_own_process(measure, work, text, recompute, device))
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
