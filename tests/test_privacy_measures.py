"""Attack measures against scikit-learn, a plain loop, hand-computed cases and known coverage."""

from __future__ import annotations

import math

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from proper_model.errors import MetricError
from simulations.privacy.statistics.measures import Scored, auc, measure, person_level, swapped


def scored(score, member, owner=None) -> Scored:
    owner = range(len(score)) if owner is None else owner
    return Scored(np.array(score, dtype=float), np.array(member, dtype=bool), np.array(owner))


def random_scored(seed: int, n: int = 200, owners: int = 40, levels: int = 25) -> Scored:
    """Records with many ties; owners on one side or on both."""
    rng = np.random.default_rng(seed)
    member = rng.random(n) < 0.4
    return Scored(rng.integers(levels, size=n) + 3.0 * member, member, rng.integers(owners, size=n))


@pytest.mark.parametrize("seed", range(3))
def test_auc_with_ties_is_scikit_learns(seed: int) -> None:
    drawn = random_scored(seed)
    expected = roc_auc_score(drawn.member, drawn.score)
    assert auc(drawn) == pytest.approx(expected, abs=1e-12)
    assert auc(swapped(drawn)) == pytest.approx(1 - expected, abs=1e-12)
    result = measure(drawn, rng=np.random.default_rng(0), draws=200)
    assert result.auc == pytest.approx(expected, abs=1e-12)
    assert result.low < expected < result.high
    assert (result.n_members, result.n_non_members) == (drawn.member.sum(), (~drawn.member).sum())
    assert result.n_owners == len(set(drawn.owner))


def plain_values(drawn: Scored, counts) -> tuple[float, float, float]:
    """AUC, TPR at 1 % FPR and worst decile by repeating every owner's records."""
    rows = [i for i in range(len(drawn.score)) for _ in range(int(counts[drawn.owner[i]]))]
    score, member = drawn.score[rows], drawn.member[rows]
    inside, outside = score[member], score[~member]
    tpr = 0.0
    for threshold in {*score, math.inf}:
        if np.mean(outside >= threshold) <= 0.01:
            tpr = max(tpr, float(np.mean(inside >= threshold)))
    own = []
    for owner in np.unique(drawn.owner[drawn.member]):
        mine = drawn.score[drawn.member & (drawn.owner == owner)]
        wins = [np.mean(s > outside) + np.mean(s == outside) / 2 for s in mine]
        own += [float(np.mean(wins))] * int(counts[owner])
    top = sorted(own, reverse=True)[: math.ceil(len(own) / 10)]
    return float(roc_auc_score(member, score)), tpr, float(np.mean(top))


def test_every_draw_is_the_measure_of_the_repeated_records(monkeypatch) -> None:
    drawn = random_scored(3, n=1700, owners=60, levels=400)
    one_sided = Scored(drawn.score, drawn.member, drawn.owner * 2 + drawn.member)
    for records in (drawn, one_sided):
        _, rows = np.unique(records.owner, return_inverse=True)
        records = Scored(records.score, records.member, rows)
        from simulations.privacy.statistics import measures

        seen = []
        plain = measures._Ranked.values
        monkeypatch.setattr(
            measures._Ranked,
            "values",
            lambda self, counts, seen=seen, plain=plain: (
                seen.append((counts, plain(self, counts))) or seen[-1][1]
            ),
        )
        result = measure(records, rng=np.random.default_rng(1), draws=4)
        monkeypatch.undo()
        counts = np.concatenate([c for c, _ in seen])
        values = np.concatenate([v for _, v in seen], axis=1)
        assert pytest.approx(np.array([plain_values(records, c) for c in counts])) == values.T
        assert result.tpr_at_1 == values[1, 0]
        # Each group of owners keeps its size in every draw.
        sides = np.array([set(records.member[rows == o]) for o in range(rows.max() + 1)])
        for side in ({True}, {False}, {True, False}):
            group = np.array([s == side for s in sides])
            assert (counts[:, group].sum(1) == group.sum()).all()


def test_hand_computed_case() -> None:
    drawn = scored([3, 2, 2, 1], [1, 1, 0, 0])
    assert auc(drawn) == (1 + 1 + 0.5 + 1) / 4
    result = measure(drawn, rng=np.random.default_rng(0), draws=50)
    assert result.worst_decile == 1.0  # the owner of 3
    assert (
        result.worst_decile_control == 0.75
    )  # the owner of the non-member 2: above 1, tied with 2
    assert (result.tpr_at_1, result.tpr_low, result.tpr_high) == (None, None, None)


