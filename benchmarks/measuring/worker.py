"""One contender in a process of its own, run a round at a time from outside.

Own processes give each contender its own threads, its own peak memory, and CPU seconds that are
nobody else's; rounds on demand let the parent go round-robin over contenders, so that a disturbance
of the machine hits all of them alike. Processes are forked from a server that has imported
everything and computed nothing.
"""

from __future__ import annotations

import contextlib
import dataclasses
import multiprocessing
from dataclasses import dataclass
from multiprocessing import forkserver
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Self

from benchmarks.causes import cause_of
from benchmarks.contenders.measure import (
    Seconds,
    Stopwatch,
    matmul_seconds,
    memory_bytes,
    peak_memory_bytes,
    reset_peak_memory,
)
from benchmarks.contenders.sizes import shape_of
from benchmarks.contenders.specs import Spec
from benchmarks.contenders.workload import Counts, Workload
from benchmarks.deaf import deaf_children

PRELOAD = [
    "transformers.models.llama.modeling_llama",
    "transformers.trainer",
    "peft",
    "benchmarks.contenders.build",
]
STOP_S = 30.0


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
    """One round's seconds and counts; `operations` only of matrix products."""

    training: Seconds
    setup: Seconds
    counts: Counts
    operations: int
    peak_bytes: int | None


@dataclass(frozen=True)
class Refused:
    """No more rounds: `impossible` by the contender's own word, else an error; see `causes`."""

    impossible: bool
    cause: str


Answer = Ready | Round | Refused


class Worker:
    """The parent's end. A refusal is an answer like another; asking again repeats it."""

    def __init__(self, job: Job) -> None:
        self.job = job
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(PRELOAD)
        with deaf_children():
            forkserver.ensure_running()
        self._here, there = context.Pipe()
        self._process = context.Process(target=_serve, args=(there, job), daemon=True)
        self._process.start()
        there.close()
        self.refused: Refused | None = None
        first = self._answer()
        self.ready = first if isinstance(first, Ready) else None

    def round(self) -> Round | Refused:
        """Run one round and wait for it."""
        if self.refused is not None:
            return self.refused
        try:
            self._here.send("round")
        except OSError:
            self.refused = Refused(impossible=False, cause="Killed")
            return self.refused
        answer = self._answer()
        assert not isinstance(answer, Ready)
        return answer

    def _answer(self) -> Answer:
        try:
            answer: Answer = self._here.recv()
        except (EOFError, OSError):  # the system ended it, most likely for its memory
            answer = Refused(impossible=False, cause="Killed")
        if isinstance(answer, Refused):
            self.refused = answer
        return answer

    def close(self, *, at_once: bool = False) -> None:
        """End the process; `at_once` in the middle of a round."""
        if not at_once:
            with contextlib.suppress(OSError):
                self._here.send("stop")
            self._process.join(STOP_S)
        if self._process.is_alive():
            self._process.terminate()
            self._process.join()
        self._here.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close(at_once=kind is not None)


def _serve(there: Connection, job: Job) -> None:
    """The child's life: build, then a round for every word but `stop`."""
    from benchmarks.contenders.world import NotPossibleError

    try:
        running = _Running(job)
        there.send(running.ready)
        while there.recv() == "round":
            there.send(running.round())
    except NotPossibleError as error:
        there.send(Refused(impossible=True, cause=error.cause))
    except EOFError:
        pass  # the parent is gone
    except Exception as error:  # noqa: BLE001 - a rival's failure is a result
        there.send(Refused(impossible=False, cause=cause_of(error)))


class _Running:
    """A built contender in the child."""

    def __init__(self, job: Job) -> None:
        import torch

        from benchmarks.contenders.build import make_contender
        from benchmarks.contenders.world import build_world

        torch.set_num_threads(job.spec.threads)
        torch.manual_seed(job.work.seed)
        self.job, self.device = job, torch.device(job.device)
        if job.spec.kind == "matmul":
            self.ready = Ready(0, "", memory_bytes(self.device))
            return
        self.world = build_world(
            job.work, job.spec, device=self.device, users=job.users, dropout=job.dropout
        )
        self.contender = make_contender(self.world)
        attention = str(self.world.base.config._attn_implementation)  # noqa: SLF001 - no other way
        self.ready = Ready(len(self.world.users), attention, memory_bytes(self.device))
        reset_peak_memory(self.device)

    def round(self) -> Round:
        clock, operations, counts = Stopwatch(self.device), 0, Counts()
        if self.job.spec.kind == "matmul":
            operations = matmul_seconds(
                shape_of(self.job.work.size).products(),
                self.job.spec.tokens_per_step,
                dtype=self.job.spec.torch_dtype,
                device=self.device,
                clock=clock,
            )
        else:
            self.world.encoder.counts = Counts()
            self.contender.round(clock)
            counts = dataclasses.replace(self.world.encoder.counts)
        peak = peak_memory_bytes(self.device)
        return Round(clock.training, clock.setting_up, counts, operations, peak)
