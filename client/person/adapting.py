"""What a device does with one person's items: adapt, go on with new ones, forget, move to a bundle.

Pure functions from a state to a new one; storing it is the caller's. All tasks share one embedding:
it is fitted on the items of all of them, and the adapters of all tasks train over it in shared
passes, one member a task. Source: docs/method.md 1.5 f, 1.7 3c and 5 (drift, several tasks).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from client.person.learner import Learner, Report, embedding_report, lora_report, samples_report
from client.person.state import PersonalState, TaskState, utc_now
from client.person.updating import Member, go_on, update_samples
from proper_model.data import date_key
from proper_model.errors import ConfigError, TrainingError
from proper_model.kernels import Encoded, mix_seed
from proper_model.tasks import HistoryItem, Task


@dataclass(frozen=True)
class Update:
    """What an update did.

    Attributes:
        new_items: how many it was about, with those that earlier updates could not use.
        judged: whether there were enough of them to judge by; if not, nothing was trained.
        kept: whether the adapter went on; if not, the new items wait for the next update.
        loss_before, loss_after: per answer token on new items that were held back.
    """

    new_items: int
    rehearsed: int
    judged: bool
    kept: bool
    loss_before: float
    loss_after: float
    state: PersonalState


def in_time(items: Sequence[HistoryItem]) -> tuple[HistoryItem, ...]:
    """Oldest first where all have a date, of one day as they stand; else all as they stand."""
    keys = [date_key(item.date) for item in items]
    dated = [(key, place) for place, key in enumerate(keys) if key is not None]
    if len(dated) < len(items):
        return tuple(items)
    return tuple(items[place] for _, place in sorted(dated))


def adapt(
    learner: Learner,
    state: PersonalState,
    histories: Mapping[str, tuple[Task, Sequence[HistoryItem]]],
) -> PersonalState:
    """Fit the embedding and train every task's adapter, from the start, on exactly these items.

    The result depends on the items, the release and `state.seed` alone: after items were removed
    it is what it would be had they never been there.

    Raises:
        TrainingError: the embedding's or an adapter's training diverged at every learning rate.
    """
    names = sorted(histories)
    encoded = {n: learner.encode(histories[n][1], histories[n][0]) for n in names}
    together = merged([(histories[n][1], encoded[n]) for n in names])
    embeddings, fits = learner.fit_embeddings([learner.split_for_embedding(together, state.seed)])
    samples = [learner.split(encoded[n], seed=task_seed(state.seed, n)) for n in names]
    shared = embeddings[:1].expand(len(names), -1, -1)
    lora, lora_fits = learner.train_loras(samples, shared, phase="adapter")
    if all(fit.trained and fit.failed for fit in lora_fits):
        raise TrainingError(
            "training diverged at every learning rate; nothing was stored",
            hint="give a task file with a smaller user.learning_rates, or a release made with one",
        )
    tasks: dict[str, TaskState] = {}
    for member, name in enumerate(names):
        task, items = histories[name]
        trained = lora_fits[member].trained and not lora_fits[member].failed
        tasks[name] = TaskState(
            toml=task.toml_text,
            template=task.template,
            items=tuple(items),
            adapter=learner.lora_tensors(lora, member) if trained else {},
            report=finite(samples_report(samples[member]) | lora_report(lora_fits[member])),
            adapted_at=utc_now(),
        )
    return replace(
        state,
        embedding=embeddings[0].detach().cpu().clone(),
        embedding_report=finite(embedding_report(fits[0])),
        tasks=tasks,
    )


def histories_of(state: PersonalState) -> dict[str, tuple[Task, Sequence[HistoryItem]]]:
    """What `adapt` takes, from what is stored."""
    return {name: (task.task(), task.items) for name, task in state.tasks.items()}


def update(
    learner: Learner, state: PersonalState, name: str, items: Sequence[HistoryItem]
) -> Update:
    """Go on from a task's adapter with items it has not seen, and keep the result only if it helps.

    See `update_samples` for what trains and what judges. The items are stored in either case; those
    that did not help, or a single one, wait and count as new again when the next ones come.

    Raises ConfigError if there is no adapter or no new item.
    """
    task_state = state.tasks[name]
    task = task_state.task()
    everything = with_items(task_state, items).items
    unseen = len(everything) > len(task_state.items)
    if not unseen or state.embedding is None or not task_state.adapter:
        raise ConfigError(
            "there is nothing to go on from" if unseen else "there is no new item to go on with",
            hint="run proper adapt with the whole history",
        )
    trained = {item.id for item in task_state.items} - set(task_state.waiting)
    old = [item for item in everything if item.id in trained]
    new = [item for item in everything if item.id not in trained]
    samples, rehearsed = update_samples(
        learner.encode(new, task),
        learner.encode(old, task),
        seed=mix_seed(task_seed(state.seed, name), len(everything)),
        fraction=learner.settings.user.held_back_fraction,
    )
    factors = learner.factors(task_state.adapter)
    (done,) = go_on(learner, [Member(factors, state.embedding, samples)])
    fit = done.fit
    changed = replace(task_state, items=everything, waiting=tuple(item.id for item in new))
    if done.kept:
        counts = samples_report(samples) | {"items": len(everything)}
        changed = replace(
            changed,
            adapter=done.adapter,
            report={**task_state.report, **finite(lora_report(fit)), **counts},
            adapted_at=utc_now(),
            waiting=(),
        )
    return Update(
        new_items=len(new),
        rehearsed=rehearsed,
        judged=bool(samples.folds),
        kept=done.kept,
        loss_before=fit.loss_before,
        loss_after=fit.loss_after,
        state=state.with_task(name, changed),
    )


def with_items(task_state: TaskState, items: Sequence[HistoryItem]) -> TaskState:
    """The task with those items added that it does not know, in time order."""
    known = {item.id for item in task_state.items}
    unseen = [item for item in items if item.id not in known]
    return replace(task_state, items=in_time((*task_state.items, *unseen)))


def without(state: PersonalState, name: str, ids: Sequence[str]) -> PersonalState:
    """The state with items removed; its adapters are those of before until `adapt` has run."""
    task_state = state.tasks[name]
    gone = set(ids)
    left = tuple(item for item in task_state.items if item.id not in gone)
    waiting = tuple(one for one in task_state.waiting if one not in gone)
    return state.with_task(name, replace(task_state, items=left, waiting=waiting))


def finite(report: Report) -> Report:
    """The numbers that are numbers: a loss over no items is none."""
    return {
        key: value
        for key, value in report.items()
        if not isinstance(value, float) or math.isfinite(value)
    }


def task_seed(seed: int, name: str) -> int:
    """The seed of one task's adapter, from the person's own."""
    return mix_seed(seed, *name.encode())


def merged(histories: Sequence[tuple[Sequence[HistoryItem], Sequence[Encoded]]]) -> list[Encoded]:
    """All tasks' samples in time order; without dates, interleaved by place in each history."""
    rows = [
        (date_key(item.date), place / max(1, len(items)), sample)
        for items, encoded in histories
        for place, (item, sample) in enumerate(zip(items, encoded, strict=True))
    ]
    if all(date is not None for date, _, _ in rows):
        rows.sort(key=lambda row: row[0] or ())
    else:
        rows.sort(key=lambda row: row[1])
    return [sample for _, _, sample in rows]
