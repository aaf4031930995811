"""Pooled people withdraw: what the release with them tells, the next one without them, and both together.

Some of those who trained the first release withdraw. The next release is trained as the coordinator does it,
with the same folder of cached phases. The reference is trained in an empty folder by somebody who never had
their data; it must be the same release. Whoever has both releases sees how each text lost probability
(Chen et al., arXiv 2005.02205: unlearning can show who left).

    before, after   members: who withdrew; others: candidates who were never pooled
    both            members: the same; others: these candidates, and pooled people who stayed

Letters: n records.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
from torch import Tensor

from proper_model.release.contents import Release
from simulations.privacy.deletion.found import Attempt, Retrained, Scope, difference
from simulations.privacy.membership.attacked import Attacked, Row, embeddings_over
from simulations.privacy.membership.embedding_attacks import (
    ATTACKS,
    HALVES,
    as_published,
    compared,
    publish,
    singles,
)
from simulations.privacy.membership.found import (
    Flags,
    Floats,
    Integers,
    Truth,
    log_p,
    record_scores,
)
from simulations.privacy.membership.shadows import paired_halves
from simulations.privacy.membership.targets import (
    ReleaseTarget,
    TokenView,
    train_overfit,
    train_release,
)
from simulations.privacy.statistics.measures import Scored, person_level
from simulations.privacy.statistics.shares import Control

GONE_SHARE = 1 / 3
EMBEDDINGS = "embeddings"
POOLED_THINGS = ("population", "experts", EMBEDDINGS)


def draw_gone(trained: Sequence[bool], seed: int) -> list[int]:
    """Places of those who withdraw: a third of those who trained, by seed."""
    able = [place for place, inside in enumerate(trained) if inside]
    rng = np.random.default_rng([seed, len(able), 6])
    return sorted(rng.permutation(able)[: max(2, round(GONE_SHARE * len(able)))].tolist())


@dataclass(frozen=True)
class Withdrawal:
    """One seed: the first release as `Attacked` has it, and who withdraws from it."""

    first: Attacked

    @cached_property
    def gone(self) -> list[int]:
        """Places among the candidates."""
        return draw_gone(self.first.target.trained, self.first.seed)

    @cached_property
    def next(self) -> ReleaseTarget:
        """Without them, in the cache that has the phases of the first."""
        return self._trained(self.first.cache)

    def exact(self) -> Release:
        """The reference: without them, in an empty folder."""
        self.first.cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=self.first.cache) as empty:
            return self._trained(Path(empty)).release

    def _trained(self, cache: Path) -> ReleaseTarget:
        first, gone = self.first, set(self.gone)
        inside = tuple(
            pooled and place not in gone for place, pooled in enumerate(first.draw.pooled)
        )
        return train_release(
            first.candidates,
            replace(first.draw, pooled=inside),
            first.structure,
            first.settings,
            seed=first.seed,
            cache=cache,
            progress=first.progress,
        )

    @property
    def stayed(self) -> list[int]:
        """Places of those who trained both releases: who is held back to judge is drawn anew."""
        both = zip(self.first.target.trained, self.next.trained, strict=True)
        return [place for place, (one, two) in enumerate(both) if one and two]

    def retrained(self) -> Retrained:
        """The next release against the reference."""
        after = _tensors(self.next.release)
        different, distance = difference(after, _tensors(self.exact()))
        _, change = difference(after, _tensors(self.first.release))
        return Retrained("release", 1, int(different), distance, change)


def _tensors(release: Release) -> Mapping[str, Tensor]:
    """All that a release says in numbers."""
    return {**release.shared, **release.population, **release.base.state_dict()}


def on_withdrawal(first: Attacked, things: Sequence[str]) -> list[Attempt | Retrained]:
    """All attacks on the things that are asked for, and how the next release compares with the reference."""
    found: list[Attempt | Retrained] = []
    withdrawal = Withdrawal(first)
    releases: dict[Scope, Release] = {"before": first.release, "after": withdrawal.next.release}
    asked = [thing for thing in first.passes(first.release) if thing in things]
    if asked:
        found += _texts(withdrawal, releases, asked)
    if EMBEDDINGS in things and _published(releases.values()):
        for scope, release in releases.items():
            found += _embeddings(withdrawal, scope, release)
    first.progress("exact retraining", 0, 0)
    return [*found, withdrawal.retrained()]


def _published(releases: Iterable[Release]) -> bool:
    """Whether all releases say something of embeddings: of too few people they hold zeros, which tell nothing."""
    return all(
        not release.structure.population_only and int(release.shared["mean_embedding_count"]) > 0
        for release in releases
    )


@dataclass(frozen=True)
class _Asked:
    """Records of whoever withdrew, was never pooled, or stayed: [n] each."""

    rows: tuple[Row, ...]
    owner: Integers
    gone: Flags
    stayed: Flags

    @classmethod
    def of(cls, withdrawal: Withdrawal) -> _Asked:
        records = withdrawal.first.known
        people = [*withdrawal.gone, *withdrawal.first.newcomers, *withdrawal.stayed]
        places = [place for who in people for place in records.of([who])]
        owner = records.owner[places]
        return cls(
            tuple((0, records.encoded[place]) for place in places),
            owner,
            np.isin(owner, withdrawal.gone),
            np.isin(owner, withdrawal.stayed),
        )

    def of_one(self, values: Floats) -> tuple[Floats, Truth]:
        """Without those who stayed: of one release they are on neither side."""
        kept = ~self.stayed
        return values[kept], Truth(self.gone[kept], self.owner[kept])


def _texts(
    withdrawal: Withdrawal, releases: Mapping[Scope, Release], things: Sequence[str]
) -> list[Attempt]:
    """Attacks by what releases say of people's texts."""
    first, asked = withdrawal.first, _Asked.of(withdrawal)
    public = first.public_views([record for _, record in asked.rows])
    overfit = _overfit(first, asked)
    found: list[Attempt] = []
    for thing in things:
        said = {
            scope: first.views(asked.rows, first.passes(release)[thing], release)
            for scope, release in releases.items()
        }
        for scope in releases:
            views: Mapping[Control, Sequence[TokenView]] = {
                "none": said[scope],
                "positive": overfit,
                "negative": public,
            }
            for control, view in views.items():
                found += _of_one(scope, thing, control, asked, record_scores(view, public))
        before, after, most = log_p(said["before"]), log_p(said["after"]), log_p(overfit)
        found += _of_both(thing, asked, before, after, most, first.seed)
    return found


