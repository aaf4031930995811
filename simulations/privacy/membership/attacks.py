"""One seed's membership attacks: what each thing gives away, as scores beside the truth.

A score is larger for what looks like a member. Records are the known items of candidates; a person's
score is the mean over records, either the known ones or, as the `fresh` level, items that never
trained anything: what an attacker has who knows the person, but no pooled text.

Letters: P people, n records.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from client.person.arms import ArmModel
from client.person.learner import Learner
from proper_model.engine import Samples
from proper_model.kernels import Encoded
from proper_model.model import base_pass, group_pass
from proper_model.progress import Progress
from proper_model.release.contents import Release
from proper_model.settings import StageSettings, Structure
from proper_model.tasks import HistoryItem, Query
from simulations.privacy.membership.population import Candidates, Draw, draw_members
from simulations.privacy.membership.targets import (
    MakePass,
    ReleaseTarget,
    TokenView,
    look,
    merged_export,
    public_model,
    train_adapters,
    train_overfit,
    train_release,
    untrained,
)
from simulations.privacy.statistics.measures import Scored, person_level
from simulations.privacy.statistics.scores import calibrated_score, loss_score, min_k_plus_plus

Level = Literal["record", "person", "fresh"]
Control = Literal["none", "positive", "negative"]
THINGS = (
    *("population", "experts", "embeddings", "router-cohort"),
    *("adapter", "adapter-embedding", "export", "answers"),
)
RELEASE_THINGS = ("population", "experts")
LEAST_DEVIATION = 1e-4  # of a distribution that is certain: its token must not outweigh all others
OWN_THINGS = ("adapter", "adapter-embedding", "export", "answers")


@dataclass(frozen=True)
class Found:
    """One attack on one thing in one seed."""

    thing: str
    attack: str
    level: Level
    control: Control
    scored: Scored

    @property
    def name(self) -> str:
        """What tells it from the other attacks of a file."""
        return f"{self.thing}/{self.attack}/{self.level}/{self.control}"


def losses(views: Sequence[TokenView]) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """Mean loss of an answer token, in nats: [n]."""
    return np.array([-view.log_prob.mean() for view in views])


def record_scores(
    target: Sequence[TokenView], public: Sequence[TokenView]
) -> dict[str, np.ndarray[tuple[int], np.dtype[np.float64]]]:
    """By name the scores that one model's view of the records gives: [n] each."""
    pairs = list(zip(target, public, strict=True))
    return {
        "loss": np.array([loss_score(own.log_prob) for own in target]),
        "loss-minus-public": np.array(
            [calibrated_score(own.log_prob, base.log_prob) for own, base in pairs]
        ),
        "min-k++": np.array(
            [
                min_k_plus_plus(own.log_prob, own.mean, np.maximum(own.std, LEAST_DEVIATION))
                for own in target
            ]
        ),
    }


@dataclass(frozen=True)
class Records:
    """Records of the candidates in one list, and whose each is (a place among the candidates)."""

    encoded: tuple[Encoded, ...]
    items: tuple[HistoryItem, ...]
    owner: np.ndarray[tuple[int], np.dtype[np.int64]]

    def of(self, people: Sequence[int]) -> list[int]:
        """Places of the records of some people."""
        return [i for i, owner in enumerate(self.owner.tolist()) if owner in set(people)]


