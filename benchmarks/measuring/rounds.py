"""Running all contenders of one setting: warm-up, then rounds in turn, then their results."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

from benchmarks.contenders import Spec, Workload
from benchmarks.contenders.specs import SEQUENTIAL
from benchmarks.kinds import KINDS
from benchmarks.measuring.peer import PEER, PeerWorker
from benchmarks.measuring.worker import Job, Ready, Refused, Round, Worker
from benchmarks.results.schema import ContenderResult, Measured, RoundSeconds, Setting

Say = Callable[[str], None]


@dataclass(frozen=True)
class Plan:
    """How a setting is measured.

    Attributes:
        rival_users: how many users the per-user loops train when all are alike: their rate does
            not depend on it, and waiting for hundreds teaches nothing. Unequal users all train.
    """

    device: str
    rounds: int
    warmup: int
    rival_users: int
    dropout: float


def measure_setting(work: Workload, specs: Sequence[Spec], plan: Plan, say: Say) -> Setting:
    """Measure every contender on a workload."""
    jobs = [_job(work, spec, plan) for spec in specs]
    return Setting(**dataclasses.asdict(work), contenders=_race(jobs, plan, say))


def _job(work: Workload, spec: Spec, plan: Plan) -> Job:
    alike = work.lengths == "fixed" and spec.kind in SEQUENTIAL
    users = min(work.users, plan.rival_users) if alike else None
    return Job(work, spec, plan.device, users, plan.dropout)


def _race(jobs: Sequence[Job], plan: Plan, say: Say) -> list[ContenderResult]:
    """Results of contenders that take turns, round by round."""
    with ExitStack() as stack:
        workers: list[Worker | PeerWorker] = []
        for job in jobs:
            say(f"{job.spec.label}: building")
            worker: Worker | PeerWorker
            worker = PeerWorker(job) if job.spec.kind == PEER else Worker(job)
            workers.append(worker)
            stack.enter_context(worker)
        kept: list[list[Round]] = [[] for _ in jobs]
        total, began = plan.warmup + plan.rounds, time.monotonic()
        for number in range(total):
            if number > plan.warmup:  # a round of before may have compiled
                left = (time.monotonic() - began) / (number - plan.warmup) * (total - number)
                say(f"round {number + 1} of {total}, about {left:.0f} s to go")
            else:
                began = time.monotonic()
                say(f"round {number + 1} of {total}")
            for worker, rounds in zip(workers, kept, strict=True):
                answer = worker.round()
                if number >= plan.warmup and isinstance(answer, Round):
                    rounds.append(answer)
        return [
            contender_result(one.job.spec, one.ready, rounds, one.refused)
            for one, rounds in zip(workers, kept, strict=True)
        ]


def contender_result(
    spec: Spec, ready: Ready | None, rounds: Sequence[Round], refused: Refused | None
) -> ContenderResult:
    """One contender's entry; one that was refused at any time was not measured."""
    status, measured = "measured", None
    if refused is not None:
        status = "failed"
    else:
        assert ready is not None
        counts = rounds[0].counts
        assert all(one.counts == counts for one in rounds), "a round did other work than before"
        known = [one.peak_bytes for one in rounds if one.peak_bytes is not None]
        measured = Measured(
            users=ready.users,
            **dataclasses.asdict(counts),
            rounds=[RoundSeconds(**dataclasses.asdict(one.seconds)) for one in rounds],
            memory_before_bytes=ready.memory_bytes,
            memory_peak_bytes=max(known, default=None),
        )
    entry = dataclasses.asdict(spec) | {
        "label": spec.label,
        "what": KINDS[spec.kind],
        "attention": ready.attention if ready else spec.attention,
        "status": status,
        "cause": refused.cause if refused else None,
        "measured": measured,
    }
    return ContenderResult.model_validate(entry)
