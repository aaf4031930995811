"""How well an attack tells members from others: AUC, TPR at 1 % FPR, worst decile, with intervals.

All records of one owner (the person they come from) are drawn together in the bootstrap: they
share what the attack recognises, so treating them as independent makes intervals too narrow.
Owners with only members, with only non-members, and with both are three groups, and each group is
drawn from itself: the number of owners in a group is part of the design, not of chance.

A draw is a weight per owner, so all draws of a block are sums over the scores in sorted order and
no draw sorts again. `tests/test_privacy_measures.py` compares with scikit-learn and with a plain
loop.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from proper_model.errors import MetricError
from simulations.privacy.statistics.shares import p_against

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]
Integers = NDArray[np.int64]

CONFIDENCE = 0.95
LOW_FPR = 0.01
# Ten false positives: with fewer, the threshold is one or two chance records.
MIN_NON_MEMBERS = 1000
_BLOCK_NUMBERS = (
    1_000_000  # bounds memory of one block of draws; which numbers are drawn depends on it
)


@dataclass(frozen=True)
class Scored:
    """What an attack says of every record, beside the truth.

    Attributes:
        score: `[n]`, finite; larger = more likely a member.
        member: `[n]`, whether the target was trained on it.
        owner: `[n]` whose record it is; a person-level attack has one row a person.
    """

    score: Floats
    member: Flags
    owner: Integers

    def __post_init__(self) -> None:
        score = np.asarray(self.score, dtype=np.float64)
        member, owner = np.asarray(self.member), np.asarray(self.owner)
        if score.ndim != 1 or not score.shape == member.shape == owner.shape:
            raise MetricError(
                f"score, member and owner are {score.shape}, {member.shape} and {owner.shape}",
                hint="give three arrays [n], one row a record",
            )
        if member.dtype != np.bool_ or not np.issubdtype(owner.dtype, np.integer):
            raise MetricError(
                f"member is {member.dtype} and owner is {owner.dtype}, expected bool and integers"
            )
        broken = int(np.count_nonzero(~np.isfinite(score)))
        if broken:
            raise MetricError(
                f"{broken} of {len(score)} attack scores are not finite",
                hint="a record without tokens, or a loss that overflowed: leave it out of both sides",
            )
        object.__setattr__(self, "score", score)
        object.__setattr__(self, "owner", owner.astype(np.int64))


@dataclass(frozen=True)
class Advantage:
    """An attack's success with 95 % percentile intervals over owners.

    Bounds are NaN where fewer than two owners have members or fewer than two have non-members. An
    AUC of exactly 1 (or 0) has an interval of width zero, which is no certainty: read the numbers
    of owners beside it.

    Attributes:
        auc: probability that a member scores above a non-member, ties counting half.
        tpr_at_1: largest share of members found with at most 1 % false positives; None with fewer
            than 1,000 non-members.
        worst_decile: mean AUC of the tenth of owners whose members are recognised best, each
            against all non-members. Picking the best raises it above 0.5 without any leak:
        worst_decile_control: the same for owners' non-members, who have nothing to recognise.
    """

    auc: float
    low: float
    high: float
    n_members: int
    n_non_members: int
    n_owners: int
    tpr_at_1: float | None
    tpr_low: float | None
    tpr_high: float | None
    worst_decile: float
    worst_decile_low: float
    worst_decile_high: float
    worst_decile_control: float


def measure(scored: Scored, *, rng: np.random.Generator, draws: int = 2000) -> Advantage:
    """AUC, TPR at 1 % FPR and worst decile, with intervals from `draws` draws of owners.

    Raises MetricError without members or without non-members, or with fewer than one draw.
    """
    if draws < 1:
        raise MetricError(f"{draws} bootstrap draws, expected at least one")
    ranked = _Ranked(scored)
    owners = len(ranked.owners)
    point = ranked.values(np.ones((1, owners)))[:, 0]
    low, high = np.full(3, math.nan), np.full(3, math.nan)
    if min(np.count_nonzero(ranked.member_rows), np.count_nonzero(ranked.other_rows)) > 1:
        blocks = [ranked.values(counts) for counts in _draw_owners(ranked, rng, draws)]
        tail = (1 - CONFIDENCE) / 2
        low, high = np.quantile(np.concatenate(blocks, axis=1), [tail, 1 - tail], axis=1)
    n_non_members = int(np.count_nonzero(~scored.member))
    enough = n_non_members >= MIN_NON_MEMBERS
    return Advantage(
        auc=float(point[0]),
        low=float(low[0]),
        high=float(high[0]),
        n_members=len(scored.member) - n_non_members,
        n_non_members=n_non_members,
        n_owners=owners,
        tpr_at_1=float(point[1]) if enough else None,
        tpr_low=float(low[1]) if enough else None,
        tpr_high=float(high[1]) if enough else None,
        worst_decile=float(point[2]),
        worst_decile_low=float(low[2]),
        worst_decile_high=float(high[2]),
        worst_decile_control=ranked.decile_control(),
    )


def auc(scored: Scored) -> float:
    """Probability that a member scores above a non-member, ties counting half.

    Raises MetricError without members or without non-members.
    """
    ranked = _Ranked(scored)
    return float(ranked.values(np.ones((1, len(ranked.owners))))[0, 0])


def person_level(scored: Scored) -> Scored:
    """One row an owner: the mean score of the owner's records, in order of owner.

    Raises MetricError if an owner has members and non-members: such a person is on neither side.
    """
    owners, row = np.unique(scored.owner, return_inverse=True)
    count = np.bincount(row)
    members = np.bincount(row, weights=scored.member)
    split = int(np.count_nonzero((members > 0) & (members < count)))
    if split:
        raise MetricError(
            f"{split} of {len(owners)} owners have both members and non-members among their records",
            hint="a person-level attack needs all records of a person on one side",
        )
    return Scored(np.bincount(row, weights=scored.score) / count, members > 0, owners)


def joined(scored: Sequence[Scored]) -> Scored:
    """Several seeds' scores of one scale in one; an owner's rows of all seeds are drawn together."""
    return Scored(
        np.concatenate([one.score for one in scored]),
        np.concatenate([one.member for one in scored]),
        np.concatenate([one.owner for one in scored]),
    )


def pooled(scored: Sequence[Scored]) -> Scored:
    """As `joined`, each seed's scores with mean 0 and deviation 1: their scales differ."""
    parts = []
    for one in scored:
        spread = float(one.score.std())
        parts.append((one.score - one.score.mean()) / (spread if spread > 0 else 1.0))
    return joined([replace(one, score=part) for one, part in zip(scored, parts, strict=True)])


