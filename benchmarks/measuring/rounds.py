"""Running all contenders of one setting: warm-up, then rounds in turn, then their results."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack

from benchmarks.contenders import Spec, Workload
from benchmarks.contenders.specs import SEQUENTIAL
from benchmarks.kinds import KINDS
from benchmarks.measuring.processes import Child
from benchmarks.measuring.worker import Round, Worker, build, one_round
from benchmarks.results.schema import ContenderResult, Measured, Setting

Say = Callable[[str], None]
WARMUP = 1  # rounds before those that count
# Whom a loop trains where all are alike: its rate does not depend on how many, and waiting for hundreds
# teaches nothing. Unequal users all train.
RIVAL_USERS = 4


def measure_setting(
    work: Workload, specs: Sequence[Spec], *, rounds: int, dropout: float, say: Say
) -> Setting:
    """Measure every contender on a workload; they take turns, round by round."""
    with ExitStack() as stack:
        workers = []
        for spec in specs:
            say(f"{spec.label}: building")
            workers.append(Worker(stack.enter_context(Child()), spec))
            few = work.lengths == "fixed" and spec.kind in SEQUENTIAL
            users = min(work.users, RIVAL_USERS) if few else None
            workers[-1].ask(build, work, spec, users, dropout)
        total, began = WARMUP + rounds, time.monotonic()
        for number in range(total):
            left = ""
            if number > WARMUP:  # a round of before may have compiled
                spent = (time.monotonic() - began) / (number - WARMUP)
                left = f", about {spent * (total - number):.0f} s to go"
            else:
                began = time.monotonic()
            say(f"round {number + 1} of {total}{left}")
            for worker in workers:
                answer = worker.ask(one_round)
                if number >= WARMUP and answer:
                    worker.rounds.append(answer)
        found = [contender_result(one.spec, one.rounds, one.cause) for one in workers]
    return Setting(**dataclasses.asdict(work), contenders=found)


def contender_result(spec: Spec, rounds: Sequence[Round], cause: str | None) -> ContenderResult:
    """One contender's entry; one that was refused at any time, for this cause, was not measured."""
    measured = None
    if cause is None:
        first = rounds[0]
        assert all(r.counts == first.counts for r in rounds), "a round did other work than before"
        measured = Measured(
            users=first.users,
            **dataclasses.asdict(first.counts),
            rounds=[one.seconds for one in rounds],
            memory_before_bytes=first.before_bytes,
            memory_peak_bytes=max((r.peak_bytes for r in rounds if r.peak_bytes), default=None),
        )
    entry = dataclasses.asdict(spec) | {
        "label": spec.label,
        "what": KINDS[spec.kind],
        "attention": rounds[0].attention if rounds else spec.attention,
        "status": "failed" if cause else "measured",
        "cause": cause,
        "measured": measured,
    }
    return ContenderResult.model_validate(entry)
