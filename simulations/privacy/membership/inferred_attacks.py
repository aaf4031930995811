"""What the prior of inferred embeddings tells of the people it was estimated from.

A release whose preset infers embeddings holds c, the mean of pooled people's item features; P, the directions
in which those people differ more than their own items do; m and V, trained with the experts
(`stages.inferred_embedding`). The attacker has texts of a person and computes their features as any device does.

    distance          minus that from the mean of the person's features to c
    tracing           inner product of what the person adds to the others' mean and what c does
    tracing-p         the same of (f - c) P
    reach-p           how far the mean of (f - c) P reaches: P was chosen for members to differ in
    own-embedding     log p under the embedding that the person's texts give, less the public base's: with
                      stage 1 and the experts, which have seen members, too
    own-minus-mean    the same less what the release says of somebody without items

The score of the first four is the share of other priors, those of random halves of the candidates without
the person by the same analysis of variance, that say less of the person.

The positive control has a center, or a direction, of one person each, which no release can have. The negative
one is what is fitted on one more half without the person. For the last two they are an adapter that saw the
members' texts far too often, and the public base.

Letters: P people, F features, D directions, n items of a person.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from proper_model.engine import lora_settings
from proper_model.kernels import Encoded
from proper_model.model import group_pass
from proper_model.stages import inferred_embedding, item_gradients
from simulations.privacy.membership.attacked import Attacked, Records
from simulations.privacy.membership.embedding_attacks import (
    HALVES,
    Published,
    compared,
    nearest,
    tracing,
)
from simulations.privacy.membership.found import (
    Flags,
    Floats,
    Found,
    Level,
    ScoresOf,
    Truth,
    log_p,
    of_people,
)
from simulations.privacy.membership.shadows import paired_halves
from simulations.privacy.membership.targets import overfit_together
from simulations.privacy.statistics.shares import Control

INFERRED = "inferred"
Features = Sequence[Floats]
"""Of each person the features of some items, [n, F] each."""


@dataclass(frozen=True)
class Prior:
    """c [F] and P [F, D]."""

    center: Floats
    project: Floats

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor]) -> Prior:
        """From a release's tensors."""
        return cls(
            *(tensors[f"inferred.{name}"].double().cpu().numpy() for name in ("center", "project"))
        )


Attack = Callable[[Floats, Prior], Floats]


def _at_center(attack: Callable[[Floats, Published], Floats]) -> Attack:
    return lambda own, prior: attack(own, Published(prior.center[None], np.ones(1)))


def _tracing_p(own: Floats, prior: Prior) -> Floats:
    turned = (prior.center @ prior.project)[None]
    return tracing(own @ prior.project, Published(turned, np.ones(1)))


def reach(own: Floats, prior: Prior) -> Floats:
    """|(f - c) P| of each person's mean features [P, F]: [P]."""
    return np.asarray(np.linalg.norm((own - prior.center) @ prior.project, axis=1))


OF_CENTER: Mapping[str, Attack] = {
    "distance": _at_center(nearest),
    "tracing": _at_center(tracing),
    "tracing-p": _tracing_p,
}
OF_DIRECTIONS: Mapping[str, Attack] = {"reach-p": reach}


def fitted(features: Features, *, width: int, most: int) -> Prior:
    """The prior that stage 2 would begin with, of these people: c, and P in at most `most` directions."""
    counts = torch.tensor([len(own) for own in features])
    owners = torch.arange(len(features)).repeat_interleave(counts)
    rows = torch.from_numpy(np.concatenate(features))
    found = inferred_embedding.analyse_variance(rows, owners, len(features), width=width)
    prior = Prior.of(found.tensors())
    return Prior(prior.center, prior.project[:, :most])


def on_inferred(attacked: Attacked) -> list[Found]:
    """Attacks by a person's known items, and by fresh ones, with both controls."""
    attacked.progress("what infers embeddings", 0, 0)
    people = attacked.sides
    trained = [
        list(user.capped(attacked.settings.group.max_items_per_user))
        for user in attacked.pooled_users(people)
    ]
    pooled = features_of(attacked, trained)
    known = features_of(attacked, [attacked.known.encoded_of(who) for who in people])
    found: list[Found] = []
    if "person" in attacked.levels:
        halves = [attacked.draw.halves[who] for who in people]
        asked, planted = (
            [own[np.array(half) == side] for own, half in zip(known, halves, strict=True)]
            for side in (False, True)
        )
        found += _on_prior(attacked, "person", pooled, means(known), (means(asked), means(planted)))
    if "fresh" in attacked.levels:
        fresh = means(features_of(attacked, [attacked.fresh.encoded_of(who) for who in people]))
        found += _on_prior(attacked, "fresh", pooled, fresh, (fresh, means(known)))
    if {"record", "person"} & set(attacked.levels):
        found += _on_embedding(attacked, attacked.known, fresh=False)
    if "fresh" in attacked.levels:
        found += _on_embedding(attacked, attacked.fresh, fresh=True)
    return found


