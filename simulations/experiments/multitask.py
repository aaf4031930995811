"""`exp multitask`: one embedding for all tasks of a person, against one a task.

For users who have two tasks. The embedding is fitted, then each task's adapter is trained over it
on the task's own items:

    shared       fitted on the items of both tasks, as `proper adapt` does
    apart        fitted on the task's own items
    transferred  fitted on the other task's items: what a second task gets for free
    mean         the mean of the pooled users: no fit at all

Scored with the adapter (stage 3) and without (stage 2), where the embedding is all that differs.
No item serves both tasks: where both histories hold it, every other one goes to each.
Source: docs/method.md 1.9 (multi-task: keep one e_u across tasks).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from client.person.adapting import merged, task_seed, task_state
from client.person.learner import Learner, lora_report, samples_report, user_seed
from client.person.state import PersonalState
from proper_model.engine import Samples
from proper_model.errors import ConfigError, DataError
from proper_model.evaluation import Scored
from proper_model.progress import Progress
from proper_model.release.contents import Release
from proper_model.stages import EmbeddingFit
from proper_model.tasks import Task, User
from simulations.experiments.asking import score_queries
from simulations.experiments.common import Meter, Outcome, as_experiment, train_release
from simulations.experiments.schema import Experiment
from simulations.setup.columns import DATE, ID, USER
from simulations.setup.options import Demo, OneRun, Reading
from simulations.setup.sources import Source, choose_template, load_source, read_data

CONDITIONS = ("shared", "apart", "transferred", "mean")
PAIRS = (
    ("shared", "apart"),
    ("transferred", "apart"),
    ("shared", "mean"),
    ("apart", "mean"),
    ("transferred", "mean"),
)
NOTES = (
    "no item serves both tasks: of items in both histories every other one goes to each task",
    "the pooled stages train on both tasks of the pooled users",
    "costs: fits of embeddings alone, both tasks' for 'apart'; adapters cost all conditions alike",
)


@dataclass(frozen=True)
class TwoTasks:
    """The same users in two tasks, in the same order: pooled ones and test users."""

    tasks: tuple[Task, Task]
    pooled: tuple[tuple[User, ...], tuple[User, ...]]
    test: tuple[tuple[User, ...], tuple[User, ...]]


def multitask(
    run: OneRun, *, second_data: str | None, second_task: str, progress: Progress
) -> Experiment:
    """The whole experiment. Raises ConfigError, DataError or TaskError before training anything."""
    files = run.reading.origin
    if isinstance(files, Demo):
        raise ConfigError(
            "synthetic people have one task each", hint="give two data folders of the same users"
        )
    source = load_source(run.reading, progress)
    both = second_of(source, run.reading, second_data or files.data, second_task, files.columns)
    source = replace(source, population=replace(source.population, pooled=both.pooled[0]))
    beside = [(both.pooled[1], both.tasks[1])]
    release = train_release(run, source, progress, beside=beside)
    outcome = measure(
        release,
        both,
        seed=run.training.seed,
        progress=progress,
        memory=run.machinery.memory_bytes,
    )
    facts = {"users_left_out": len(source.population.test) - outcome.users, **outcome.facts}
    outcome = replace(outcome, facts=facts, notes=NOTES)
    return as_experiment("multitask", run.training, source, both.tasks, outcome)


def second_of(
    source: Source, reading: Reading, data: str, name: str, columns: Mapping[str, str]
) -> TwoTasks:
    """What the source's users do in a second task. Raises DataError if hardly anybody has two."""
    task, _ = choose_template(name, reading.template, source.settings)
    if task.name == source.task.name:
        raise ConfigError(
            f"both tasks are {task.name}", hint="--second-task must name another task"
        )
    known = (USER, DATE, ID, *task.fields)
    named = {meaning: column for meaning, column in columns.items() if meaning in known}
    population, _ = read_data(data, task, named, hint="--second-data takes data of the same users")
    others = {user.user_id: user for user in (*population.pooled, *population.test)}
    most = reading.people.max_items
    pooled = _divided(source.population.pooled, others, most, least=0)
    least = source.settings.user.min_items_to_train
    test = _divided(source.population.test, others, most, least=least)
    if not test[0]:
        raise DataError(
            f"no test user has {least} items and a query in both tasks",
            hint="the two folders must hold the same users, by user_id",
        )
    return TwoTasks((source.task, task), pooled, test)


def _divided(
    users: Sequence[User], others: Mapping[str, User], cap: int | None, *, least: int
) -> tuple[tuple[User, ...], tuple[User, ...]]:
    """Both tasks' users, without items in common; with `least`, only who can train both tasks."""
    first, second = [], []
    for user in users:
        other = others.get(user.user_id, User(user.user_id, (), ()))
        recent = other.history[-cap:] if cap else other.history
        a, b = apart(user, replace(other, history=recent))
        short = min(len(a.history), len(b.history)) < least
        if least and (short or not a.queries or not b.queries):
            continue
        first.append(a)
        second.append(b)
    return tuple(first), tuple(second)


