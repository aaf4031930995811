"""One seed's canaries: planted, trained on, and asked of what was trained or sent.

    adapter        a newcomer's leaked private state; half of the candidates are newcomers
    release        base, experts and routers under the mean embedding; the others' items trained it
    rag-1 ...      what a server sees that newcomers ask with own items before every question

A canary that is planted nowhere is the negative control of all of them. Beside it stand adapters that nobody trained, the public base, and of prompts
those of somebody else; the positive control is an adapter that saw its items far too often.

Records are the people's own items: members are those that trained or were there to be found, the others
are the same people's items that were kept apart. Letters: n canaries or records, R candidates.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from client.person.arms import ArmModel
from client.person.learner import Learner
from proper_model.errors import DataError
from proper_model.kernels import Encoded
from proper_model.model import AdaptedModel, MakePass, base_pass, group_pass
from proper_model.progress import Progress
from proper_model.release.contents import Release
from proper_model.settings import StageSettings, Structure
from proper_model.tasks import Example, HistoryItem, Task
from simulations.baselines.arm import Benchmark
from simulations.privacy.membership.population import Candidates
from simulations.privacy.membership.targets import (
    public_model,
    train_adapters,
    train_overfit,
    train_release,
    untrained,
)
from simulations.privacy.memorization.planting import Canary, Planted, Pool, plant
from simulations.privacy.memorization.prompts import METHODS, prompts_target
from simulations.privacy.memorization.recall import (
    Floats,
    Integers,
    Recall,
    Target,
    exposures,
    model_target,
)
from simulations.privacy.statistics.measures import Scored
from simulations.privacy.statistics.shares import Control

THINGS = ("adapter", "release", *METHODS)


@dataclass(frozen=True)
class Setup:
    """What is planted in whose items, and what is trained on them.

    Attributes:
        insertions: how often canaries are planted.
        candidates: R.
        samples: how many answers a sampled extraction may draw.
    """

    candidates: Candidates
    structure: Structure
    settings: StageSettings
    pool: Pool
    insertions: tuple[int, ...]
    others: int
    samples: int


@dataclass(frozen=True)
class CanariesFound:
    """Canaries of one thing in one seed, all planted as often: `[n]` each.

    Attributes:
        owner: whose it is, a place among the candidates.
        exposure: by the target's probabilities, in bits.
        against_public: by their ratio to the public base's, in bits.
        greedy: 1 where the secret is answered at temperature 0, else 0.
        sampled: chance that it is among so many answers at temperature 1.
    """

    thing: str
    insertions: int
    control: Control
    owner: Integers
    exposure: Floats
    against_public: Floats
    greedy: Floats
    sampled: Floats

    @property
    def name(self) -> str:
        """What tells it from the other rows of a file."""
        return f"{self.thing}/{self.insertions}/{self.control}"


@dataclass(frozen=True)
class RecordsFound:
    """Own items of one thing in one seed.

    Attributes:
        produced: `[n]`, 1 where the answer is produced word for word, or seen.
    """

    thing: str
    attack: str
    control: Control
    scored: Scored
    produced: Floats

    @property
    def name(self) -> str:
        """What tells it from the other rows of a file."""
        return f"{self.thing}/records/{self.attack}/{self.control}"


@dataclass
class Found:
    """All that one seed found."""

    canaries: list[CanariesFound] = field(default_factory=list)
    records: list[RecordsFound] = field(default_factory=list)


@dataclass(frozen=True)
class Questions:
    """Canaries and records of some people; slots are places in `people`, owners are the people."""

    people: tuple[int, ...]
    canaries: tuple[tuple[int, Canary], ...]
    records: tuple[tuple[int, Example], ...]
    member: NDArray[np.bool_]

    def secrets(self, task: Task) -> list[tuple[int, Example]]:
        """Every canary's secret and candidates: 1 + R rows each."""
        return [(slot, one) for slot, canary in self.canaries for one in canary.asked(task)]

    def only_planted(self) -> Questions:
        """Without the canaries that are not there."""
        return replace(self, canaries=tuple(row for row in self.canaries if row[1].times))

    def check(self, insertions: Sequence[int]) -> None:
        """Raise DataError unless there are canaries of every number of insertions."""
        missing = sorted(set(insertions) - {canary.times for _, canary in self.canaries})
        if missing:
            raise DataError(
                f"nobody of {len(self.people)} people has a canary that is planted {missing[0]} times",
                hint="take more --people, or fewer --insertions",
            )

    def owners(self, slots: Sequence[int]) -> Integers:
        """Whose rows of these slots are."""
        return np.array([self.people[slot] for slot in slots], dtype=np.int64)


