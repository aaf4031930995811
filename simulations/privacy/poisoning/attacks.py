"""One seed's poisoning: releases with more and fewer malicious users, asked by honest newcomers.

    population   stage 1 of a release that all trained
    experts      and its experts and routers, under each newcomer's own embedding
    router       stage 3 with an own adapter, over an honest release with a poisoned W_l

Every newcomer asks each query three times: as it is, with the trigger behind it, and with another
word. Queries whose right answer is the attacker's are left out. All is also asked of what was trained in the
same way without malicious users: what the trigger did before.

Letters: n newcomers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from client.person.arms import ArmModel
from proper_model.errors import DataError
from proper_model.release.contents import Release
from proper_model.settings import StageSettings
from proper_model.tasks import Query, Task, User
from simulations.privacy.membership.targets import public_model
from simulations.privacy.poisoning.defences import DEFENCES, NONE
from simulations.privacy.poisoning.planting import (
    MOST_ASKED,
    Roles,
    Trigger,
    draw_roles,
    draw_trigger,
    poisoned_everybody,
    pooled_users,
    with_word,
)
from simulations.privacy.poisoning.targets import Bench, states_of
from simulations.privacy.statistics.shares import Control

Floats = NDArray[np.float64]
THINGS = ("population", "experts", "router")
ARMS = {"population": "stage1", "experts": "stage2", "router": "stage3"}
EVERYBODY = -1


@dataclass(frozen=True)
class Asked:
    """What newcomers got from one target, `[n]` each.

    Attributes:
        trigger, other: share of a newcomer's queries with that word that got the attacker's answer.
        loss: of an answer token of the queries as they are, in nats.
        right: share of them that got the right answer.
    """

    trigger: Floats
    other: Floats
    loss: Floats
    right: Floats


@dataclass(frozen=True)
class Poisoned:
    """One target with so many malicious users beside what was trained in the same way without any.

    Attributes:
        malicious: how many; 0 is the negative control, and of the positive one all who were pooled.
        owner: `[n]` the newcomers' places among the candidates.
        bare: without malicious users and without defence: what honest people's loss is compared with.
    """

    thing: str
    defence: str
    malicious: int
    control: Control
    owner: NDArray[np.int64]
    now: Asked
    before: Asked
    bare: Asked

    @property
    def name(self) -> str:
        """What tells it from the other rows of a file."""
        return f"{self.thing}/{self.defence}/{self.malicious}/{self.control}"


def askable(users: Sequence[User], trigger: Trigger) -> list[tuple[int, Query]]:
    """Queries with their places in `users`, without those whose right answer is the attacker's.

    Raises DataError if somebody has none left.
    """
    found = [
        (place, query)
        for place, user in enumerate(users)
        for query in user.queries[:MOST_ASKED]
        if not same(query.gold, trigger.answer)
    ]
    if len({place for place, _ in found}) < len(users):
        raise DataError(
            "all queries of a newcomer are rightly answered as the attacker wants",
            hint="take another seed, or fewer --people",
        )
    return found


def same(one: str, other: str) -> bool:
    """Whether two answers are the same but for case and spaces."""
    return one.casefold().split() == other.casefold().split()


def ask(
    release: Release,
    arm: str,
    task: Task,
    states: Sequence[Mapping[str, Tensor]],
    asked: Sequence[tuple[int, Query]],
    trigger: Trigger,
) -> Asked:
    """Every query as it is and with either word, under an arm; the adapter's part without a mixture."""
    words = (None, trigger.word, trigger.other)
    rows = [
        (place, task.query_example(query if word is None else with_word(query, word, task)), query)
        for word in words
        for place, query in asked
    ]
    answers = ArmModel(release, task).answers(rows, arm, states)
    owner = np.array([place for place, _ in asked])
    plain, *worded = (answers[k : k + len(asked)] for k in range(0, len(rows), len(asked)))

    def mean(values: Sequence[float]) -> Floats:
        return np.asarray(np.bincount(owner, values) / np.bincount(owner))

    hit, other = (mean([same(one.output, trigger.answer) for one in part]) for part in worded)
    return Asked(
        trigger=hit,
        other=other,
        loss=mean([one.nll / max(1, one.answer_tokens) for one in plain]),
        right=mean(
            [same(one.output, query.gold) for one, (_, query) in zip(plain, asked, strict=True)]
        ),
    )


