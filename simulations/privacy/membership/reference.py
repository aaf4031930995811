"""Attacks that compare with shadows: offline LiRA and RMIA of records, of persons, of one person's items.

Of a person LiRA compares the mean over the person's records, since what a model says of a person's texts
varies together; RMIA's score is the mean over records. How much RMIA takes training to raise a probability
is chosen on the shadows alone (`statistics.reference_attacks`).

Letters: S shadows, n records, m records that are nobody's members.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from simulations.privacy.membership.found import (
    Flags,
    Floats,
    Found,
    Integers,
    Truth,
    of_people,
)
from simulations.privacy.statistics.measures import Scored, person_level
from simulations.privacy.statistics.reference_attacks import (
    Observed,
    choose_offline_a,
    lira_offline,
    rmia_offline,
)
from simulations.privacy.statistics.shares import Control


@dataclass(frozen=True)
class References:
    """What shadows say of records, and then of others that neither the target nor a shadow had.

    Attributes:
        log_p: mean log-probability of an answer token, [S, n + m].
        inside: which shadow had which record, [S, n].
        owner: the person whose model says it, [n + m]: a record is compared with others of the same
            person; None where one model says all.
    """

    log_p: Floats
    inside: Flags
    owner: Integers | None = None

    def observed(self, said: Floats) -> tuple[Observed, Observed]:
        """Records and others, with what the target says of them [n + m]."""
        known = self.inside.shape[1]
        nobody = np.zeros(self.log_p[:, known:].shape, dtype=np.bool_)
        return (
            Observed(said[:known], self.log_p[:, :known], self.inside),
            Observed(said[known:], self.log_p[:, known:], nobody),
        )


def reference_scores(said: Floats, references: References) -> dict[str, Floats]:
    """By name the scores of the records, from what the target says of them and of others [n + m].

    None where all shadows say the same, such as adapters that a calibrated release does not train.
    """
    own, others = references.observed(said)
    if np.ptp(own.references, axis=0).max() == 0:
        return {}
    a = choose_offline_a(own, others)
    rmia = np.empty(len(own.target))
    owner = np.zeros(len(said)) if references.owner is None else references.owner
    mine, theirs = owner[: len(rmia)], owner[len(rmia) :]
    for who in np.unique(mine):
        rows, compared = mine == who, theirs == who
        rmia[rows] = rmia_offline(_columns(own, rows), _columns(others, compared), a=a)
    return {"lira": lira_offline(own), "rmia": rmia}


def of_people_by_reference(
    thing: str,
    control: Control,
    truth: Truth,
    said: Floats,
    references: References,
    *,
    fresh: bool,
) -> list[Found]:
    """Of people who are members whole or not at all, as `found.of_people`; `said` is [n + m]."""
    scores = reference_scores(said, references)
    if not scores:
        return []
    found = of_people(thing, {"rmia": scores["rmia"]}, truth, control, fresh=fresh)
    lira = truth.scored(scores["lira"])
    if not fresh:
        found.append(Found(thing, "lira", "record", control, lira))
    people = person_level(lira)  # who they are, and on which side
    first = np.unique(truth.owner, return_index=True)[1]
    whole = Observed(
        _by_person(said[: len(truth.owner)], truth.owner),
        np.stack([_by_person(row[: len(truth.owner)], truth.owner) for row in references.log_p]),
        references.inside[:, first],
    )
    person = Scored(lira_offline(whole), people.member, people.owner)
    return [*found, Found(thing, "lira", "fresh" if fresh else "person", control, person)]


def _columns(observed: Observed, rows: Flags) -> Observed:
    return Observed(observed.target[rows], observed.references[:, rows], observed.trained[:, rows])


def _by_person(values: Floats, owner: Integers) -> Floats:
    """The mean of each owner's values, in order of owner."""
    _, column = np.unique(owner, return_inverse=True)
    return np.asarray(np.bincount(column, weights=values) / np.bincount(column))
