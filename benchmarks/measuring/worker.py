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
from benchmarks.measuring.processes import Child, cause_of
from benchmarks.seconds import Seconds
from proper_model.engine.memory import keep_freed_memory


@dataclass(frozen=True)
class Job:
    """A contender and what it trains; `users` are the first of the workload's, None is all."""

    work: Workload
    spec: Spec
    device: str
    users: int | None = None
    dropout: float = 0.0


@dataclass(frozen=True)
class Ready:
    """The base is built; `attention` is what it uses, memory is before the first round."""

    users: int
    attention: str
    memory_bytes: int | None


@dataclass(frozen=True)
class Round:
    """What one round took and what went through the base."""

    seconds: Seconds
    counts: Counts
    peak_bytes: int | None


@dataclass(frozen=True)
class Refused:
    """No more rounds, for this cause; see `cause_of`."""

    cause: str


class Worker(Child):
    """The parent's end. A refusal is an answer like another; asking again repeats it."""

    def __init__(self, job: Job) -> None:
        super().__init__(_serve, job)
        self.job = job
        self.refused: Refused | None = None
        first = self._answer()
        self.ready = first if isinstance(first, Ready) else None

    def round(self) -> Round | Refused:
        """Run one round and wait for it."""
        if self.refused is None:
            answer = self._answer("round")
            assert isinstance(answer, Round | Refused)
            return answer
        return self.refused

    def _answer(self, word: str | None = None) -> Ready | Round | Refused:
        try:
            if word is not None:
                self.send(word)
            answer = self.receive()
        except (EOFError, OSError):  # the system ended it, most likely for its memory
            answer = Refused("Killed")
        if isinstance(answer, Refused):
            self.refused = answer
        assert isinstance(answer, Ready | Round | Refused)
        return answer


def _serve(there: Connection, job: Job) -> None:
    """In the child: build, then a round for every word but `stop`."""
    try:
        torch.set_num_threads(job.spec.threads)
        keep_freed_memory()  # as every process that trains many people, and rivals alike
        torch.manual_seed(job.work.seed)
        device = torch.device(job.device)
        world = build_world(job.work, job.spec, device=device, users=job.users, dropout=job.dropout)
        contender = make_contender(world)
        attention = str(world.base.config._attn_implementation)  # noqa: SLF001 - no other way
        there.send(Ready(len(world.users), attention, memory_bytes(device)))
        reset_peak_memory(device)
        while there.recv() == "round":
            clock, world.encoder.counts = Stopwatch(device), Counts()
            contender.round(clock)
            counts = dataclasses.replace(world.encoder.counts)
            there.send(Round(clock.seconds(), counts, peak_memory_bytes(device)))
    except EOFError:
        pass  # the parent is gone
    except Exception as error:  # noqa: BLE001 - a rival's failure is a result
        there.send(Refused(cause_of(error)))