def questions(planted: Planted, people: Sequence[int], task: Task) -> Questions:
    """All that is asked about some people: planted canaries, absent ones, own items, items kept apart."""
    canaries = [
        (slot, kind[who])
        for kind in (planted.planted, planted.absent)
        for slot, who in enumerate(people)
    ]

    def examples(items: Sequence[Sequence[HistoryItem]]) -> list[tuple[int, Example]]:
        return [
            (slot, task.history_example(item))
            for slot, who in enumerate(people)
            for item in items[who]
        ]

    own, apart = examples(planted.own), examples(planted.draw.fresh)
    member = np.arange(len(own) + len(apart)) < len(own)
    return Questions(tuple(people), tuple(canaries), (*own, *apart), member)


def ask_canaries(
    thing: str,
    control: Control,
    target: Target,
    asked: Questions,
    task: Task,
    *,
    public: Floats | None,
    samples: int,
) -> list[CanariesFound]:
    """What a target gives away of canaries, by how often they were planted.

    Args:
        public: log-probabilities of the public base for the rows of `asked.secrets`; None: it has none.
    """
    said = target(asked.secrets(task))
    rows = len(asked.canaries)
    own = said.log_prob.reshape(rows, -1)
    found = {
        "exposure": exposures(own[:, 0], own[:, 1:]),
        "greedy": said.greedy.reshape(rows, -1)[:, 0].astype(np.float64),
        "sampled": said.sampled(samples).reshape(rows, -1)[:, 0],
    }
    ratio = own if public is None else own - public.reshape(rows, -1)
    found["against_public"] = exposures(ratio[:, 0], ratio[:, 1:])
    owner = asked.owners([slot for slot, _ in asked.canaries])
    times = np.array([canary.times for _, canary in asked.canaries])
    return [
        CanariesFound(
            thing,
            count,
            control if count else "negative",
            owner[times == count],
            **{name: values[times == count] for name, values in found.items()},
        )
        for count in sorted(set(times.tolist()))
    ]


def ask_records(
    thing: str, control: Control, target: Target, asked: Questions, *, public: Recall | None
) -> list[RecordsFound]:
    """How well a model tells own items from those kept apart, by its loss, and by that minus the public base's.

    Args:
        public: what the public base says of the records; None: the target is that itself.
    """
    said = target(asked.records)
    scores = {"loss": said.log_prob / said.tokens}
    if public is not None:
        scores["loss-minus-public"] = (said.log_prob - public.log_prob) / said.tokens
    return [_records(thing, attack, control, asked, said, of) for attack, of in scores.items()]


def look_for_records(
    thing: str, control: Control, target: Target, asked: Questions
) -> list[RecordsFound]:
    """The same of a server that saw prompts: a record is there or not."""
    said = target(asked.records)
    return [_records(thing, "seen", control, asked, said, said.greedy.astype(np.float64))]


def _records(
    thing: str, attack: str, control: Control, asked: Questions, said: Recall, score: Floats
) -> RecordsFound:
    owner = asked.owners([slot for slot, _ in asked.records])
    scored = Scored(score, asked.member, owner)
    return RecordsFound(thing, attack, control, scored, said.greedy.astype(np.float64))


def _at(target: Target, slots: Sequence[int]) -> Target:
    """The target, asked with another slot for each: `slots[slot]`."""
    return lambda asked: target([(slots[slot], example) for slot, example in asked])


