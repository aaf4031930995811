"""From histories to embeddings and adapters: one way for one person and for many at once.

`learn` fits every member's embedding and trains all adapters in shared passes. `adapt` is one person
with a vault, who is one member: all tasks share one embedding, which is fitted on the items of all
of them, and each task has an adapter over it. `adapt_users` is a cohort of simulated people of one
task, under one or several arms. A member's result depends on its own items and seed alone. Pure:
nothing is stored, sent or kept between calls. Source: PROPER eq. 11-13; docs/method.md 1.5 f, 1.7 3c
and 1.9 (several tasks).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor

from client.person.arms import STATEFUL_ARMS, check_arms
from client.person.item_promise import check_promise, promise_report, standing
from client.person.learner import (
    Learner,
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
from proper_model.progress import Progress, silent
from proper_model.release.contents import Release
from proper_model.stages import EmbeddingFit
from proper_model.tasks import HistoryItem, Task, User

# Name of a task to the task and the items it is learned from.
Histories = Mapping[str, tuple[Task, Sequence[HistoryItem]]]

ADAPTER = {"stage3": "adapter"}
LOSS_WITHOUT = "loss_without_own_items_before"


@dataclass(frozen=True)
class Member:
    """A person: the document to change, what each task is learned from, and how that is split.

    Attributes:
        shared: what fits the embedding.
        own: by task, what trains the adapter over it.
    """

    state: PersonalState
    histories: Histories
    shared: Samples
    own: Mapping[str, Samples]


def learn(
    learner: Learner, members: Sequence[Member], arms: Mapping[str, str]
) -> dict[str, list[PersonalState]]:
    """Fit all embeddings, then train the adapters of every arm; by arm, a document a member.

    Adapters that were not trained are in it as they were drawn: all rows of a pass have one.

    Args:
        arms: of `STATEFUL_ARMS`, and the name of its training for progress and checkpoints.
    """
    embeddings: Tensor | None = None
    fits: list[EmbeddingFit] = []
    if any(STATEFUL_ARMS[arm].embedding for arm in arms):
        embeddings, fits = learner.fit_embeddings([member.shared for member in members])
    owners = [place for place, member in enumerate(members) for _ in member.own]
    samples = [own for member in members for own in member.own.values()]
    found: dict[str, list[PersonalState]] = {}
    for arm, phase in arms.items():
        over = embeddings if STATEFUL_ARMS[arm].embedding else None
        adapters: list[Mapping[str, Tensor]] = [{} for _ in samples]
        reports = [samples_report(own) for own in samples]
        if STATEFUL_ARMS[arm].adapter:
            lora, lora_fits = learner.train_loras(
                samples, None if over is None else over[owners], phase=phase
            )
            adapters = [learner.lora_tensors(lora, place) for place in range(len(samples))]
            reports = [
                told | lora_report(fit) for told, fit in zip(reports, lora_fits, strict=True)
            ]
        learned = zip(adapters, reports, strict=True)  # in the order of members and their tasks
        found[arm] = [
            replace(
                member.state,
                embedding=None if over is None else over[place].detach().cpu().clone(),
                embedding_report={} if over is None else finite(embedding_report(fits[place])),
                tasks={
                    name: task_state(*member.histories[name], *next(learned)) for name in member.own
                },
                base_weights=learner.release.chosen_weights,
            )
            for place, member in enumerate(members)
        ]
    return found


def adapt(
    learner: Learner, state: PersonalState, histories: Histories, *, changed: str | None = None
) -> PersonalState:
    """Fit the embedding and train every task's adapter, from the start, on exactly these items.

    The result depends on the items, the release and `state.seed` alone: after items were removed
    it is what it would be had they never been there. Under privacy of items (`state.privacy`) it depends on
    noise too, and an adapter that is under the same promise already is kept: each training spends anew.

    Args:
        changed: the one task whose items, or settings, are others than the state's; None: any may be.

    Raises:
        ConfigError: privacy of items cannot cover some task.
        TrainingError: the adapters of all tasks diverged at every learning rate.
    """
    privacy, kept = state.privacy, standing(state, changed)
    if privacy is not None:
        check_promise(privacy, histories)
    rest = {name: own for name, own in histories.items() if name not in kept}
    learned = _adapt(learner.under(privacy), state, rest)
    tasks = {name: task for name, task in state.tasks.items() if name in kept and name in histories}
    for name, task in learned.tasks.items():
        if privacy is not None and task.adapter:
            before = state.tasks[name].report if name in state.tasks else {}
            task = replace(task, report={**task.report, **promise_report(privacy, before)})
        tasks[name] = task
    return replace(learned, tasks=tasks)


def _adapt(learner: Learner, state: PersonalState, histories: Histories) -> PersonalState:
    """As `adapt`, of all that is given, without a promise in the reports."""
    (learned,) = learn(learner, [member_of(learner, state, histories)], ADAPTER)["stage3"]
    tasks = learned.tasks.values()
    if tasks and all(task.report.get("lora_failed") for task in tasks):
        raise TrainingError(
            "training diverged at every learning rate; nothing was stored",
            hint="the release says the rates (user.learning_rates of its profile): another one with smaller "
            "ones is needed; proper generate --stage 1 and 2 need no training",
        )
    # Whoever has no adapter that was trained gets the group's model.
    kept = {
        name: task
        if task.report["lora_trained"]
        and not task.report["lora_failed"]
        and not task.report.get("lora_doubted")
        else replace(task, adapter={})
        for name, task in learned.tasks.items()
    }
    return replace(learned, tasks=kept)


def member_of(learner: Learner, state: PersonalState, histories: Histories) -> Member:
    """A person who learns all tasks: how each splits, and what the common embedding is found from."""
    names = sorted(histories)
    encoded = {n: learner.encode(histories[n][1], histories[n][0]) for n in names}
    found_from = {
        n: learner.for_embedding(histories[n][1], histories[n][0], encoded[n]) for n in names
    }
    together = merged([(histories[n][1], found_from[n]) for n in names])
    seed = state.training_seed
    return Member(
        state,
        histories,
        learner.split_for_embedding(together, seed),
        {name: learner.split(encoded[name], seed=task_seed(seed, name)) for name in names},
    )


def adapt_comparing(
    name: str, learner: Learner, state: PersonalState, histories: Histories
) -> PersonalState:
    """As `adapt`; the report of a task with own items before a question also says the loss without.

    That of the same held-back items, after an embedding and an adapter that were found and trained in
    the same way on the task's items without such lines. Of fewer items than judge there is none.
    """
    without = None
    if state.privacy is None and compares(learner, histories, name):
        plain = member_of(learner, state, without_lines(histories, name))
        alone = replace(plain, own={name: plain.own[name]})
        apart = learner.apart("without")
        ((learned,),) = learn(apart, [alone], {"stage3": "without"}).values()
        without = held_back_loss(learned.tasks[name].report)
    adapted = adapt(learner, state, histories, changed=name)
    if without is None:
        return adapted
    task = adapted.tasks[name]
    report = {**task.report, LOSS_WITHOUT: without}
    return adapted.with_task(name, replace(task, report=report))


def compares(learner: Learner, histories: Histories, name: str) -> bool:
    """Whether a task puts own items before a question, and held-back ones judge its adapter."""
    task, items = histories[name]
    if not task.retrieve:
        return False
    samples = learner.split(learner.encode(items, replace(task, retrieve=0)), seed=0)
    planned = learner.planned([samples])
    return bool(samples.folds if planned is None else any(one.judged for one in planned))


def without_lines(histories: Histories, name: str) -> Histories:
    """The same with no own items before a question of a task."""
    task, items = histories[name]
    return {**histories, name: (replace(task, retrieve=0), items)}


def held_back_loss(report: Mapping[str, float | int | str]) -> float | None:
    """Of held-back items under what was kept: a task's adapter, or the model below; None: none judged."""
    kept = "lora_loss_before" if report.get("lora_doubted") else "lora_loss_after"
    return float(report[kept]) if kept in report else None