def _of_one(
    scope: Scope, thing: str, control: Control, asked: _Asked, scores: Mapping[str, Floats]
) -> list[Attempt]:
    found = []
    for attack, every in scores.items():
        if control == "negative" and attack == "loss-minus-public":
            continue  # of the public base it is zero
        score, truth = asked.of_one(every)
        scored = person_level(truth.scored(score))
        found.append(Attempt(scope, thing, attack, "person", control, scored))
    return found


def _of_both(
    thing: str, asked: _Asked, before: Floats, after: Floats, overfit: Floats, seed: int
) -> list[Attempt]:
    """Who lost most probability from one release to the next.

    The negative control asks the same of two halves, by seed, of people who were in neither release.
    """
    truth = Truth(asked.gone, asked.owner)
    never = ~asked.gone & ~asked.stayed
    people = np.unique(asked.owner[never])
    half = np.random.default_rng([seed, len(people), 7]).permutation(people)[: len(people) // 2]
    apart = Truth(np.isin(asked.owner, half)[never], asked.owner[never])
    trials: dict[Control, Scored] = {
        "none": truth.scored(before - after),
        "positive": truth.scored(overfit - after),
        "negative": apart.scored((before - after)[never]),
    }
    return [
        Attempt("both", thing, "loss-difference", "person", control, person_level(scored))
        for control, scored in trials.items()
    ]


def _overfit(first: Attacked, asked: _Asked) -> list[TokenView]:
    """What an adapter says that saw the records of whoever withdrew far too often."""
    first.progress("an overfit control", 0, 0)
    inside = [row[1] for row, gone in zip(asked.rows, asked.gone, strict=True) if gone]
    mean = first.release.mean_embedding[None]
    states = train_overfit(first.learner, [inside], mean, seed=first.seed)
    return first.personal_views(states, asked.rows)


def _embeddings(withdrawal: Withdrawal, scope: Scope, release: Release) -> list[Attempt]:
    """Attacks on the published embeddings, as those of membership, by what people's known texts give."""
    first = withdrawal.first
    people = [*withdrawal.gone, *first.newcomers]
    truth = Truth(np.isin(people, withdrawal.gone), np.array(people, dtype=np.int64))
    own, other = (
        embeddings_over(
            release,
            [records.encoded_of(who) for who in people],
            seed=first.seed,
            progress=first.progress,
        ).numpy()
        for records in (first.known, first.fresh)
    )
    halves = np.array(paired_halves(len(people), HALVES + 2, first.seed))
    fits = [publish(own[half], first.settings) for half in halves]
    alone = [singles(own[half]) for half in halves]
    trials: dict[Control, dict[str, Floats]] = {
        "none": compared(own, as_published(release.shared), fits, halves, ATTACKS),
        "positive": compared(other, singles(own[truth.member]), alone, halves, ATTACKS),
        "negative": compared(own, None, fits, halves, ATTACKS),
    }
    return [
        Attempt(scope, EMBEDDINGS, attack, "person", control, truth.scored(score))
        for control, scores in trials.items()
        for attack, score in scores.items()
    ]
