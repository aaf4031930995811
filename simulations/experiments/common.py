"""What all experiments share: a release trained on pooled users, and scores made into a result."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from proper_model.evaluation import CORPUS_METRICS, RESAMPLES, Level, Scored, paired_bootstrap
from proper_model.release.contents import Release
from proper_model.settings import preset
from proper_model.tasks import Task, User
from simulations.experiments.schema import Condition, Costs, Experiment, SetContrast
from simulations.outcome import environment
from simulations.reporting.score import CONFIDENCE, SEED, arm_result
from simulations.setup.options import RunOptions
from simulations.setup.sources import Progress, Source

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
    options: RunOptions,
    source: Source,
    progress: Progress,
    *,
    beside: Sequence[tuple[Sequence[User], Task]] = (),
) -> Release:
    """The pooled stages without Flower, from the run's cache where they were trained before."""
    import torch

    from coordinator.pooled_stages import run_pooled_stages
    from proper_model.checks import read_config
    from proper_model.federation.machine import useful_threads
    from simulations.setup.calibrate import shape_of
    from simulations.setup.prepare import memory_bytes

    hidden = shape_of(read_config(source.config_base)).hidden
    torch.set_num_threads(options.threads or useful_threads(hidden))
    return run_pooled_stages(
        source.population.pooled,
        source.task,
        source.base,
        preset(options.preset),
        source.settings,
        seed=options.seed,
        cache=options.cache_folder,
        beside=beside,
        memory_bytes=memory_bytes(options.memory_budget),
        progress=progress,
    )


def as_experiment(
    name: Literal["drift", "multitask"],
    options: RunOptions,
    source: Source,
    tasks: Sequence[Task],
    outcome: Outcome,
    *,
    resamples: int = RESAMPLES,
) -> Experiment:
    """The result file's content: means with intervals over users, and paired differences."""
    conditions = {
        condition: Condition(
            sets={
                on: arm_result(table, resamples=resamples, confidence=CONFIDENCE)
                for on, table in sets.items()
            },
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
        preset=options.preset,
        profile=source.settings.name,
        seed=options.seed,
        split=source.people,
        users=outcome.users,
        hardware=environment.hardware(),
        commit=environment.commit(),
        confidence=CONFIDENCE,
        conditions=conditions,
        contrasts=contrasts(outcome.scores, outcome.pairs, resamples=resamples),
        facts=dict(outcome.facts),
        notes=list(outcome.notes),
    )


def contrasts(
    scores: Scores, pairs: Sequence[tuple[str, str]], *, resamples: int
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
                row = paired_bootstrap(
                    table,
                    other,
                    metric,
                    level=level,
                    seed=SEED,
                    resamples=resamples,
                    confidence=CONFIDENCE,
                )
                found.append(
                    SetContrast(
                        a=a,
                        b=b,
                        metric=metric,
                        level=level,
                        delta=row.delta,
                        low=row.low,
                        high=row.high,
                        on=on,
                    )
                )
    return found
