"""One seed's canaries: planted, trained on, and asked of what was trained or sent.

    adapter        a newcomer's leaked private state; half of the candidates are newcomers
    release        base, experts and routers under the mean embedding; the others' items trained it
    rag-1 ...      what a server sees that newcomers ask with own items before every question

Negative controls are adapters that nobody trained, the public base, and of prompts those of somebody else;
the positive control is an adapter that saw its items far too often.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from client.person.arms import ArmModel
from client.person.learner import Learner
from proper_model.kernels import Encoded
from proper_model.model import AdaptedModel, MakePass, base_pass, group_pass
from proper_model.progress import Progress
from proper_model.release.contents import Release
from proper_model.settings import StageSettings, Structure
from simulations.baselines.arm import Benchmark
from simulations.privacy.membership.population import Candidates
from simulations.privacy.membership.targets import (
    public_model,
    train_adapters,
    train_overfit,
    train_release,
    untrained,
)
from simulations.privacy.memorization.asking import (
    Found,
    Questions,
    ask_canaries,
    ask_records,
    look_for_records,
    questions,
)
from simulations.privacy.memorization.planting import Pool, plant
from simulations.privacy.memorization.prompts import METHODS, prompts_target
from simulations.privacy.memorization.recall import Target, model_target
from simulations.privacy.statistics.shares import Control

THINGS = ("adapter", "release", *METHODS)


@dataclass(frozen=True)
class Setup:
    """What is planted in whose items, and what is trained on them.

    Attributes:
        insertions: how often canaries are planted.
        others: R, how many candidates a secret is ranked among.
        samples: how many answers a sampled extraction may draw.
    """

    candidates: Candidates
    structure: Structure
    settings: StageSettings
    pool: Pool
    insertions: tuple[int, ...]
    others: int
    samples: int


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
            self.adapters("adapter", self.release, overfit=True)
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

    def _states(
        self, release: Release, states: Sequence[Mapping[str, Tensor]], slots: Sequence[int]
    ) -> Target:
        """Stage 3 with private states; `slots`: which of them answers for whom."""
        arms = ArmModel(release, self.task)
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
            "positive": self._states(self.release, overfit, everybody),
            "negative": self.public,
        }
        self._ask("release", asked, targets)

    def adapters(self, thing: str, release: Release, *, overfit: bool) -> None:
        """Ask newcomers' adapters, trained over a release as devices do it, with their controls.

        Args:
            overfit: whether the positive control, adapters that saw their items far too often, is trained too.
        """
        asked = questions(self.planted, self.newcomers, self.task)
        users = [self.candidates.users[who].user_id for who in self.newcomers]
        own = [self._encoded(who) for who in self.newcomers]
        places = range(len(own))
        learner = (
            self.learner if release is self.release else Learner(release, progress=self.progress)
        )
        states = train_adapters(learner, list(zip(users, own, strict=True)), seed=self.seed).states
        targets: dict[Control, Target] = {"none": self._states(release, states, places)}
        if overfit:
            self.progress("adapters that saw their items far too often", 0, 0)
            embeddings = torch.stack([state["embedding"] for state in states])
            often = train_overfit(learner, own, embeddings.to(learner.model.device), seed=self.seed)
            targets["positive"] = self._states(release, often, places)
        mean = release.mean_embedding.cpu()[None]
        unlearned = untrained(learner, mean.repeat(len(own), 1, 1))
        targets["negative"] = self._states(release, unlearned, places)
        self._ask(thing, asked, targets)

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