class Attacker:
    """One seed: the draw, the release, the public base, and all that is attacked."""

    def __init__(
        self,
        candidates: Candidates,
        structure: Structure,
        settings: StageSettings,
        *,
        seed: int,
        cache: Path,
        levels: Sequence[Level],
        progress: Progress,
    ) -> None:
        self.candidates, self.seed, self.levels = candidates, seed, levels
        self.progress = progress
        self.draw: Draw = draw_members(candidates.users, seed)
        self.target: ReleaseTarget = train_release(
            candidates, self.draw, structure, settings, seed=seed, cache=cache, progress=progress
        )
        self.release: Release = self.target.release
        self.learner = Learner(self.release, progress=progress)
        self.tokens = settings.tokens_per_step
        self.public, self.encoder = public_model(candidates, structure, settings)
        self.known = self._records(self.draw.known)
        self.fresh = self._records(self.draw.fresh)

    def _records(self, items: Sequence[Sequence[HistoryItem]]) -> Records:
        task, flat = self.candidates.task, [item for own in items for item in own]
        owners = [place for place, own in enumerate(items) for _ in own]
        return Records(
            tuple(self.learner.encode(flat, task)), tuple(flat), np.array(owners, dtype=np.int64)
        )

    def public_views(self, records: Sequence[Encoded]) -> list[TokenView]:
        """What the public base says."""
        rows = [(0, record) for record in records]
        return look(self.public, self.encoder, rows, base_pass, self.tokens)

    def views(self, rows: Sequence[tuple[int, Encoded]], make_pass: MakePass) -> list[TokenView]:
        """What the release says under a pass."""
        return look(self.learner.model, self.encoder, rows, make_pass, self.tokens)

    def run(self, things: Sequence[str]) -> list[Found]:
        """All attacks on the things asked for. A thing that the preset has not gives none."""
        found: list[Found] = []
        if set(things) & set(RELEASE_THINGS):
            found += self._on_release(things)
        if not self.release.structure.population_only:
            if "embeddings" in things:
                found += self._on_embeddings()
            if "router-cohort" in things and self.target.cohort is not None:
                found += self._on_cohort(self.target.cohort)
        if set(things) & set(OWN_THINGS):
            found += self._on_adapters(things)
        return [one for one in found if one.level in self.levels]

    # The release: members are the people who trained it.

    def _sides(self) -> list[int]:
        """People on either side: pooled people who were held back are on none."""
        return [place for place, aside in enumerate(self.target.aside) if not aside]

    def _on_release(self, things: Sequence[str]) -> list[Found]:
        self.progress("attacking the release", 0, 0)
        mean = self.release.mean_embedding[None]
        passes: dict[str, MakePass] = {"population": base_pass}
        if not self.release.structure.population_only:
            passes["experts"] = lambda slots: group_pass(slots, mean)
        overfit = self._overfit_release(mean) if "record" in self.levels else None
        found: list[Found] = []
        for records, fresh in ((self.known, False), (self.fresh, True)):
            places = records.of(self._sides())
            rows = [(0, records.encoded[i]) for i in places]
            owner = records.owner[places]
            member = np.array([self.target.trained[who] for who in owner], dtype=np.bool_)
            public = self.public_views([record for _, record in rows])
            for thing in RELEASE_THINGS:
                if thing in things and thing in passes:
                    scores = record_scores(self.views(rows, passes[thing]), public)
                    found += _levels(thing, scores, member, owner, "none", fresh=fresh)
            base = {"loss": -losses(public)}
            for thing in RELEASE_THINGS:
                if thing in things and thing in passes:
                    found += _levels(thing, base, member, owner, "negative", fresh=fresh)
            if not fresh and overfit is not None:
                scores = record_scores(self._with([overfit], rows), public)
                for thing in RELEASE_THINGS:
                    if thing in things and thing in passes:
                        found += _levels(thing, scores, member, owner, "positive", fresh=False)
        return found

    def _overfit_release(self, mean: Tensor) -> Mapping[str, Tensor]:
        """One adapter that saw all members' records far too often."""
        people = [place for place, inside in enumerate(self.target.trained) if inside]
        records = [self.known.encoded[i] for i in self.known.of(people)]
        return train_overfit(self.learner, [records], mean, seed=self.seed)[0]

    # What a release says of people's embeddings.

    def _on_embeddings(self) -> list[Found]:
        """How near a person's embedding, found from own items, is to what the release publishes."""
        prototypes = self.release.prototypes
        published = prototypes if len(prototypes) else self.release.mean_embedding[None]
        people = self._sides()
        owner = np.array(people, dtype=np.int64)
        member = np.array([self.target.trained[who] for who in people], dtype=np.bool_)
        found = []
        kinds: tuple[tuple[Records, Level], ...] = ((self.known, "person"), (self.fresh, "fresh"))
        for records, level in kinds:
            if level not in self.levels:
                continue
            own = self._embeddings(records, people)
            near = torch.cdist(own.flatten(1), published.flatten(1).to(own)).amin(1)
            score = -near.double().cpu().numpy()
            found.append(
                Found("embeddings", "distance", level, "none", Scored(score, member, owner))
            )
            drawn = torch.Generator().manual_seed(self.seed)
            other = torch.randn(published.flatten(1).shape, generator=drawn)
            far = torch.cdist(own.flatten(1), (other * published.std()).to(own)).amin(1)
            noise = Scored(-far.double().cpu().numpy(), member, owner)
            found.append(Found("embeddings", "distance", level, "negative", noise))
            inside = own.flatten(1)[torch.from_numpy(member)]
            exact = -torch.cdist(own.flatten(1), inside).amin(1).double().cpu().numpy()
            whole = Scored(exact, member, owner)
            found.append(Found("embeddings", "distance", level, "positive", whole))
        return found

    def _embeddings(self, records: Records, people: Sequence[int]) -> Tensor:
        samples = [
            self.learner.split([records.encoded[i] for i in records.of([who])], seed=self.seed)
            for who in people
        ]
        return self.learner.fit_embeddings(samples)[0]

    # W_l: members are the cohort, the others are as much part of stages 1 and 2.

    def _on_cohort(self, cohort: Sequence[bool]) -> list[Found]:
        """By how much W_l helps a LoRA that the attacker trains on the person's items."""
        people = [place for place, inside in enumerate(self.target.trained) if inside]
        own = [(str(who), [self.known.encoded[i] for i in self.known.of([who])]) for who in people]
        adapters = train_adapters(self.learner, own, seed=self.seed)
        places = self.known.of(people)
        rows = [(people.index(int(self.known.owner[i])), self.known.encoded[i]) for i in places]
        with_router = losses(self._with(adapters.states, rows))
        owner = self.known.owner[places]
        member = np.array([cohort[who] for who in owner], dtype=np.bool_)
        shared = {
            name: torch.zeros_like(tensor) if name.endswith(".lora") else tensor
            for name, tensor in self.release.shared.items()
        }
        without = Learner(replace(self.release, shared=shared))
        none = losses(self._with(adapters.states, rows, without))
        scores = {"loss-minus-without": none - with_router}
        found = _levels("router-cohort", scores, member, owner, "none", fresh=False)
        return found + _levels(
            "router-cohort", {"loss": -none}, member, owner, "negative", fresh=False
        )

    # Private adapters of newcomers: members are the half of their items that trained.

    def _on_adapters(self, things: Sequence[str]) -> list[Found]:
        people = [place for place, inside in enumerate(self.draw.pooled) if not inside]
        flags = [flag for who in people for flag in self.draw.halves[who]]
        member = np.array(flags, dtype=np.bool_)
        places = self.known.of(people)
        owner = self.known.owner[places]
        trained = self._trained_halves(people)
        adapters = train_adapters(
            self.learner,
            [(self.candidates.users[w].user_id, own) for w, own in trained],
            seed=self.seed,
        )
        rows = [(people.index(int(self.known.owner[i])), self.known.encoded[i]) for i in places]
        public = self.public_views([record for _, record in rows])
        embeddings = torch.stack([state["embedding"] for state in adapters.states])
        embeddings = embeddings.to(self.learner.model.device)
        found: list[Found] = []
        mean = self.release.mean_embedding.cpu()
        alone = [{**state, "embedding": mean} for state in adapters.states]
        # The embedding is fitted on the members too, so a control that nobody trained has the mean.
        unlearned = untrained(self.learner, mean[None].repeat(len(people), 1, 1))
        states: dict[str, Sequence[Mapping[str, Tensor]]] = {
            "adapter": alone,
            "adapter-embedding": adapters.states,
        }
        for thing, held in states.items():
            if thing in things:
                scores = record_scores(self._with(held, rows), public)
                found += _own(thing, scores, member, owner, "none")
        overfit = train_overfit(
            self.learner, [own for _, own in trained], embeddings, seed=self.seed
        )
        over = record_scores(self._with(overfit, rows), public)
        fresh = record_scores(self._with(unlearned, rows), public)
        for thing in states:
            if thing in things:
                found += _own(thing, over, member, owner, "positive")
                found += _own(thing, fresh, member, owner, "negative")
        if "export" in things:
            trials: tuple[tuple[Control, Sequence[Mapping[str, Tensor]]], ...]
            trials = (("none", adapters.states), ("positive", overfit))
            for control, held in trials:
                exported = self._exports(held, rows, [own for _, own in trained])
                scores = record_scores(exported, public)
                found += _own("export", scores, member, owner, control)
            found += _own("export", fresh, member, owner, "negative")
        if "answers" in things:
            items = [self.known.items[i] for i in places]
            servers: dict[Control, tuple[Sequence[Mapping[str, Tensor]], Sequence[int] | None]] = {
                "none": (adapters.states, adapters.items),
                "positive": (overfit, None),
                "negative": (unlearned, None),
            }
            for kind, (held, counts) in servers.items():
                right = {"answered-right": self._answers(held, [s for s, _ in rows], items, counts)}
                found += _own("answers", right, member, owner, kind)
        return found

    def _trained_halves(self, people: Sequence[int]) -> list[tuple[int, list[Encoded]]]:
        """Of every person the items that train the adapter."""
        return [
            (
                who,
                [
                    self.known.encoded[i]
                    for i, inside in zip(self.known.of([who]), self.draw.halves[who], strict=True)
                    if inside
                ],
            )
            for who in people
        ]

    def _with(
        self,
        states: Sequence[Mapping[str, Tensor]],
        rows: Sequence[tuple[int, Encoded]],
        learner: Learner | None = None,
    ) -> list[TokenView]:
        """What stage 3 says of (place in `states`, record) pairs."""
        release = self.release if learner is None else learner.release
        arms = ArmModel(release, self.candidates.task)
        make_pass = arms.make_pass("stage3", states)
        return look(arms.model, self.encoder, rows, make_pass, self.tokens)

    def _exports(
        self,
        states: Sequence[Mapping[str, Tensor]],
        rows: Sequence[tuple[int, Encoded]],
        own: Sequence[Sequence[Encoded]],
    ) -> list[TokenView]:
        """What every person's merged model says of the person's records."""
        found: list[TokenView] = []
        for place, (state, items) in enumerate(zip(states, own, strict=True)):
            self.progress("attacking merged exports", place, len(states))
            mine = [(0, record) for slot, record in rows if slot == place]
            with merged_export(self.release, state, Samples(tuple(items), (), self.seed)):
                found += self.views(mine, base_pass)
        return found  # rows stand in the order of people

    def _answers(
        self,
        states: Sequence[Mapping[str, Tensor]],
        slots: Sequence[int],
        items: Sequence[HistoryItem],
        counts: Sequence[int] | None,
    ) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
        """Share of the right answer's words in what a person's server answers, without probabilities."""
        task = self.candidates.task
        arms = ArmModel(self.release, task)
        asked = []
        for slot, item in zip(slots, items, strict=True):
            example = task.history_example(item)
            asked.append((slot, example, Query(item.id, example.prompt, example.answer)))
        answers = arms.answers(asked, "stage3", states, items=counts)
        return np.array(
            [
                overlap(one.output, example.answer)
                for one, (_, example, _) in zip(answers, asked, strict=True)
            ]
        )


