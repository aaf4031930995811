"""One seed's attacks: whose group is named, and who is found again, from what may leave or leak.

Every attack has a control that must fail, the same with groups or people exchanged at random, and
beside adapters one with adapters that nobody trained. Texts are the control that must succeed, and across two
tasks, which share no text, the true group itself.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray

from client.person.learner import Learner, user_seed
from proper_model.tasks import Query
from simulations.privacy.linkage import views
from simulations.privacy.linkage.releases import SECOND_HALF, Held, Lab
from simulations.privacy.statistics.linking import (
    Linked,
    groups_named,
    largest_share,
    linked,
    linked_aligned,
)
from simulations.privacy.statistics.shares import Control, Tried

Floats = NDArray[np.float64]
Views = Mapping[str, Floats]

SCOPES = ("group", "same-release", *SECOND_HALF, "two-tasks")
MADE = {
    "embedding": views.embedding,
    "user-routing": views.user_routing,
    "routing": views.routing,
    "adapter": views.adapter,
    "adapter-factors": views.adapter_factors,
}
THINGS = (*MADE, "answers")
EXCHANGES = 10  # draws of exchanged people, a control each
QUESTIONS = 36
UNTRAINED = ("adapter", "adapter-factors")


class Attacker:
    """One seed: what is held of everybody, and all attacks on it."""

    def __init__(self, lab: Lab, things: Sequence[str]) -> None:
        self.lab, self.things = lab, things
        self.owner = np.array(lab.parts.attacked, dtype=np.int64)
        self.group = np.array([lab.people.group[who] for who in lab.parts.attacked])
        public = [lab.people.users[who] for who in lab.parts.public]
        self.questions = views.questions_of(public, QUESTIONS)

    def run(self, scopes: Sequence[str]) -> list[Tried]:
        """All attacks of the scopes that are asked for."""
        found: list[Tried] = []
        if set(scopes) - {"two-tasks"}:
            found += self._over_one_task(scopes)
        if "two-tasks" in scopes:
            first, second = self.lab.two_tasks()
            # Other questions each: a task's adapter answers its own.
            found += self._linked("two-tasks", self._views(first, ()), self._views(second, ()))
            same = np.eye(int(self.group.max()) + 1)[self.group]
            found += self._link("two-tasks", "true group", "cosine", same, same, "positive")
        return found

    def _over_one_task(self, scopes: Sequence[str]) -> list[Tried]:
        first, again, kept = self.lab.first()
        one = self._views(first, self.questions)
        texts, others = views.texts(first.task, first.items, again.items)
        found: list[Tried] = []
        if "group" in scopes:
            found += self._groups(first, one, texts)
        if "same-release" in scopes:
            two = self._views(again, self.questions)
            found += self._linked("same-release", one, two)
            found += self._link("same-release", "texts", "cosine", texts, others, "positive")
            found += self._kept_start("same-release", one, kept)
        for scope in SECOND_HALF:
            if scope not in scopes:
                continue
            anew, kept = self.lab.next(scope)
            found += self._linked(scope, one, self._views(anew, self.questions))
            found += self._link(scope, "texts", "cosine", texts, others, "positive")
            found += self._kept_start(scope, one, kept)
        return found

    def _views(self, held: Held, questions: Sequence[Query]) -> dict[str, Floats]:
        """By thing a vector a person, of the things that are asked for and that the preset has."""
        self.lab.progress("reading what is held", 0, 0)
        structure = held.release.structure
        missing = set() if structure.reads_user else {"embedding", "user-routing"}
        found = {
            name: make(held)
            for name, make in MADE.items()
            if name in self.things and name not in missing
        }
        if "answers" in self.things and questions:
            found["answers"] = views.answers(held, questions)
        return found

    # Which group somebody is of.

    def _groups(self, held: Held, one: Views, texts: Floats) -> list[Tried]:
        found = []
        for thing, vectors in one.items():
            found.append(self._named(thing, vectors, self.group, "none"))
            found.append(self._named_exchanged(thing, vectors))
        for thing, vectors in self._untrained(held).items():
            found.append(self._named(f"{thing}, untrained", vectors, self.group, "negative"))
        return [*found, self._named("texts", texts, self.group, "positive")]

    def _named(
        self, thing: str, vectors: Floats, group: NDArray[np.int64], control: Control
    ) -> Tried:
        hit = groups_named(vectors, group, rng=self._rng(thing))
        chance = largest_share(self.group)
        return Tried("group", thing, "classifier", control, chance, hit, self.owner)

    def _named_exchanged(self, thing: str, vectors: Floats) -> Tried:
        rng = self._rng(f"{thing}/exchanged")
        trials = [
            self._named(thing, vectors, rng.permutation(self.group), "negative")
            for _ in range(EXCHANGES)
        ]
        return replace(trials[0], hit=np.mean([one.hit for one in trials], axis=0))

    def _untrained(self, held: Held) -> Views:
        """Adapters as they begin, drawn by each person's seed as devices draw it."""
        learner = Learner(held.release)
        seeds = [
            user_seed(self.lab.seed, self.lab.people.users[who].user_id)
            for who in self.lab.parts.attacked
        ]
        lora = learner.model.new_user_lora(seeds)
        states = [
            {**learner.lora_tensors(lora, place), "embedding": torch.zeros(0)}
            for place in range(len(seeds))
        ]
        bare = replace(held, states=states)
        return {name: MADE[name](bare) for name in UNTRAINED if name in self.things}

    # Who is the same person.

    def _linked(self, scope: str, one: Views, two: Views) -> list[Tried]:
        """By every thing that is held of both, as it is and aligned, each with exchanged people."""
        found = []
        for thing, vectors in one.items():
            if thing not in two:
                continue
            for attack in ("cosine", "aligned"):
                if attack == "cosine" and vectors.shape != two[thing].shape:
                    continue  # columns of their own
                found += self._link(scope, thing, attack, vectors, two[thing], "none")
                found += self._link(scope, thing, attack, vectors, two[thing], "negative")
        return found

    def _link(
        self, scope: str, thing: str, attack: str, one: Floats, two: Floats, control: Control
    ) -> list[Tried]:
        rng = self._rng(f"{scope}/{thing}/{attack}/{control}")
        link: Callable[[Floats, Floats], Linked] = linked
        if attack == "aligned":
            link = partial(linked_aligned, rng=rng)
        if control != "negative":
            found = [link(one, two)]
        else:
            found = [link(one, two[rng.permutation(len(two))]) for _ in range(EXCHANGES)]
        return [self._tried(scope, thing, attack, control, found)]

    def _tried(
        self, scope: str, thing: str, attack: str, control: Control, found: Sequence[Linked]
    ) -> Tried:
        return Tried(
            scope,
            thing,
            attack,
            control,
            1 / found[0].ranked,
            np.mean([one.hit for one in found], axis=0),
            self.owner,
            np.mean([one.rank for one in found], axis=0),
            found[0].ranked,
        )

    def _kept_start(self, scope: str, one: Views, kept: Held) -> list[Tried]:
        """Both sets from the same seeds, so that the start of A_u is the same."""
        if "adapter-factors" not in one:
            return []
        two = views.adapter_factors(kept)
        return self._link(
            scope, "adapter-factors, seed kept", "cosine", one["adapter-factors"], two, "none"
        )

    def _rng(self, name: str) -> np.random.Generator:
        """By seed and attack, so that a result does not depend on what else is asked for."""
        return np.random.default_rng([self.lab.seed, *name.encode()])