def adapt_users(
    release: Release,
    users: Sequence[User],
    *,
    arms: Sequence[str],
    bundle_id: str,
    seed: int,
    checkpoint: Path | None = None,
    memory_bytes: int | None = None,
    progress: Progress = silent,
) -> dict[tuple[str, str], PersonalState]:
    """Adapt every user to the release's task; a document each (arm, user id) of arms that have one.

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
    task = release.task
    learner = Learner(release, checkpoint=checkpoint, memory_bytes=memory_bytes, progress=progress)
    learner.begin("tokenize")
    members = []
    for user in users:
        own_seed = user_seed(seed, user.user_id)
        encoded = learner.encode(user.history, task)
        samples = learner.split(encoded, seed=own_seed)
        shared = learner.split(learner.for_embedding(user.history, task, encoded), seed=own_seed)
        state = PersonalState(bundle_id, 0, seed=own_seed)
        histories = {task.name: (task, user.history)}
        members.append(Member(state, histories, shared, {task.name: samples}))
    return {
        (arm, user.user_id): state
        for arm, states in learn(learner, members, wanted).items()
        for user, state in zip(users, states, strict=True)
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
    """The seed of one task, from what a person's trainings draw from."""
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


def task_state(
    task: Task, items: Sequence[HistoryItem], adapter: Mapping[str, Tensor], report: Report
) -> TaskState:
    """A task as it is stored, adapted just now."""
    return TaskState(
        toml=task.toml_text,
        template=task.template,
        retrieve=task.retrieve,
        items=tuple(items),
        adapter=adapter,
        report=finite(report),
        adapted_at=utc_now(),
    )
