"""What all experiments share: a release, what its parts cost, and scores made into a result."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch

from proper_model.engine import manage_freed_memory
from proper_model.evaluation import CORPUS_METRICS, Level, Scored
from proper_model.progress import Progress
from proper_model.release.contents import Release
from proper_model.settings import Stage2People
from proper_model.tasks import Task, User
from simulations.experiments.schema import Condition, Costs, Experiment, SetContrast
from simulations.outcome import environment
from simulations.reporting.score import CONFIDENCE, Resampling, arm_result
from simulations.setup.options import OneRun, Training
from simulations.setup.prepare import server_threads
from simulations.setup.sources import Source

# Condition to set of questions to scores.
Scores = Mapping[str, Mapping[str, Scored]]
UNUSED = frozenset({"parse_failure_rate"})  # in contrasts: a difference in it says nothing


@dataclass(frozen=True)
class Outcome:
    """What an experiment measured, before it is summed up.

    Attributes:
        scores: condition, then set of questions; all conditions hold the same sets and users.
        costs: of conditions that cost something by themselves.
        pairs: which conditions are compared, first minus second.
    """

    users: int
    scores: Scores
    costs: Mapping[str, Costs]
    pairs: Sequence[tuple[str, str]]
    facts: Mapping[str, float | int]
    notes: Sequence[str] = field(default_factory=tuple)


def train_release(
    run: OneRun,
    source: Source,
    progress: Progress,
    *,
    beside: Sequence[tuple[Sequence[User], Task]] = (),
) -> Release:
    """The pooled stages without Flower, from the run's cache where they were trained before."""
    from coordinator.pooled_stages import run_pooled_stages

    torch.set_num_threads(server_threads(run.machinery, source))
    manage_freed_memory(run.machinery.memory_bytes)
    who = run.reading.people.stage2_users
    return run_pooled_stages(
        source.population.pooled,
        source.task,
        source.base,
        run.training.structure,
        source.settings,
        seed=run.training.seed,
        cache=run.places.cache,
        beside=beside,
        personalized=source.population.test if who is Stage2People.EVERYBODY else (),
        shuffle_identities=who is Stage2People.SHUFFLED,
        memory_bytes=run.machinery.memory_bytes,
        progress=progress,
    )


class Meter:
    """Costs by name: tokens through the base, and seconds. A name that is measured twice adds up.

    Tokens are counted where they enter the base, so that trials, early stops and the last training
    on all items count as what they were. A cohort shares passes: the sums are exact, a single
    user's share is their mean.
    """

    def __init__(self, base: Any) -> None:
        self.base = base
        self.costs: dict[str, Costs] = {}

    @contextmanager
    def over(self, name: str) -> Iterator[None]:
        """Count everything that goes through the base until the end of the block."""
        tokens = {True: 0, False: 0}

        def count(_module: object, given: tuple[Any, ...], _output: object) -> None:
            tokens[torch.is_grad_enabled()] += int(given[0].numel())

        wall, cpu = time.monotonic(), time.process_time()
        hook = self.base.get_input_embeddings().register_forward_hook(count)
        try:
            yield
        finally:
            hook.remove()
        spent = Costs(
            trained_tokens=tokens[True],
            judged_tokens=tokens[False],
            seconds=time.monotonic() - wall,
            cpu_seconds=time.process_time() - cpu,
        )
        self.costs[name] = spent + self.costs[name] if name in self.costs else spent


def as_experiment(
    name: Literal["drift", "multitask"],
    training: Training,
    source: Source,
    tasks: Sequence[Task],
    outcome: Outcome,
) -> Experiment:
    """The result file's content: means with intervals over users, and paired differences."""
    drawn = Resampling()
    conditions = {
        condition: Condition(
            sets={on: arm_result(table, drawn) for on, table in sets.items()},
            costs=outcome.costs.get(condition),
        )
        for condition, sets in outcome.scores.items()
    }
    base = Path(source.base)
    return Experiment(
        experiment=name,
        tasks=[task.name for task in tasks],
        templates=[task.template for task in tasks],
        base=base.name if base.is_dir() else source.base,
        preset=training.structure.name,
        profile=source.settings.name,
        seed=training.seed,
        split=source.people,
        users=outcome.users,
        hardware=environment.hardware(),
        commit=environment.commit(),
        confidence=CONFIDENCE,
        conditions=conditions,
        contrasts=contrasts(outcome.scores, outcome.pairs, drawn),
        facts=dict(outcome.facts),
        notes=list(outcome.notes),
    )


def contrasts(
    scores: Scores, pairs: Sequence[tuple[str, str]], drawn: Resampling
) -> list[SetContrast]:
    """Every pair on every set and metric, users resampled; at user level where there is one."""
    found = []
    for a, b in pairs:
        for on, table in scores[a].items():
            other = scores[b][on]
            for metric in table.metrics:
                if metric in UNUSED or metric not in other.metrics:
                    continue
                level: Level = "query" if metric in CORPUS_METRICS else "user"
                row = drawn.difference(table, other, metric, level)
                found.append(SetContrast.of(a, b, metric, level, row, on=on))
    return found
