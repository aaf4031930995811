"""What a release tells of the people who trained it: the merged base, and its experts under the mean.

The positive control is an adapter that saw the members' records far too often; for the level `fresh` it saw
the very items that are asked about, since only then is it certain that there is something to find. The
negative control is the public base, which nobody trained, put to the same attacks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from simulations.privacy.membership.attacked import (
    RELEASE_THINGS,
    Attacked,
    Records,
    Row,
    State,
)
from simulations.privacy.membership.found import (
    Found,
    Truth,
    log_p,
    of_people,
    record_scores,
)
from simulations.privacy.membership.reference import References, of_people_by_reference
from simulations.privacy.membership.shadows import release_references
from simulations.privacy.membership.targets import TokenView, train_overfit
from simulations.privacy.statistics.shares import Control

MOST_OTHERS = 200  # records that are nobody's members, for RMIA


@dataclass(frozen=True)
class Asked:
    """Records at one kind of level: rows of either side, and of people who are on neither.

    Attributes:
        rows: records of people who trained and of people who are not pooled.
        others: records of pooled people who were held back: non-members that are not scored.
        inside: the records that are members.
    """

    fresh: bool
    rows: tuple[Row, ...]
    others: tuple[Row, ...]
    truth: Truth

    @property
    def inside(self) -> list[Row]:
        """The rows that are members."""
        return [row for row, member in zip(self.rows, self.truth.member, strict=True) if member]


def on_release(attacked: Attacked, things: Sequence[str]) -> list[Found]:
    """Attacks on the release's parts that are asked for, at all levels asked for."""
    passes = attacked.passes(attacked.release)
    asked_of = [thing for thing in RELEASE_THINGS if thing in things and thing in passes]
    levels = _levels(attacked)
    attacked.progress("overfit controls", 0, 0)
    overfit = _overfit(attacked, levels)
    references = _references(attacked, asked_of, levels)
    attacked.progress("attacking the release", 0, 0)
    found: list[Found] = []
    for number, asked in enumerate(levels):
        rows = (*asked.rows, *asked.others)
        public = attacked.public_views([record for _, record in rows])
        positive = attacked.personal_views([overfit[number]], rows)
        for thing in asked_of:
            views: Mapping[Control, Sequence[TokenView]] = {
                "none": attacked.views(rows, passes[thing]),
                "positive": positive,
                "negative": public,
            }
            for control, said in views.items():
                found += _attacks(thing, control, asked, said, public, references[thing][number])
    return found


def _attacks(
    thing: str,
    control: Control,
    asked: Asked,
    views: Sequence[TokenView],
    public: Sequence[TokenView],
    references: References | None,
) -> list[Found]:
    """All attacks by what one model says of rows and others."""
    known = len(asked.rows)
    scores = record_scores(views[:known], public[:known])
    if control == "negative":
        del scores["loss-minus-public"]  # of the public base it is zero
    found = of_people(thing, scores, asked.truth, control, fresh=asked.fresh)
    if references is None:
        return found
    return found + of_people_by_reference(
        thing, control, asked.truth, log_p(views), references, fresh=asked.fresh
    )


def _levels(attacked: Attacked) -> list[Asked]:
    """The lists of records that the levels asked for need."""
    aside = [place for place, held in enumerate(attacked.target.aside) if held]
    lists = []
    if {"record", "person"} & set(attacked.levels):
        lists.append((attacked.known, False))
    if "fresh" in attacked.levels:
        lists.append((attacked.fresh, True))
    found = []
    for records, fresh in lists:
        places = records.of(attacked.sides)
        others = records.of(aside)[:MOST_OTHERS]
        truth = attacked.truth(records, places)
        found.append(Asked(fresh, _rows(records, places), _rows(records, others), truth))
    return found


def _rows(records: Records, places: Sequence[int]) -> tuple[Row, ...]:
    return tuple((0, records.encoded[i]) for i in places)


def _overfit(attacked: Attacked, levels: Sequence[Asked]) -> Sequence[State]:
    """For each list of records an adapter that saw its members far too often, all in shared passes."""
    sets = [[record for _, record in asked.inside] for asked in levels]
    means = attacked.release.mean_embedding[None].repeat(len(sets), 1, 1)
    return train_overfit(attacked.learner, sets, means, seed=attacked.seed)


def _references(
    attacked: Attacked, things: Sequence[str], levels: Sequence[Asked]
) -> dict[str, list[References | None]]:
    """By thing and list of records what shadow releases say; nothing without shadows."""
    if not attacked.shadows:
        return {thing: [None] * len(levels) for thing in things}
    rows = [((*asked.rows, *asked.others), asked.truth.owner) for asked in levels]
    said = release_references(attacked, things, rows)
    return {thing: list(lists) for thing, lists in said.items()}
