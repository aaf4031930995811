"""Running all contenders of one setting: warm-up, then rounds in turn, then the figures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

from benchmarks.contenders.sizes import shape_of
from benchmarks.contenders.specs import SEQUENTIAL, Spec
from benchmarks.contenders.workload import Workload
from benchmarks.measuring.worker import Job, Refused, Round, Worker
from benchmarks.results.schema import Setting
from benchmarks.summaries import Run, contender_result, peak_of

Say = Callable[[str], None]


@dataclass(frozen=True)
class Plan:
    """How a setting is measured.

    Attributes:
        rival_users: how many users the per-user loops train when all are alike: their rate does
            not depend on it, and waiting for hundreds teaches nothing. Unequal users all train.
        interleaved: rounds go round-robin over contenders; otherwise each contender runs all its
            rounds and leaves, where several bases do not fit into memory together.
    """

    device: str
    rounds: int
    warmup: int
    rival_users: int
    dropout: float
    history_tokens: int
    interleaved: bool


def measure_setting(work: Workload, specs: Sequence[Spec], plan: Plan, say: Say) -> Setting:
    """Measure every contender on a workload."""
    jobs = [_job(work, spec, plan) for spec in [*_peak_specs(specs), *specs]]
    runs = _interleaved(jobs, plan, say) if plan.interleaved else _in_turn(jobs, plan, say)
    peaks = [peak_of(run) for run in runs if run.spec.kind == "matmul" and run.measured]
    raced = [run for run in runs if run.spec.kind != "matmul"]
    return Setting(
        size=work.size,
        users=work.users,
        samples=work.samples,
        tokens=work.tokens,
        lengths=work.lengths,
        seed=work.seed,
        peaks=peaks,
        contenders=[
            contender_result(
                run,
                raced,
                peaks,
                shape_of(work.size),
                on_cpu=plan.device == "cpu",
                history_tokens=plan.history_tokens,
            )
            for run in raced
        ],
    )


def _peak_specs(specs: Sequence[Spec]) -> list[Spec]:
    """One measurement of matrix products for every dtype and number of threads in use."""
    found = dict.fromkeys((spec.dtype, spec.threads) for spec in specs)
    return [Spec("matmul", dtype=dtype, threads=threads) for dtype, threads in found]


def _job(work: Workload, spec: Spec, plan: Plan) -> Job:
    alike = work.lengths == "fixed" and spec.kind in SEQUENTIAL
    users = min(work.users, plan.rival_users) if alike else None
    return Job(work, spec, plan.device, users, plan.dropout)


def _interleaved(jobs: Sequence[Job], plan: Plan, say: Say) -> list[Run]:
    with ExitStack() as stack:
        workers = []
        for job in jobs:
            say(f"{job.spec.label}: building")
            workers.append(stack.enter_context(Worker(job)))
        kept: list[list[Round]] = [[] for _ in jobs]
        for number in range(plan.warmup + plan.rounds):
            say(f"round {number + 1} of {plan.warmup + plan.rounds}")
            for worker, rounds in zip(workers, kept, strict=True):
                _one(worker, rounds, keep=number >= plan.warmup)
        return [_run(worker, rounds) for worker, rounds in zip(workers, kept, strict=True)]


def _in_turn(jobs: Sequence[Job], plan: Plan, say: Say) -> list[Run]:
    runs = []
    for job in jobs:
        say(f"{job.spec.label}: all rounds")
        with Worker(job) as worker:
            rounds: list[Round] = []
            for number in range(plan.warmup + plan.rounds):
                _one(worker, rounds, keep=number >= plan.warmup)
            runs.append(_run(worker, rounds))
    return runs


def _one(worker: Worker, rounds: list[Round], *, keep: bool) -> None:
    answer = worker.round()
    if keep and not isinstance(answer, Refused):
        rounds.append(answer)


def _run(worker: Worker, rounds: list[Round]) -> Run:
    return Run(worker.job.spec, worker.ready, rounds, worker.refused)