def features_of(attacked: Attacked, sets: Sequence[Sequence[Encoded]]) -> list[Floats]:
    """Of each set of items their features over stage 1: [n, F] each."""
    items = [item for own in sets for item in own]
    how = lora_settings(attacked.settings, epochs=1)
    every = item_gradients.item_gradients(attacked.learner.model, attacked.encoder, items, how)
    return [part.double().numpy() for part in every.split([len(own) for own in sets])]


def _on_prior(
    attacked: Attacked, level: Level, pooled: Features, own: Floats, planted: tuple[Floats, Floats]
) -> list[Found]:
    """Attacks on c and P, by mean features [P, F].

    Args:
        pooled: the features that people have where they are pooled.
        planted: what the positive control asks by, and what it plants of the same people's other items.
    """
    people = attacked.sides
    member = np.array([attacked.target.trained[who] for who in people], dtype=np.bool_)
    truth = Truth(member, np.array(people, dtype=np.int64))
    halves = np.array(paired_halves(len(people), HALVES + 2, attacked.seed))
    prior = Prior.of(attacked.release.shared)
    width, most = attacked.structure.embedding_dim, prior.project.shape[1]

    def fit(half: Flags) -> Prior:
        chosen = [own for own, inside in zip(pooled, half, strict=True) if inside]
        return fitted(chosen, width=width, most=most)

    fits = [fit(half) for half in halves]
    attacks = {**OF_CENTER, **OF_DIRECTIONS}
    again, alone = planted[0], planted[1][member]
    centers = [Prior(one, prior.project) for one in alone]
    ways = [Prior(prior.center, direction(one - prior.center)) for one in alone]
    trials: dict[Control, dict[str, Floats]] = {
        "none": compared(own, prior, fits, halves, attacks),
        "positive": {
            **planted_scores(again, centers, member, OF_CENTER, seed=attacked.seed),
            **planted_scores(again, ways, member, OF_DIRECTIONS, seed=attacked.seed),
        },
        "negative": compared(own, None, fits, halves, attacks),
    }
    return [
        Found(INFERRED, name, level, control, truth.scored(score))
        for control, scores in trials.items()
        for name, score in scores.items()
    ]


def means(features: Features) -> Floats:
    """Of each person the mean over items: [P, F]."""
    return np.stack([own.mean(0) for own in features])


def direction(way: Floats) -> Floats:
    """A P of one direction, [F, 1], of length one."""
    return np.asarray((way / np.linalg.norm(way))[:, None])


def planted_scores(
    own: Floats,
    singles: Sequence[Prior],
    member: Flags,
    attacks: Mapping[str, Attack],
    *,
    seed: int,
) -> dict[str, Floats]:
    """By attack the share of other single members' priors that say less of a person: [P] each.

    Args:
        own: mean features of all, [P, F].
        singles: a prior of each member alone, in their order. A member is asked about the own one, everybody
            else about one that is drawn by seed.
    """
    place = np.random.default_rng(seed).integers(len(singles), size=len(member))
    place[member] = np.arange(len(singles))
    found = {}
    for name, attack in attacks.items():
        said = np.stack([attack(own, single) for single in singles])
        score = said[place, np.arange(len(member))]
        beaten = (said < score) + (said == score) / 2
        found[name] = (beaten.sum(0) - 0.5) / (len(singles) - 1)  # but for itself
    return found


def _on_embedding(attacked: Attacked, records: Records, *, fresh: bool) -> list[Found]:
    """What the release says of records under the embedding that their owner's records give."""
    people = attacked.sides
    places = records.of(people)
    rows = [(people.index(int(records.owner[i])), records.encoded[i]) for i in places]
    truth = attacked.truth(records, places)
    embeddings = attacked.own_embeddings([records.encoded_of(who) for who in people])
    seen = [record for (_, record), inside in zip(rows, truth.member, strict=True) if inside]
    overfit = overfit_together(attacked.learner, seen, seed=attacked.seed)
    public = log_p(attacked.public_views([record for _, record in rows]))
    nobody = log_p(
        attacked.views(rows, lambda slots: group_pass(slots, torch.zeros_like(embeddings)))
    )
    said = log_p(attacked.views(rows, lambda slots: group_pass(slots, embeddings)))
    seen_often = log_p(attacked.personal_views([overfit], [(0, record) for _, record in rows]))
    scores: dict[Control, ScoresOf] = {
        "none": {"own-embedding": said - public, "own-minus-mean": said - nobody},
        "positive": {"own-embedding": seen_often - public, "own-minus-mean": seen_often - nobody},
        "negative": {"own-embedding": public},
    }
    return [
        one
        for control, by_name in scores.items()
        for one in of_people(INFERRED, by_name, truth, control, fresh=fresh)
    ]