def p_of_auc(found: Advantage, *, draws: int) -> float:
    """Two-sided p of an AUC against .5; see `shares.p_against`."""
    return p_against(found.auc, found.low, found.high, 0.5, draws=draws)


def swapped(scored: Scored) -> Scored:
    """Members and non-members exchanged: `auc` of it is 1 - `auc`, or the measure is broken."""
    return replace(scored, member=~scored.member)


class _Ranked:
    """Scores in ascending order with equal ones in one group.

    `inside` and `outside` `[groups, owners]` count members and non-members; with few records an owner
    most of both is 0, so a product with them costs one addition a record and draw.
    """

    def __init__(self, scored: Scored) -> None:
        members = int(np.count_nonzero(scored.member))
        for number, name in ((members, "members"), (len(scored.member) - members, "non-members")):
            if not number:
                raise MetricError(
                    f"none of {len(scored.member)} records are {name}",
                    hint="membership is drawn before training, with records on both sides",
                )
        self.owners, owner = np.unique(scored.owner, return_inverse=True)
        scores, group = np.unique(scored.score, return_inverse=True)
        shape = len(scores), len(self.owners)
        self.inside, self.outside = (
            csr_array((np.ones(np.count_nonzero(side)), (group[side], owner[side])), shape=shape)
            for side in (scored.member, ~scored.member)
        )
        self.member_rows = np.bincount(owner, scored.member) > 0
        self.other_rows = np.bincount(owner, ~scored.member) > 0
        self.records = len(owner)
        self.with_tpr = self.records - members >= MIN_NON_MEMBERS

    def values(self, counts: Floats) -> Floats:
        """`[3, draws]`: AUC, TPR at 1 % FPR and worst decile where `counts` `[draws, owners]` says
        how often an owner was drawn. TPR is 0 with too few non-members.
        """
        drawn = np.ascontiguousarray(counts.T)
        others, found = self.outside @ drawn, self.inside @ drawn  # [groups, draws]
        below = others.cumsum(0)
        n_others, n_found = below[-1], found.sum(0)
        beaten = (below - others / 2) / n_others  # share of non-members below a group
        area = np.einsum("gd,gd->d", found, beaten) / n_found
        tpr = np.zeros(len(counts))
        if self.with_tpr:
            false = (n_others - below + others) / n_others
            true = (n_found - found.cumsum(0) + found) / n_found
            # Rounding of a share must not lose the last false positive that is allowed.
            tpr = np.where(false <= LOW_FPR + 1e-12, true, 0.0).max(0)
        own = _owner_means(self.inside, beaten)[self.member_rows].T
        return np.stack([area, tpr, _best_tenth(own, counts[:, self.member_rows])])

    def decile_control(self) -> float:
        """Worst decile of owners' non-members against all non-members."""
        others = self.outside.sum(1)
        beaten = (others.cumsum() - others / 2) / others.sum()
        own = _owner_means(self.outside, beaten[:, None])[self.other_rows].T
        return float(_best_tenth(own, np.ones_like(own))[0])


def _owner_means(records: csr_array, values: Floats) -> Floats:
    """`[owners, draws]` mean of `values` `[groups, draws]` over an owner's records; 0 without any."""
    return np.asarray(records.T @ values / np.maximum(records.sum(0), 1)[:, None])


def _best_tenth(values: Floats, counts: Floats) -> Floats:
    """`[draws]` mean of the largest tenth (rounded up) of `values`, each `counts` times there."""
    order = np.argsort(-values, axis=1, kind="stable")
    value, count = np.take_along_axis(values, order, 1), np.take_along_axis(counts, order, 1)
    wanted = np.ceil(count.sum(1, keepdims=True) / 10)
    before = count.cumsum(1) - count
    taken = np.clip(wanted - before, 0, count)
    return np.asarray((taken * value).sum(1) / wanted[:, 0])


def _draw_owners(ranked: _Ranked, rng: np.random.Generator, draws: int) -> Iterator[Floats]:
    """`[block, owners]` how often a draw took each owner, groups drawn from themselves."""
    side = ranked.member_rows + 2 * ranked.other_rows
    groups = [np.flatnonzero(side == kind) for kind in (1, 2, 3)]
    block = max(1, _BLOCK_NUMBERS // ranked.records)
    for start in range(0, draws, block):
        counts = np.zeros((min(block, draws - start), len(ranked.owners)))
        for rows in groups:
            if len(rows):
                even = np.full(len(rows), 1 / len(rows))
                counts[:, rows] = rng.multinomial(len(rows), even, size=len(counts))
        yield counts
