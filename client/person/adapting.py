"""From histories to embeddings and adapters: one way for one person and for many at once.

`learn` fits every member's embedding and trains all adapters in shared passes. `adapt` is one person
with a vault, who is one member: all tasks share one embedding, which is fitted on the items of all
of them, and each task has an adapter over it. `adapt_users` is a cohort of simulated people of one
task, under one or several arms. A member's result depends on its own items and seed alone. Pure:
nothing is stored, sent or kept between calls. Source: PROPER eq. 11-13; docs/method.md 1.5 f, 1.7 3c
and 5 (several tasks).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor

from client.person.arms import STATEFUL_ARMS, check_arms
from client.person.learner import (
    Learner,
    Progress,
    Report,
    embedding_report,
    finite,
    lora_report,
    samples_report,
    user_seed,
)
from client.person.state import PersonalState, TaskState, utc_now
from proper_model.data import date_key
from proper_model.engine import Samples
from proper_model.errors import TrainingError
from proper_model.kernels import Encoded, mix_seed
from proper_model.release.contents import Release
from proper_model.stages import LoraFit
from proper_model.tasks import HistoryItem, Task, User

# Name of a task to the task and the items it is learned from.
Histories = Mapping[str, tuple[Task, Sequence[HistoryItem]]]


@dataclass(frozen=True)
class Member:
    """Which items fit an embedding, and which train each of the adapters over it."""

    shared: Samples
    own: tuple[Samples, ...]


@dataclass(frozen=True)
class Adapter:
    """One adapter: `lora.<site>.A|B` [r, d_in] / [d_out, r], untrained ones too; none without `fit`."""

    tensors: Mapping[str, Tensor]
    samples: Samples
    fit: LoraFit | None = None

    @property
    def usable(self) -> bool:
        """Whether it was trained, and not in vain."""
        return self.fit is not None and self.fit.trained and not self.fit.failed

    @property
    def report(self) -> Report:
        return finite(
            samples_report(self.samples) | ({} if self.fit is None else lora_report(self.fit))
        )


@dataclass(frozen=True)
class Learned:
    """What a member got under an arm: `embedding` [tables, e] in main memory, None without one."""

    embedding: Tensor | None
    embedding_report: Report
    adapters: tuple[Adapter, ...]


def learn(
    learner: Learner, members: Sequence[Member], arms: Mapping[str, str]
) -> dict[str, list[Learned]]:
    """Fit all embeddings, then train the adapters of every arm; by arm, a result a member.

    Args:
        arms: of `STATEFUL_ARMS`, and the name of its training for progress and checkpoints.
    """
    embeddings: Tensor | None = None
    reports: list[Report] = []
    if any(STATEFUL_ARMS[arm].embedding for arm in arms):
        embeddings, fits = learner.fit_embeddings([member.shared for member in members])
        reports = [finite(embedding_report(fit)) for fit in fits]
    owners = [place for place, member in enumerate(members) for _ in member.own]
    samples = [own for member in members for own in member.own]
    found: dict[str, list[Learned]] = {}
    for arm, phase in arms.items():
        parts = STATEFUL_ARMS[arm]
        over = embeddings if parts.embedding else None
        adapters = [Adapter({}, own) for own in samples]
        if parts.adapter:
            lora, lora_fits = learner.train_loras(
                samples, None if over is None else over[owners], phase=phase
            )
            adapters = [
                Adapter(learner.lora_tensors(lora, place), own, fit)
                for place, (own, fit) in enumerate(zip(samples, lora_fits, strict=True))
            ]
        found[arm] = [
            Learned(
                embedding=None if over is None else over[place].detach().cpu().clone(),
                embedding_report={} if over is None else reports[place],
                adapters=tuple(
                    a for a, owner in zip(adapters, owners, strict=True) if owner == place
                ),
            )
            for place in range(len(members))
        ]
    return found


def adapt(learner: Learner, state: PersonalState, histories: Histories) -> PersonalState:
    """Fit the embedding and train every task's adapter, from the start, on exactly these items.

    The result depends on the items, the release and `state.seed` alone: after items were removed
    it is what it would be had they never been there.

    Raises:
        TrainingError: the embedding's or an adapter's training diverged at every learning rate.
    """
    names = sorted(histories)
    encoded = {n: learner.encode(histories[n][1], histories[n][0]) for n in names}
    together = merged([(histories[n][1], encoded[n]) for n in names])
    member = Member(
        learner.split_for_embedding(together, state.seed),
        tuple(learner.split(encoded[n], seed=task_seed(state.seed, n)) for n in names),
    )
    (learned,) = learn(learner, [member], {"stage3": "adapter"})["stage3"]
    fits = [adapter.fit for adapter in learned.adapters]
    if all(fit is not None and fit.trained and fit.failed for fit in fits):
        raise TrainingError(
            "training diverged at every learning rate; nothing was stored",
            hint="give a task file with a smaller user.learning_rates, or a release made with one",
        )
    # An adapter that does nothing is not stored: whoever has none gets the group's model.
    tasks = {
        name: task_state(
            *histories[name], adapter if adapter.usable else replace(adapter, tensors={})
        )
        for name, adapter in zip(names, learned.adapters, strict=True)
    }
    return replace(
        state,
        embedding=learned.embedding,
        embedding_report=learned.embedding_report,
        tasks=tasks,
        base_weights=learner.release.chosen_weights,
    )


def adapt_users(
    release: Release,
    users: Sequence[User],
    *,
    arms: Sequence[str],
    bundle_id: str,
    seed: int,
    checkpoint: Path | None = None,
    memory_bytes: int | None = None,
    progress: Progress | None = None,
) -> dict[tuple[str, str], PersonalState]:
    """Adapt every user to the release's task; a document each (arm, user id) of arms that have one.

    Adapters that were not trained are in it, as they were drawn: all rows of a pass have one.

    Args:
        arms: any of the known arms; those without private state are skipped.
        checkpoint: path prefix of resumable training state, in the caller's private folder.
        memory_bytes: what training may take beside the base; None: what a GPU has free, and on a
            CPU no limit but the profile's `tokens_per_step`.

    Raises:
        ConfigError: for an unknown arm.
        TaskError, DataError: if a history item does not fit the release's task.
    """
    check_arms(arms)
    wanted = {arm: arm for arm in arms if arm in STATEFUL_ARMS}
    if not users or not wanted:
        return {}
    if progress:
        progress("tokenize", 0, 0)
    task = release.task
    learner = Learner(release, checkpoint=checkpoint, memory_bytes=memory_bytes, progress=progress)
    seeds = [user_seed(seed, user.user_id) for user in users]
    samples = [
        learner.split(learner.encode(user.history, task), seed=own)
        for user, own in zip(users, seeds, strict=True)
    ]
    learned = learn(learner, [Member(own, (own,)) for own in samples], wanted)
    return {
        (arm, user.user_id): PersonalState(
            bundle_id,
            0,
            seed=own_seed,
            embedding=one.embedding,
            embedding_report=one.embedding_report,
            tasks={task.name: task_state(task, user.history, one.adapters[0])},
        )
        for arm, by_user in learned.items()
        for user, own_seed, one in zip(users, seeds, by_user, strict=True)
    }


def histories_of(state: PersonalState) -> Histories:
    """What `adapt` takes, from what is stored."""
    return {name: (task.task(), task.items) for name, task in state.tasks.items()}


def without(state: PersonalState, name: str, ids: Sequence[str]) -> PersonalState:
    """The state with items removed; its adapters are those of before until `adapt` has run."""
    before = state.tasks[name]
    gone = set(ids)
    left = tuple(item for item in before.items if item.id not in gone)
    waiting = tuple(one for one in before.waiting if one not in gone)
    return state.with_task(name, replace(before, items=left, waiting=waiting))


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


def task_state(task: Task, items: Sequence[HistoryItem], adapter: Adapter) -> TaskState:
    """A task as it is stored, adapted just now."""
    return TaskState(
        toml=task.toml_text,
        template=task.template,
        items=tuple(items),
        adapter=adapter.tensors,
        report=adapter.report,
        adapted_at=utc_now(),
    )