def apart(a: User, b: User) -> tuple[User, User]:
    """Both users without items in common: of those that were, every other one is left to each."""
    theirs = {item.id for item in b.history}
    common = [item.id for item in a.history if item.id in theirs]
    mine, yours = set(common[0::2]), set(common[1::2])
    return (
        replace(a, history=tuple(item for item in a.history if item.id not in yours)),
        replace(b, history=tuple(item for item in b.history if item.id not in mine)),
    )


@dataclass(frozen=True)
class Fits:
    """Embeddings of all users [U, tables, e] by condition and task, and how each was found."""

    embeddings: Mapping[tuple[str, int], Tensor]
    found: Mapping[str, Sequence[EmbeddingFit]]


def fit_all(learner: Learner, both: TwoTasks, *, seed: int, meter: Meter) -> Fits:
    """Fit every user's embedding on both tasks' items, and on each task's alone."""
    rows = list(zip(*both.test, strict=True))
    seeds = [user_seed(seed, user.user_id) for user, _ in rows]
    encoded = [
        [learner.encode(user.history, task) for user, task in zip(pair, both.tasks, strict=True)]
        for pair in rows
    ]
    together = [
        merged([(user.history, own) for user, own in zip(pair, samples, strict=True)])
        for pair, samples in zip(rows, encoded, strict=True)
    ]
    with meter.over("shared"):
        shared, fits = learner.fit_embeddings(
            [learner.split(own, seed=s) for own, s in zip(together, seeds, strict=True)],
            phase="embedding of both tasks",
        )
    own, found = [], {"shared": fits}
    for place, task in enumerate(both.tasks):
        with meter.over("apart"):
            fitted, fits = learner.fit_embeddings(
                [learner.split(e[place], seed=s) for e, s in zip(encoded, seeds, strict=True)],
                phase=f"embedding of {task.name}",
            )
        own.append(fitted)
        found[task.name] = fits
    mean = learner.release.mean_embedding[None].expand_as(shared)
    embeddings: dict[tuple[str, int], Tensor] = {}
    for place in range(len(both.tasks)):
        embeddings |= {
            ("shared", place): shared,
            ("apart", place): own[place],
            ("transferred", place): own[1 - place],
            ("mean", place): mean,
        }
    return Fits(embeddings, found)


def measure(
    release: Release,
    both: TwoTasks,
    *,
    seed: int,
    progress: Progress,
    memory: int | None = None,
) -> Outcome:
    """Train and score every condition; all users and conditions in shared passes.

    `memory` is what training may take beside the base, in bytes; None as in `Learner`.
    """
    meter = Meter(release.base)
    learner = Learner(release, memory_bytes=memory, progress=progress)
    fits = fit_all(learner, both, seed=seed, meter=meter)
    scores: dict[str, dict[str, Scored]] = {condition: {} for condition in CONDITIONS}
    facts: dict[str, float | int] = {
        f"embeddings_fitted_{name}": sum(fit.source == "fitted" for fit in found)
        for name, found in fits.found.items()
    }
    for place, task in enumerate(both.tasks):
        users, asked = both.test[place], replace(release, task=task)
        samples = [
            learner.split(
                learner.encode(user.history, task),
                seed=task_seed(user_seed(seed, user.user_id), task.name),
            )
            for user in users
        ]
        states = _train(learner, both, samples, fits, place)
        for condition, own in states.items():
            for stage in ("2", "3"):
                progress(f"asking {task.name}, {condition}, stage {stage}", 0, 0)
                scores[condition][f"{task.name}, stage {stage}"] = score_queries(
                    asked, users, f"stage{stage}", own, memory_bytes=memory
                )
        facts[f"items_{task.name}"] = sum(len(user.history) for user in users)
    return Outcome(
        users=len(both.test[0]), scores=scores, costs=meter.costs, pairs=PAIRS, facts=facts
    )


def _train(
    learner: Learner, both: TwoTasks, samples: Sequence[Samples], fits: Fits, place: int
) -> dict[str, dict[str, PersonalState]]:
    """One task's adapters over every condition's embeddings; all start from the same factors."""
    users = both.test[place]
    embeddings = torch.cat([fits.embeddings[condition, place] for condition in CONDITIONS])
    many = [own for _ in CONDITIONS for own in samples]
    lora, lora_fits = learner.train_loras(many, embeddings, phase=f"adapters, task {place + 1}")
    states: dict[str, dict[str, PersonalState]] = {condition: {} for condition in CONDITIONS}
    task = both.tasks[place]
    for member, (own, fit) in enumerate(zip(many, lora_fits, strict=True)):
        user = users[member % len(users)]
        adapter = learner.lora_tensors(lora, member)
        learned = task_state(task, user.history, adapter, samples_report(own) | lora_report(fit))
        states[CONDITIONS[member // len(users)]][user.user_id] = PersonalState(
            "",
            0,
            seed=own.seed,
            embedding=embeddings[member].cpu().clone(),
            tasks={task.name: learned},
        )
    return states
