"""One contender in a process of its own, run a round at a time from outside.

Own processes give each contender its own threads, peak memory and CPU seconds; rounds on demand let
the parent go round-robin over contenders, so that a disturbance of the machine hits all alike.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from benchmarks.contenders import Spec, Workload, build_world, make_contender
from benchmarks.contenders.measure import (
    Stopwatch,
    memory_bytes,
    peak_memory_bytes,
    reset_peak_memory,
)
from benchmarks.contenders.workload import Counts
from benchmarks.contenders.world import Contender, World
from benchmarks.kinds import Seconds
from benchmarks.measuring.processes import Child, Result
from proper_model.engine.memory import keep_freed_memory
from proper_model.errors import ProperError

CPU = torch.device("cpu")


@dataclass(frozen=True)
class Round:
    """What one round took, and what went through the base, whose attention is named.

    Memory is that before the first round, and the peak.
    """

    seconds: Seconds
    counts: Counts
    users: int
    attention: str
    before_bytes: int | None
    peak_bytes: int | None


_built: list[tuple[World, Contender, int | None]] = []  # in the child: what it races


def build(work: Workload, spec: Spec, users: int | None, dropout: float) -> None:
    """In the child: make everything; `users` trains only the first of the workload's."""
    torch.set_num_threads(spec.threads)
    keep_freed_memory()  # as every process that trains many people, and rivals alike
    torch.manual_seed(work.seed)
    world = build_world(work, spec, device=CPU, users=users, dropout=dropout)
    contender = make_contender(world)
    _built.append((world, contender, memory_bytes(CPU, world.process)))
    reset_peak_memory(CPU, world.process)


def one_round() -> Round:
    """In the child: train all users once from the start."""
    world, contender, before = _built[0]
    clock, world.encoder.counts = Stopwatch(CPU), Counts()
    contender.round(clock)
    return Round(
        clock.seconds(),
        world.encoder.counts,
        len(world.users),
        str(world.base.config._attn_implementation),  # noqa: SLF001 - no other way
        before,
        peak_memory_bytes(CPU, world.process),
    )


class Worker:
    """A contender and the process that trains it. `cause` says why there are no more rounds."""

    def __init__(self, child: Child, spec: Spec) -> None:
        self.child, self.spec = child, spec
        self.rounds: list[Round] = []
        self.cause: str | None = None

    def ask(self, function: Callable[..., Result], *arguments: object) -> Result | None:
        """What it answers; None if it has failed, now or before. One that failed leaves its memory to the others."""
        if self.cause is None:
            try:
                return self.child.call(function, *arguments)
            except ProperError as error:
                self.cause = error.message
                self.child.end()
        return None