def overlap(answer: str, right: str) -> float:
    """Share of the right answer's distinct words that the answer holds; of a label 0 or 1."""
    wanted = set(right.casefold().split())
    return len(wanted & set(answer.casefold().split())) / max(1, len(wanted))


ScoresOf = Mapping[str, np.ndarray[tuple[int], np.dtype[np.float64]]]


def _levels(
    thing: str,
    scores: ScoresOf,
    member: np.ndarray[tuple[int], np.dtype[np.bool_]],
    owner: np.ndarray[tuple[int], np.dtype[np.int64]],
    control: Control,
    *,
    fresh: bool,
) -> list[Found]:
    """Of people who are members whole or not at all: records and persons, or persons by fresh items."""
    found = []
    for attack, score in scores.items():
        scored = Scored(score, member, owner)
        if fresh:
            found.append(Found(thing, attack, "fresh", control, person_level(scored)))
            continue
        found.append(Found(thing, attack, "record", control, scored))
        found.append(Found(thing, attack, "person", control, person_level(scored)))
    return found


def _own(
    thing: str,
    scores: ScoresOf,
    member: np.ndarray[tuple[int], np.dtype[np.bool_]],
    owner: np.ndarray[tuple[int], np.dtype[np.int64]],
    control: Control,
) -> list[Found]:
    """Records of people half of whose items are members."""
    return [
        Found(thing, attack, "record", control, Scored(score, member, owner))
        for attack, score in scores.items()
    ]
