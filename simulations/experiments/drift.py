"""`exp drift`: going on with new items, against training from scratch and against doing nothing.

Every test user's history is cut in time. The first half is adapted to; the second arrives in parts;
the newest fifth, the queries, and a fourth of the first half judge. Conditions, at stage 3 unless
said otherwise:

    stage2   the embedding of the first half, without an adapter
    nothing  the adapter of the first half
    update   the same, gone on with every part in turn, as `proper update` does
    scratch  embedding and adapter made anew from everything

Source: docs/method.md 1.9 (time-ordered histories, drift, continual refit).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from client.person.adapting import adapt_users
from client.person.learner import Learner
from client.person.state import PersonalState
from client.person.updating import update_all
from proper_model.errors import ConfigError, DataError
from proper_model.progress import Progress
from proper_model.release.contents import Release
from proper_model.tasks import HistoryItem, User
from simulations.experiments.asking import score_items, score_queries
from simulations.experiments.changing_minds import drifting
from simulations.experiments.common import Meter, Outcome, as_experiment, train_release
from simulations.experiments.schema import Experiment
from simulations.experiments.timeline import Timeline, cut, first_half
from simulations.setup.options import OneRun
from simulations.setup.sources import load_source

QUERIES, NEWEST, RETENTION = "queries", "newest items", "old items"
PAIRS = (
    ("update", "nothing"),  # is it worth going on?
    ("update", "scratch"),  # what does going on lose, or win, against starting again?
    ("scratch", "nothing"),
    ("nothing", "stage2"),
)
ARMS = {"stage2": "stage2", "nothing": "stage3", "update": "stage3", "scratch": "stage3"}
NOTES = (
    "costs: 'nothing' is the first adaptation, which 'update' goes on from; 'update' is all updates "
    "and nothing else; 'scratch' is one adaptation at the end, where keeping up with every part "
    "would take one a part",
    "'old items' is retention: every fourth item of the first half, on which nobody trains",
)
States = dict[str, PersonalState]


def drift(run: OneRun, *, parts: int, progress: Progress) -> Experiment:
    """The whole experiment. Raises ConfigError, DataError or TaskError before anything is trained."""
    if parts < 1:
        raise ConfigError(f"--parts must be at least 1, got {parts}", hint="2 is the default")
    source = load_source(run.reading, progress)
    notes = list(NOTES)
    if source.truth is not None:
        source = drifting(source, first_half)
        notes.append("synthetic people: each joins another group where the second half begins")
    users = source.population.test
    lines = timelines(users, parts=parts, least=source.settings.user.min_items_to_train)
    release = train_release(run, source, progress)
    kept = [user for user in users if user.user_id in lines]
    outcome = measure(
        release,
        kept,
        list(lines.values()),
        seed=run.training.seed,
        progress=progress,
        memory=run.machinery.memory_bytes,
    )
    facts = {"parts": parts, "users_left_out": len(users) - len(kept), **outcome.facts}
    outcome = replace(outcome, facts=facts, notes=notes)
    return as_experiment("drift", run.training, source, [source.task], outcome)


def timelines(users: Sequence[User], *, parts: int, least: int) -> dict[str, Timeline]:
    """The cut histories of users that have enough items, by id. Raises DataError if none has."""
    found: dict[str, Timeline] = {}
    why: DataError | None = None
    for user in users:
        try:
            found[user.user_id] = cut(user.history, parts=parts, least=least)
        except DataError as error:
            why = error
    if not found:
        assert why is not None
        raise DataError(f"no test user's history is long enough: {why.message}", hint=why.hint)
    return found


def measure(
    release: Release,
    users: Sequence[User],
    lines: Sequence[Timeline],
    *,
    seed: int,
    progress: Progress,
    memory: int | None = None,
) -> Outcome:
    """Train and score every condition; all users in shared passes.

    `memory` is what training may take beside the base, in bytes; None as in `adapt_users`.
    """
    meter = Meter(release.base)
    with meter.over("nothing"):
        first = _adapt(release, users, [line.first for line in lines], seed, progress, memory)
    with meter.over("update"):
        updated, tried, kept = _update(release, users, lines, first, progress, memory)
    with meter.over("scratch"):
        scratch = _adapt(release, users, [line.known for line in lines], seed, progress, memory)
    states = {"stage2": first, "nothing": first, "update": updated, "scratch": scratch}
    newest, old = [line.newest for line in lines], [line.apart for line in lines]
    scores = {}
    for condition, own in states.items():
        progress(f"asking {condition}", 0, 0)
        arm = ARMS[condition]
        scores[condition] = {
            QUERIES: score_queries(release, users, arm, own, memory_bytes=memory),
            NEWEST: score_items(release, users, newest, arm, own, memory_bytes=memory),
            RETENTION: score_items(release, users, old, arm, own, memory_bytes=memory),
        }
    return Outcome(
        users=len(users),
        scores=scores,
        costs=meter.costs,
        pairs=PAIRS,
        facts={
            "updates": tried,
            "updates_kept": kept,
            "share_of_updates_kept": kept / tried,
            "items_first_half": sum(len(line.first) for line in lines),
            "items_second_half": sum(len(line.known) - len(line.first) for line in lines),
            "items_old": sum(len(line.apart) for line in lines),
            "items_newest": sum(len(line.newest) for line in lines),
        },
    )


def _adapt(
    release: Release,
    users: Sequence[User],
    histories: Sequence[Sequence[HistoryItem]],
    seed: int,
    progress: Progress,
    memory: int | None,
) -> States:
    people = [replace(user, history=tuple(own)) for user, own in zip(users, histories, strict=True)]
    states = adapt_users(
        release,
        people,
        arms=("stage3",),
        bundle_id="experiment",
        seed=seed,
        memory_bytes=memory,
        progress=progress,
    )
    return {user: state for (_, user), state in states.items()}


def _update(
    release: Release,
    users: Sequence[User],
    lines: Sequence[Timeline],
    first: States,
    progress: Progress,
    memory: int | None,
) -> tuple[States, int, int]:
    """States after all parts, and how many updates were tried and kept."""
    learner, name = Learner(release, memory_bytes=memory, progress=progress), release.task.name
    states, tried, kept = dict(first), 0, 0
    for part in range(len(lines[0].parts)):
        own = [states[user.user_id] for user in users]
        grown = [
            # Put at the end, not in time: where only some items have a date, `cut` left them as they
            # stand, and a part alone may look as if it could be sorted.
            replace(task, items=(*task.items, *line.parts[part]))
            for task, line in zip((state.tasks[name] for state in own), lines, strict=True)
        ]
        # New items alone judge: people who change their minds for good are what this is about, and
        # their old items would refuse.
        ended = update_all(learner, own, name, grown, tolerance=math.inf)
        for user, done in zip(users, ended, strict=True):
            tried, kept = tried + 1, kept + done.kept
            states[user.user_id] = done.state
    return states, tried, kept