class Poisoning:
    """One seed: who plays which part, and what was trained and asked so far."""

    def __init__(
        self, bench: Bench, settings: StageSettings, *, pooled: int, malicious: Sequence[int]
    ) -> None:
        self.bench, self.settings, self.malicious = bench, settings, tuple(malicious)
        self.candidates = bench.candidates
        encoder = public_model(self.candidates, bench.structure, settings)[1]
        self.roles: Roles = draw_roles(
            self.candidates,
            encoder,
            bench.structure,
            settings,
            pooled=pooled,
            most=max(malicious),
            seed=bench.seed,
        )
        self.trigger = draw_trigger(encoder.tokenizer, self.candidates, bench.seed)
        self.newcomers = [self.candidates.users[who] for who in self.roles.newcomers]
        self.asked = askable(self.newcomers, self.trigger)

    def run(self, things: Sequence[str], defences: Sequence[str]) -> list[Poisoned]:
        """All things under all defences; NONE is always among them."""
        found: list[Poisoned] = []
        bare: dict[str, Asked] = {}
        for defence in (NONE, *(name for name in defences if name != NONE)):
            before = self._asked(things, defence, 0)
            bare = bare or before
            counts = [0, *self.malicious, *([EVERYBODY] if defence == NONE else [])]
            for count in counts:
                now = before if count == 0 else self._asked(things, defence, count)
                for thing, one in now.items():
                    found.append(self._row(thing, defence, count, one, before, bare))
        return found

    def _row(
        self,
        thing: str,
        defence: str,
        count: int,
        now: Asked,
        before: Mapping[str, Asked],
        bare: Mapping[str, Asked],
    ) -> Poisoned:
        control: Control = "none"
        if count in (0, EVERYBODY):
            control = "negative" if count == 0 else "positive"
        owner = np.array(self.roles.newcomers, dtype=np.int64)
        bad = len(self.roles.pooled) if count == EVERYBODY else count
        return Poisoned(thing, defence, bad, control, owner, now, before[thing], bare[thing])

    def _asked(self, things: Sequence[str], defence: str, count: int) -> dict[str, Asked]:
        self.bench.progress(f"{_people(count)}, defence {defence}", 0, 0)
        users = self._users(count)
        settings = DEFENCES[defence](self.settings, users)
        found: dict[str, Asked] = {}
        release = None
        if {"population", "experts"} & set(things):
            release = self.bench.release(users, settings)
        for thing in ("population", "experts"):
            if thing in things and release is not None:
                found[thing] = self._ask(release, thing)
        if "router" in things:
            routed = self.bench.with_router(self._honest, users, settings)
            found["router"] = self._ask(routed, "router")
        return found

    def _users(self, count: int) -> list[User]:
        if count == EVERYBODY:
            return poisoned_everybody(self.candidates, self.roles, self.trigger)
        return pooled_users(self.candidates, self.roles, self.trigger, self.settings, count)

    @cached_property
    def _honest(self) -> Release:
        return self.bench.release(self._users(0), self.settings)

    def _ask(self, release: Release, thing: str) -> Asked:
        arm = ARMS[thing]
        states: Sequence[Mapping[str, Tensor]] = [{}] * len(self.newcomers)
        if arm != "stage1":
            states = states_of(
                release,
                self.newcomers,
                adapters=arm == "stage3",
                seed=self.bench.seed,
                progress=self.bench.progress,
            )
        return ask(release, arm, self.candidates.task, states, self.asked, self.trigger)


def _people(count: int) -> str:
    return "everybody" if count == EVERYBODY else f"{count} malicious"
