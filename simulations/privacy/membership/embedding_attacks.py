"""What the released distribution of embeddings says of who is in it: their mean, and the prototypes.

The attacker has texts of a person, finds an embedding from them as any device would, and asks how well
it fits what is published. Members and others are treated alike: nobody's trained row is used, which only
members have.

    distance    minus that to the nearest prototype, of a release without prototypes to the mean
    density     of a mixture of Gaussians, one a prototype, as wide as candidates are around theirs
    tracing     inner product of what the person adds to the others' mean and what the release does

The score is the share of other distributions that fit the person worse: those of random halves of the
candidates without the person. Experts have seen members, whose embeddings may lie farther out for that, and
this says nothing of what is published of embeddings. The last attack is that of Dwork et al. 2015 on
published means (Robust Traceability from Trace Amounts).

The positive control publishes a prototype of one person each, which `prototype_min_users` forbids. The
negative one publishes what is fitted on one more half without the person.

Letters: P people, H halves, K published points, d numbers of an embedding.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from proper_model.kernels import Encoded
from proper_model.settings import StageSettings
from proper_model.stages import published_embeddings
from simulations.privacy.membership.attacked import Attacked
from simulations.privacy.membership.found import (
    Flags,
    Floats,
    Found,
    Level,
    Truth,
)
from simulations.privacy.membership.shadows import paired_halves
from simulations.privacy.statistics.shares import Control

LEAST_SPREAD = 1e-6
HALVES = 32  # without each person are half of them


@dataclass(frozen=True)
class Published:
    """What is published of embeddings: points [K, d], and over how many people each is [K]."""

    points: Floats
    counts: Floats


def distances(own: Floats, published: Published) -> Floats:
    """Euclidean distance of each person to each point: [P, K]."""
    return np.asarray(np.linalg.norm(own[:, None] - published.points[None], axis=2))


def nearest(own: Floats, published: Published) -> Floats:
    """Minus the distance to the nearest point: [P]."""
    return np.asarray(-distances(own, published).min(1))


def density(own: Floats, published: Published) -> Floats:
    """Log-density, but for a constant, under Gaussians around the points, weighted by their counts: [P].

    All are round and as wide as the median candidate is far from the nearest point, a number of an axis.
    """
    squared = distances(own, published) ** 2
    width = max(float(np.median(squared.min(1))) / own.shape[1], LEAST_SPREAD)
    logs = np.log(published.counts / published.counts.sum()) - squared / (2 * width)
    most = logs.max(1, keepdims=True)
    return np.asarray(most[:, 0] + np.log(np.exp(logs - most).sum(1)))


def tracing(own: Floats, published: Published) -> Floats:
    """(e_u - m_u) (p - m_u), m_u the mean of all candidates but u, p that of the points by counts: [P]."""
    people = len(own)
    others = (own.sum(0) - own) / (people - 1)
    mean = published.counts @ published.points / published.counts.sum()
    return np.asarray(((own - others) * (mean - others)).sum(1))


Fit = TypeVar("Fit")
Attack = Callable[[Floats, Published], Floats]
ATTACKS: Mapping[str, Attack] = {
    "distance": nearest,
    "density": density,
    "tracing": tracing,
}


def on_embeddings(attacked: Attacked) -> list[Found]:
    """Attacks by a person's known items, and by fresh ones, each with both controls."""
    people = attacked.sides
    owner = np.array(people, dtype=np.int64)
    truth = Truth(np.array([attacked.target.trained[who] for who in people]), owner)
    published = as_published(attacked.release.shared)
    known = [attacked.known.encoded_of(who) for who in people]
    sets: dict[Level, list[list[Encoded]]] = {
        "person": known,
        "fresh": [attacked.fresh.encoded_of(who) for who in people],
    }
    found: list[Found] = []
    for level, records in sets.items():
        if level in attacked.levels:
            own = attacked.embeddings(records).numpy()
            asking, planted = _planting(attacked, level, own, known)
            halves = np.array(paired_halves(len(own), HALVES + 2, attacked.seed))
            fits = [publish(own[half], attacked.settings) for half in halves]
            rows = [singles(planted[half]) for half in halves]
            trials: dict[Control, dict[str, Floats]] = {
                "none": compared(own, published, fits, halves, ATTACKS),
                "positive": compared(asking, singles(planted[truth.member]), rows, halves, ATTACKS),
                "negative": compared(own, None, fits, halves, ATTACKS),
            }
            found += [
                Found("embeddings", name, level, control, truth.scored(score))
                for control, scores in trials.items()
                for name, score in scores.items()
            ]
    return found


def compared(
    own: Floats,
    published: Fit | None,
    fits: Sequence[Fit],
    halves: Flags,
    attacks: Mapping[str, Callable[[Floats, Fit], Floats]],
) -> dict[str, Floats]:
    """By attack the share of halves without a person whose distribution fits worse: [P] each.

    Args:
        own: what the attacker has of each person, a row each.
        published: what is attacked; None: of the last pair of halves that without the person.
        fits: what is fitted on each half.
        halves: who is in which, [H, P]; the last two are left for `published`.
        attacks: by name what says how well a person's own fits what is published, [P].
    """
    found = {}
    for name, attack in attacks.items():
        said = np.stack([attack(own, fit) for fit in fits])
        score = np.where(halves[-2], said[-1], said[-2])
        if published is not None:
            score = attack(own, published)
        beaten = (said[:-2] < score) + (said[:-2] == score) / 2
        without = ~halves[:-2]
        found[name] = (beaten * without).sum(0) / without.sum(0)
    return found


def _planting(
    attacked: Attacked, level: Level, own: Floats, known: Sequence[Sequence[Encoded]]
) -> tuple[Floats, Floats]:
    """Candidates' embeddings, and rows to plant that are found from other items of the same people."""
    if level == "fresh":
        return own, attacked.embeddings(known).numpy()
    first, second = (
        [
            [
                item
                for item, chosen in zip(items, attacked.draw.halves[who], strict=True)
                if chosen is side
            ]
            for who, items in zip(attacked.sides, known, strict=True)
        ]
        for side in (False, True)
    )
    return attacked.embeddings(first).numpy(), attacked.embeddings(second).numpy()


def singles(rows: Floats) -> Published:
    """A prototype of one person each, which `prototype_min_users` forbids."""
    return Published(rows, np.ones(len(rows)))


def publish(rows: Floats, settings: StageSettings) -> Published:
    """What a release says of such embeddings [P, d]."""
    return as_published(published_embeddings(torch.from_numpy(rows)[:, None], settings, 0))


def as_published(shared: Mapping[str, Tensor]) -> Published:
    """The prototypes of a release's tensors; without any the mean, which is zeros of too few people."""
    points, counts = shared["prototypes"], shared["prototype_counts"]
    if not len(points):
        points, counts = shared["mean_embedding"][None], torch.ones(1)
    return Published(points.flatten(1).double().cpu().numpy(), counts.double().cpu().numpy())
