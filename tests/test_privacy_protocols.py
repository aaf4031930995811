"""Attacks that could fool themselves: embeddings of people whom experts know, and members by similarity."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from proper_model.settings import load_profile
from simulations.privacy.membership.embedding_attacks import (
    ATTACKS,
    Published,
    compared,
    density,
    nearest,
    publish,
    singles,
    tracing,
)
from simulations.privacy.membership.published_protocol import (
    at_random,
    most_similar,
    protocol_score,
)
from simulations.privacy.membership.shadows import paired_halves
from simulations.privacy.membership.targets import TokenView
from simulations.privacy.statistics.measures import Scored, auc

PEOPLE = 100  # half of them are enough for two prototypes
MEMBER = np.arange(PEOPLE) % 2 == 0
SETTINGS = load_profile("demo")


def auc_of(score: np.ndarray[Any, Any], member: np.ndarray[Any, Any] = MEMBER) -> float:
    return auc(Scored(score, member, np.arange(len(score))))


def test_scores_of_embeddings_by_hand() -> None:
    own = np.array([[0.0, 0.0], [3.0, 4.0], [6.0, 8.0]])
    published = Published(np.array([[0.0, 0.0], [6.0, 8.0]]), np.array([1.0, 3.0]))
    assert nearest(own, published).tolist() == [0.0, -5.0, 0.0]
    # The mean of the points is (4.5, 6); of the others (4.5, 6), (3, 4) and (1.5, 2).
    assert tracing(own, published).tolist() == pytest.approx([0.0, 0.0, 4.5 * 3 + 6 * 4])
    one = density(own, published)
    assert one[2] - one[0] == pytest.approx(np.log(3), abs=1e-3) and one[1] < one[0]


def test_members_that_lie_farther_out_are_not_taken_for_a_leak_of_the_distribution() -> None:
    """Experts know members, whose embeddings are larger for that; what is published is of others."""
    rng = np.random.default_rng(0)
    found: list[list[float]] = []
    for seed in range(8):
        own = rng.normal(size=(PEOPLE, 6)) * np.where(MEMBER, 2.0, 1.0)[:, None]
        halves = np.array(paired_halves(PEOPLE, 18, seed))
        fits = [Published(rng.normal(size=(2, 6)) / 4, np.ones(2)) for _ in halves]
        assert auc_of(nearest(own, fits[0])) < 0.25
        found += [
            [auc_of(score) for score in compared(own, published, fits, halves, ATTACKS).values()]
            for published in (None, fits[0])
        ]
    assert np.abs(np.mean(found, axis=0) - 0.5).max() < 0.08


def test_a_prototype_of_one_person_is_recognised_and_one_of_twenty_hides_them() -> None:
    rng = np.random.default_rng(1)
    people = rng.normal(size=(PEOPLE, 6))
    own, trained = (people + rng.normal(scale=0.1, size=people.shape) for _ in range(2))
    halves = np.array(paired_halves(PEOPLE, 34, 0))
    rows = [singles(trained[half]) for half in halves]
    alone = compared(own, singles(trained[MEMBER]), rows, halves, ATTACKS)
    assert auc_of(alone["distance"]) > 0.9 and auc_of(alone["density"]) > 0.9
    fits = [publish(own[half], SETTINGS) for half in halves]
    published = publish(trained[MEMBER], SETTINGS)
    assert len(published.counts) == 2 and published.counts.min() >= 20
    assert auc_of(compared(own, published, fits, halves, ATTACKS)["distance"]) < 0.8


def test_of_few_people_nothing_is_published() -> None:
    published = publish(np.arange(8.0).reshape(4, 2), SETTINGS)
    assert published.points.tolist() == [[0.0, 0.0]]


def test_members_by_similarity_are_told_from_others_by_a_model_that_saw_none_of_them() -> None:
    """Six people of two tastes; the model knows the taste of the first alone."""
    texts = ["cats purr", "cats nap", "cats purr nap", "boats sail", "boats drift", "boats sail on"]
    similar = most_similar(texts, 1)[0]
    assert similar.tolist() == [False, False, True, False, False, False]
    likes = np.array([-1.0] * 3 + [-2.0] * 3)
    views = [TokenView(np.array([p, p]), np.zeros(2), np.ones(2)) for p in likes]
    public = [TokenView(np.array([-1.5, -1.5]), np.zeros(2), np.ones(2))] * 6
    published = protocol_score("published", views, public)
    assert published.tolist() == (2 * likes).tolist()  # summed, so length counts
    assert auc_of(published[1:], similar[1:]) > 0.85
    assert protocol_score("randomised", views, public).tolist() == (likes + 1.5).tolist()
    drawn = np.array([at_random(6, 1, seed)[0] for seed in range(300)])
    assert not drawn[:, 0].any() and (drawn.sum(1) == 1).all()
    assert np.abs(drawn[:, 1:].mean(0) - 0.2).max() < 0.08
