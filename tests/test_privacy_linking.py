"""Linking and shares: planted truth in hand-made vectors, hand-computed means, seeds that are kept."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from proper_model.errors import CheckpointError, ConfigError, MetricError
from simulations.outcome.environment import hardware
from simulations.outcome.results import write_document
from simulations.privacy.linkage.sentences import sentences
from simulations.privacy.results.kept import digest_of, kept_seed
from simulations.privacy.results.leaving import render
from simulations.privacy.results.options import names, numbers
from simulations.privacy.results.rates import RateResult, rated, read_rates, strongest
from simulations.privacy.results.rates_show import failed_controls, shown
from simulations.privacy.statistics.linking import (
    groups_named,
    largest_share,
    linked,
    linked_aligned,
    scaled,
)
from simulations.privacy.statistics.shares import Tried, p_against, share, worst_decile

PEOPLE = 40


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_shares_by_hand_and_intervals_draw_people_not_rows() -> None:
    values, owner = np.array([1.0, 0.0, 1.0, 1.0]), np.array([7, 7, 8, 9])
    found = share(values, owner, rng=rng())
    assert found.value == 0.75 and found.n_owners == 3
    alone = share(np.ones(5), np.zeros(5, dtype=np.int64), rng=rng())
    assert alone.value == 1 and math.isnan(alone.low)
    hits = (rng(1).random(50) < 0.5).astype(float)
    once = share(hits, np.arange(50), rng=rng())
    copied = share(np.tile(hits, 5), np.tile(np.arange(50), 5), rng=rng())
    assert (copied.low, copied.high) == pytest.approx((once.low, once.high))
    assert once.high - once.low == pytest.approx(3.92 * 0.5 / math.sqrt(50), rel=0.15)


def test_the_worst_decile_by_hand() -> None:
    owner = np.repeat(np.arange(11), 2)
    values = np.zeros(22)
    values[[0, 1, 4]] = 1  # one owner always, one every other time
    assert worst_decile(values, owner) == pytest.approx((1 + 0.5) / 2)
    assert worst_decile(values[:4], owner[:4]) == 1


def test_p_of_an_interval() -> None:
    assert p_against(0.402, 0.304, 0.5, 0.5) == pytest.approx(0.05, abs=1e-3)
    assert p_against(1.0, 1.0, 1.0, 0.1) == 1 / 2000
    assert p_against(0.5, 0.5, 0.5, 0.5) == 1
    assert math.isnan(p_against(1.0, math.nan, math.nan, 0.5))


def test_the_same_people_are_linked_and_permuted_ones_are_not() -> None:
    vectors = rng().normal(size=(PEOPLE, 30))
    near = vectors + 0.1 * rng(1).normal(size=vectors.shape)
    same = linked(vectors, near)
    assert same.hit.mean() == 1 and same.rank.mean() == 1 and same.ranked == PEOPLE
    others = [linked(vectors, near[rng(seed).permutation(PEOPLE)]) for seed in range(60)]
    assert np.mean([one.hit.mean() for one in others]) == pytest.approx(1 / PEOPLE, abs=0.01)
    assert np.mean([one.rank.mean() for one in others]) == pytest.approx((PEOPLE + 1) / 2, rel=0.05)


def test_equal_vectors_share_the_hit() -> None:
    group = np.repeat([0, 1], PEOPLE // 2)
    same = np.eye(2)[group]
    found = linked(same, same)
    assert found.hit == pytest.approx(np.full(PEOPLE, 2 / PEOPLE))
    assert found.rank == pytest.approx(np.full(PEOPLE, (PEOPLE / 2 + 1) / 2))
    flat = linked(np.ones((PEOPLE, 3)), np.ones((PEOPLE, 3)))
    assert flat.hit == pytest.approx(np.full(PEOPLE, 1 / PEOPLE))


def test_a_turned_second_set_is_linked_only_after_the_map_is_learned() -> None:
    vectors = rng().normal(size=(PEOPLE, 6))
    turned = np.linalg.qr(rng(5).normal(size=(9, 9)))[0][:6]
    second = vectors @ turned + 3
    found = linked_aligned(vectors, second, rng=rng())
    assert found.hit.mean() > 0.95 and found.ranked == PEOPLE // 2
    assert linked(vectors, second[:, :6]).hit.mean() < 0.3
    others = [
        linked_aligned(vectors, second[rng(seed).permutation(PEOPLE)], rng=rng(seed))
        for seed in range(4)
    ]
    assert np.mean([one.hit.mean() for one in others]) == pytest.approx(2 / PEOPLE, abs=0.04)
    with pytest.raises(MetricError):
        linked_aligned(vectors[:3], second[:3], rng=rng())


def test_a_linear_group_is_named_and_exchanged_ones_are_not() -> None:
    group = np.arange(PEOPLE) % 3
    vectors = rng().normal(size=(PEOPLE, 200))
    vectors[:, :3] += 12 * np.eye(3)[group]
    assert groups_named(vectors, group, rng=rng()).mean() == 1
    exchanged = [
        groups_named(vectors, rng(seed).permutation(group), rng=rng(seed)).mean()
        for seed in range(6)
    ]
    assert np.mean(exchanged) < largest_share(group) + 0.1
    assert largest_share(group) == 14 / 40
    # Nothing differs: everybody gets the largest group of those who are known.
    assert groups_named(np.ones((PEOPLE, 4)), group, rng=rng()).mean() < 0.5
    for wrong in (group[:3], np.zeros(PEOPLE, dtype=np.int64)):
        with pytest.raises(MetricError):
            groups_named(vectors[: len(wrong)], wrong, rng=rng())


def test_principal_directions_keep_distances() -> None:
    vectors = rng().normal(size=(7, 50))
    found = scaled(vectors)
    assert found.shape[1] <= 6
    ratio = np.linalg.norm(vectors[0] - vectors[1]) / np.linalg.norm(found[0] - found[1])
    again = np.linalg.norm(vectors[2] - vectors[5]) / np.linalg.norm(found[2] - found[5])
    assert ratio == pytest.approx(again)
    assert np.mean(np.sum(found**2, axis=1)) == pytest.approx(1)


def tried(control: str, hit: float, *, seed: int = 0, chance: float = 0.1) -> Tried:
    hits = (np.random.default_rng(seed).random(PEOPLE) < hit).astype(float)
    owner, rank = np.arange(PEOPLE), np.full(PEOPLE, 3.0)
    how = "other-seed", "embedding", "cosine", control
    return Tried(*how, chance, hits, owner, rank, 10)  # type: ignore[arg-type]


@pytest.mark.parametrize("hit", [[2.0], [math.nan], [], [[1.0]]])
def test_successes_that_are_none_are_refused(hit: list[float]) -> None:
    with pytest.raises(MetricError):
        Tried("group", "texts", "x", "none", 0.5, np.array(hit), np.zeros(len(hit), dtype=int))


def whole(rows: list[list[Tried]]) -> RateResult:
    attacks = rated(rows)
    return RateResult(
        experiment="linkage",
        task="synth_tag",
        base="tiny",
        preset="default",
        profile="demo",
        seeds=list(range(len(rows))),
        people=PEOPLE,
        hardware=hardware(),
        commit="none",
        notes=["<nothing> to note"],
        sentences=sentences(attacks),
        attacks=attacks,
    )


def test_a_finished_seed_is_kept_summed_up_and_shown(tmp_path: Path) -> None:
    made: list[int] = []

    def make(seed: int) -> list[Tried]:
        made.append(seed)
        return [tried("none", 0.8, seed=seed), tried("positive", 1.0), tried("negative", 0.1)]

    digest = digest_of("people", 1)
    rows = [kept_seed(tmp_path, seed, digest, lambda s=seed: make(s)) for seed in (0, 1, 1)]  # type: ignore[misc]
    assert made == [0, 1]
    assert rows[1][0].hit.tolist() == rows[2][0].hit.tolist() and rows[2][0].rank is not None
    result = whole(rows[:2])
    row = result.attacks[0]
    assert row.pooled.value == pytest.approx(np.mean([one[0].hit for one in rows[:2]]))
    assert row.pooled.n_owners == PEOPLE and row.rank is not None and row.rank.value == 3
    assert not failed_controls(result)
    assert "found the same person first" in result.sentences[0]
    page = render(result, shown(result))
    assert "&lt;nothing&gt;" in page
    assert "the bar is guessing" in page and "guessing finds 10.0%" in page
    assert strongest(result.attacks)["other-seed", "embedding"].control == "none"
    write_document(result, tmp_path / "linkage.json")
    assert read_rates(tmp_path / "linkage.json").attacks[0].ranked == 10
    with pytest.raises(CheckpointError):
        kept_seed(tmp_path, 0, digest_of("people", 2), list)
    (tmp_path / "seeds" / "0.json").write_text(json.dumps({"digest": digest, "attacks": [1]}))
    with pytest.raises(CheckpointError, match="damaged"):
        kept_seed(tmp_path, 0, digest, list)


def test_controls_that_fail_are_named() -> None:
    result = whole([[tried("none", 0.5), tried("positive", 0.1), tried("negative", 0.9)]])
    said = failed_controls(result)
    assert len(said) == 2 and "did not succeed" in said[0] and "found something" in said[1]


@pytest.mark.parametrize("text", ["", "1,x", "-1", "2,2", "1.5"])
def test_seeds_that_are_none_are_refused(text: str) -> None:
    with pytest.raises(ConfigError):
        numbers(text)


def test_names_are_checked() -> None:
    assert names("a, b,a", ("a", "b"), "--ask") == ("a", "b")
    for wrong in ("c", "", " , "):
        with pytest.raises(ConfigError, match="--ask"):
            names(wrong, ("a", "b"), "--ask")
