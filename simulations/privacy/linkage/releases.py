"""Releases of the same people under other conditions, and attacked people's private parts over each.

    first        the pooled people
    other-seed   the same people, trained with another seed
    more-people  the first's seed, and more people beside the pooled ones
    two-tasks    the pooled people with both their tasks

Over the first release everybody trains on each half of the own items; over the next ones on
the second half. Every release, and every copy over the same one, is trained from seeds as a device draws
them, but for `kept`: the seeds of the first release, as if a device had one for all of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from torch import Tensor

from client.person.learner import Learner, user_seed
from client.person.state import PersonalState
from coordinator.pooled_stages import run_pooled_stages
from proper_model.progress import Progress
from proper_model.release.contents import Release
from proper_model.settings import StageSettings, Structure
from proper_model.tasks import HistoryItem, Task
from simulations.privacy.linkage.people import Parts, Planted
from simulations.privacy.membership.targets import train_from

State = Mapping[str, Tensor]
SECOND_HALF = ("other-seed", "more-people")
OTHER_SEED = 1000
FIRST = "first"


@dataclass(frozen=True)
class Held:
    """What somebody may come to hold of all attacked people, in their order.

    Attributes:
        items: what each state was trained on, of `task`.
    """

    release: Release
    task: Task
    states: Sequence[State]
    items: Sequence[Sequence[HistoryItem]]


@dataclass(frozen=True)
class Lab:
    """One seed's people and how they train."""

    people: Planted
    parts: Parts
    structure: Structure
    settings: StageSettings
    seed: int
    cache: Path
    progress: Progress

    def first(self) -> tuple[Held, Held, Held]:
        """The first release, with states of the first half; of the second from other seeds and the same."""
        release = self._release(self.parts.pooled, self.seed)
        one, two = (self._half(which) for which in (0, 1))
        sets = [(FIRST, one), ("another vault", two), (FIRST, two)]
        first, anew, kept = self._trained(release, sets)
        task = self.people.tasks[0]
        return (
            Held(release, task, first, one),
            Held(release, task, anew, two),
            Held(release, task, kept, two),
        )

    @cached_property
    def first_half(self) -> Held:
        """The first release, with states of the first half alone."""
        release, half = self._release(self.parts.pooled, self.seed), self._half(0)
        (states,) = self._trained(release, [(FIRST, half)])
        return Held(release, self.people.tasks[0], states, half)

    def next(self, scope: str) -> tuple[Held, Held]:
        """The second half over another release: from seeds as devices draw them, and from kept ones."""
        more = scope == "more-people"
        places = sorted((*self.parts.pooled, *self.parts.more)) if more else self.parts.pooled
        release = self._release(places, self.seed if more else self.seed + OTHER_SEED)
        half = self._half(1)
        anew, kept = self._trained(release, [(scope, half), (FIRST, half)])
        task = self.people.tasks[0]
        return Held(release, task, anew, half), Held(release, task, kept, half)

    def two_tasks(self) -> tuple[Held, Held]:
        """A release of both tasks, with a state of each task, fitted on its items alone."""
        release = self._release(self.parts.pooled, self.seed, both=True)
        first = self._half(0)
        second = [
            self.people.second[who].history[: len(items)]
            for who, items in zip(self.parts.attacked, first, strict=True)
        ]
        one, two = self._trained(
            release, [(FIRST, first), ("second task", second)], self.people.tasks
        )
        held = zip(self.people.tasks, (one, two), (first, second), strict=True)
        a, b = (Held(release, task, states, items) for task, states, items in held)
        return a, b

    def _half(self, which: int) -> list[tuple[HistoryItem, ...]]:
        return [halves[which] for halves in self.parts.halves]

    def _release(self, places: Sequence[int], seed: int, *, both: bool = False) -> Release:
        users = [self.people.users[who] for who in places]
        second = [self.people.second[who] for who in places]
        return run_pooled_stages(
            users,
            self.people.tasks[0],
            self.people.base if both else self.people.alone,
            self.structure,
            self.settings,
            seed=seed,
            cache=self.cache,
            beside=[(second, self.people.tasks[1])] if both else (),
            progress=self.progress,
        )

    def _trained(
        self,
        release: Release,
        sets: Sequence[tuple[str, Sequence[Sequence[HistoryItem]]]],
        tasks: Sequence[Task] = (),
    ) -> list[list[State]]:
        """By set a state of everybody, all in shared passes. A set's name stands for a release's id."""
        learner = Learner(release, progress=self.progress)
        of = tasks or [self.people.tasks[0]] * len(sets)
        ids = [self.people.users[who].user_id for who in self.parts.attacked]
        seeds = [user_seed(self.seed, user_id) for user_id in ids]
        jobs = [
            (PersonalState(name, 1, seed).training_seed, learner.encode(own, task))
            for (name, items), task in zip(sets, of, strict=True)
            for seed, own in zip(seeds, items, strict=True)
        ]
        found = train_from(learner, jobs).states
        return [list(found[start : start + len(ids)]) for start in range(0, len(found), len(ids))]
