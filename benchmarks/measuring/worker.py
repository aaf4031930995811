"""One contender in a process of its own, run a round at a time from outside.

Own processes give each contender its own threads, peak memory and CPU seconds; rounds on demand let
the parent go round-robin over contenders, so that a disturbance of the machine hits all alike.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from multiprocessing.connection import Connection

import torch

from benchmarks.contenders import Spec, Workload, build_world, make_contender
from benchmarks.contenders.measure import (
    Stopwatch,
    memory_bytes,
    peak_memory_bytes,
    reset_peak_memory,
)
from benchmarks.contenders.workload import Counts
from benchmarks.kinds import Seconds
from benchmarks.measuring.processes import Child, cause_of
from proper_model.engine.memory import keep_freed_memory

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


class Worker(Child):
    """The parent's end. `cause` says why there are no more rounds.

    Args:
        users: only the first of the workload's; None: all.
    """

    def __init__(self, work: Workload, spec: Spec, users: int | None, dropout: float) -> None:
        super().__init__(_serve, work, spec, users, dropout)
        self.spec = spec
        self.cause: str | None = None
        self._answer()

    def round(self) -> Round | None:
        """Run one round and wait for it; None if it was refused, now or before."""
        return None if self.cause else self._answer("round")

    def _answer(self, word: str | None = None) -> Round | None:
        try:
            if word is not None:
                self.send(word)
            answer = self.receive()
        except (EOFError, OSError):  # the system ended it, most likely for its memory
            answer = "Killed"
        if isinstance(answer, str):
            self.cause = answer
        return answer if isinstance(answer, Round) else None


def _serve(there: Connection, work: Workload, spec: Spec, users: int, dropout: float) -> None:
    """In the child: build, then a round for every word but `stop`. A text says what went wrong."""
    try:
        torch.set_num_threads(spec.threads)
        keep_freed_memory()  # as every process that trains many people, and rivals alike
        torch.manual_seed(work.seed)
        world = build_world(work, spec, device=CPU, users=users, dropout=dropout)
        contender = make_contender(world)
        attention = str(world.base.config._attn_implementation)  # noqa: SLF001 - no other way
        before = memory_bytes(CPU, world.process)
        reset_peak_memory(CPU, world.process)
        there.send(None)
        while there.recv() == "round":
            clock, world.encoder.counts = Stopwatch(CPU), Counts()
            contender.round(clock)
            counts = dataclasses.replace(world.encoder.counts)
            peak = peak_memory_bytes(CPU, world.process)
            there.send(Round(clock.seconds(), counts, len(world.users), attention, before, peak))
    except EOFError:
        pass  # the parent is gone
    except Exception as error:  # noqa: BLE001 - a rival's failure is a result
        there.send(cause_of(error))