def test_tpr_only_with_a_thousand_non_members() -> None:
    # 1000 non-members 0..999, 10 of them false positives at most: the threshold is just above 989.
    score = [*range(1000), 988.5, 989.5, 2000.0, -1.0]
    drawn = scored(score, [0] * 1000 + [1] * 4)
    assert measure(drawn, rng=np.random.default_rng(0), draws=20).tpr_at_1 == 0.5
    tied = scored([5.0] * 1000 + [5.0, 6.0], [0] * 1000 + [1] * 2)
    assert measure(tied, rng=np.random.default_rng(0), draws=20).tpr_at_1 == 0.5
    fewer = scored(score[1:], [0] * 999 + [1] * 4)
    assert measure(fewer, rng=np.random.default_rng(0), draws=20).tpr_at_1 is None


def test_intervals_are_clustered_by_owner() -> None:
    """Ten copies of every record say no more: the interval over owners must not shrink."""
    rng = np.random.default_rng(5)
    member = np.arange(60) < 30
    once = Scored(rng.normal(size=60) + member, member, np.arange(60))
    often = Scored(np.repeat(once.score, 10), np.repeat(member, 10), np.repeat(once.owner, 10))
    apart = Scored(often.score, often.member, np.arange(600))
    one, many, wrong = (
        measure(s, rng=np.random.default_rng(0), draws=500) for s in (once, often, apart)
    )
    assert (many.low, many.high) == pytest.approx((one.low, one.high), abs=1e-12)
    assert wrong.high - wrong.low < 0.5 * (one.high - one.low)


def test_intervals_cover_the_truth() -> None:
    """Two records an owner with a shared part; the AUC of the mechanism is Phi(d / sqrt(2))."""
    truth, missed = 0.7602499389065233, 0  # Phi(1 / sqrt(2))
    rng = np.random.default_rng(0)
    owner = np.repeat(np.arange(80), 2)
    member = owner % 2 == 0
    for _ in range(60):
        noise = np.sqrt(0.8) * rng.normal(size=80)[owner] + np.sqrt(0.2) * rng.normal(size=160)
        result = measure(Scored(noise + member, member, owner), rng=rng, draws=200)
        missed += not result.low <= truth <= result.high
    assert missed <= 8  # 5 % of 60 is 3; nine or more has probability 0.3 %


def test_person_level_is_the_mean_by_owner() -> None:
    drawn = scored([1, 2, 6, 4, 8], [1, 1, 0, 0, 1], [7, 7, 3, 3, 9])
    people = person_level(drawn)
    assert people.owner.tolist() == [3, 7, 9]
    assert people.score.tolist() == [5.0, 1.5, 8.0]
    assert people.member.tolist() == [False, True, True]


def test_one_owner_a_side_has_no_interval() -> None:
    result = measure(scored([2, 1], [1, 0]), rng=np.random.default_rng(0))
    assert result.auc == 1.0
    assert math.isnan(result.low) and math.isnan(result.worst_decile_high)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([1, 2], [1, 1]), "none of 2 records are non-members"),
        (([1, 2], [0, 0]), "none of 2 records are members"),
        (([1, math.nan], [0, 1]), "1 of 2 attack scores are not finite"),
        (([1, math.inf], [0, 1]), "1 of 2 attack scores are not finite"),
        (([1, 2, 3], [0, 1]), r"are \(3,\), \(2,\) and \(3,\)"),
    ],
)
def test_records_that_cannot_be_measured_are_refused(arguments, message: str) -> None:
    with pytest.raises(MetricError, match=message):
        measure(scored(*arguments), rng=np.random.default_rng(0))


def test_wrong_types_and_split_people_are_refused() -> None:
    with pytest.raises(MetricError, match="member is int64"):
        Scored(np.zeros(2), np.array([0, 1]), np.array([0, 1]))
    with pytest.raises(MetricError, match="1 of 2 owners have both"):
        person_level(scored([1, 2, 3], [1, 0, 1], [4, 4, 5]))
    with pytest.raises(MetricError, match="0 bootstrap draws"):
        measure(scored([1, 2], [1, 0]), rng=np.random.default_rng(0), draws=0)