class CanaryAttacker:
    """One seed: people with canaries, the release that some of them trained, the public base."""

    def __init__(self, setup: Setup, *, seed: int, cache: Path, progress: Progress) -> None:
        self.setup, self.seed, self.progress = setup, seed, progress
        self.candidates, self.task = setup.candidates, setup.candidates.task
        self.planted = plant(
            self.candidates.users,
            self.task,
            setup.pool,
            seed=seed,
            insertions=setup.insertions,
            candidates=setup.others,
        )
        target = train_release(
            self.candidates,
            self.planted.draw,
            setup.structure,
            setup.settings,
            seed=seed,
            cache=cache,
            progress=progress,
        )
        self.release: Release = target.release
        self.trained = [place for place, inside in enumerate(target.trained) if inside]
        self.newcomers = [who for who, inside in enumerate(self.planted.draw.pooled) if not inside]
        self.learner = Learner(self.release, progress=progress)
        model, self.encoder = public_model(self.candidates, setup.structure, setup.settings)
        # One model for everybody.
        self.public = _at(self._model(base_pass, model), [0] * len(self.candidates.users))
        self.found = Found()

    def run(self, things: Sequence[str]) -> Found:
        """Ask all things."""
        if "release" in things:
            self._release()
        if "adapter" in things:
            self._adapters()
        for method in METHODS:
            if method in things:
                self._prompts(method)
        return self.found

    def _ask(self, thing: str, asked: Questions, targets: Mapping[Control, Target]) -> None:
        """Ask models, each beside the public base but that itself."""
        self.progress(f"asking {thing}", 0, 0)
        asked.check(self.setup.insertions)
        base = self.public(asked.secrets(self.task)).log_prob
        records = self.public(asked.records)
        for control, target in targets.items():
            rows = asked if control == "none" else asked.only_planted()
            beside = base[: len(rows.canaries) * (1 + self.setup.others)]  # planted come first
            alone = target is self.public
            self.found.canaries += ask_canaries(
                *(thing, control, target, rows, self.task),
                public=None if alone else beside,
                samples=self.setup.samples,
            )
            self.found.records += ask_records(
                thing, control, target, rows, public=None if alone else records
            )

    def _encoded(self, who: int) -> list[Encoded]:
        return self.learner.encode(self.planted.draw.known[who], self.task)

    def _model(self, make_pass: MakePass, model: AdaptedModel) -> Target:
        return model_target(model, self.encoder, make_pass, self.setup.settings.tokens_per_step)

    def _states(self, states: Sequence[Mapping[str, Tensor]], slots: Sequence[int]) -> Target:
        """Stage 3 with private states; `slots`: which of them answers for whom."""
        arms = ArmModel(self.release, self.task)
        make_pass = arms.make_pass("stage3", states)
        return _at(self._model(make_pass, arms.model), slots)

    def _release(self) -> None:
        asked = questions(self.planted, self.trained, self.task)
        mean = self.release.mean_embedding[None]
        make_pass: MakePass = base_pass
        if not self.release.structure.population_only:
            make_pass = partial(group_pass, embeddings=mean)
        items = [one for who in self.trained for one in self._encoded(who)]
        self.progress("an adapter that saw all pooled items far too often", 0, 0)
        overfit = train_overfit(self.learner, [items], mean, seed=self.seed)
        everybody = [0] * len(self.trained)
        targets: dict[Control, Target] = {
            "none": _at(self._model(make_pass, self.learner.model), everybody),
            "positive": self._states(overfit, everybody),
            "negative": self.public,
        }
        self._ask("release", asked, targets)

    def _adapters(self) -> None:
        asked = questions(self.planted, self.newcomers, self.task)
        users = [self.candidates.users[who].user_id for who in self.newcomers]
        own = [self._encoded(who) for who in self.newcomers]
        adapters = train_adapters(self.learner, list(zip(users, own, strict=True)), seed=self.seed)
        embeddings = torch.stack([state["embedding"] for state in adapters.states])
        self.progress("adapters that saw their items far too often", 0, 0)
        overfit = train_overfit(
            self.learner, own, embeddings.to(self.learner.model.device), seed=self.seed
        )
        mean = self.release.mean_embedding.cpu()[None]
        unlearned = untrained(self.learner, mean.repeat(len(own), 1, 1))
        places = range(len(own))
        targets: dict[Control, Target] = {
            "none": self._states(adapters.states, places),
            "positive": self._states(overfit, places),
            "negative": self._states(unlearned, places),
        }
        self._ask("adapter", asked, targets)

    def _prompts(self, method: str) -> None:
        users = self.candidates.users
        given = Benchmark(
            self.release,
            self.planted.draw.users(self.candidates),
            [replace(users[who], history=self.planted.draw.known[who]) for who in self.newcomers],
            seed=self.seed,
            folder=Path("unused"),
        )
        self.progress(f"asking {method}", 0, 0)
        target = prompts_target(method, given)
        people = len(self.newcomers)
        others = [(slot + 1) % people for slot in range(people)]
        asked = questions(self.planted, self.newcomers, self.task)
        asked.check(self.setup.insertions)
        targets: dict[Control, Target] = {"none": target, "negative": _at(target, others)}
        for control, one in targets.items():
            rows = asked if control == "none" else asked.only_planted()
            self.found.canaries += ask_canaries(
                method, control, one, rows, self.task, public=None, samples=self.setup.samples
            )
            self.found.records += look_for_records(method, control, one, rows)
