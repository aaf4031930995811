"""What an attack found: scores beside the truth, under the name of thing, attack, level and control.

A score is larger for what looks like a member. Records are the known items of candidates; a person's
score is the mean over records, either the known ones or, as the `fresh` level, items that never
trained anything: what an attacker has who knows the person, but no pooled text.

Letters: n records, K answer tokens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from simulations.privacy.membership.targets import TokenView
from simulations.privacy.statistics.measures import Scored, person_level
from simulations.privacy.statistics.scores import calibrated_score, loss_score, min_k_plus_plus
from simulations.privacy.statistics.shares import Control

Level = Literal["record", "person", "fresh"]
Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]
Integers = NDArray[np.int64]
ScoresOf = Mapping[str, Floats]
LEAST_DEVIATION = 1e-4  # of a distribution that is certain: its token must not outweigh all others


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


@dataclass(frozen=True)
class Truth:
    """Who or what the rows are, and which of them are members: [n] each."""

    member: Flags
    owner: Integers

    def scored(self, score: Floats) -> Scored:
        """A score of every row beside it."""
        return Scored(score, self.member, self.owner)


def log_p(views: Sequence[TokenView]) -> Floats:
    """Mean log-probability of an answer token, in nats: [n]."""
    return np.array([view.log_prob.mean() for view in views])


def record_scores(target: Sequence[TokenView], public: Sequence[TokenView]) -> dict[str, Floats]:
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


def of_people(
    thing: str, scores: ScoresOf, truth: Truth, control: Control, *, fresh: bool
) -> list[Found]:
    """Of people who are members whole or not at all: records and persons, or persons by fresh items."""
    found = []
    for attack, score in scores.items():
        scored = truth.scored(score)
        if fresh:
            found.append(Found(thing, attack, "fresh", control, person_level(scored)))
            continue
        found.append(Found(thing, attack, "record", control, scored))
        found.append(Found(thing, attack, "person", control, person_level(scored)))
    return found


def of_records(thing: str, scores: ScoresOf, truth: Truth, control: Control) -> list[Found]:
    """Of people half of whose items are members: records alone."""
    return [
        Found(thing, attack, "record", control, truth.scored(score))
        for attack, score in scores.items()
    ]
