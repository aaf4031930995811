"""The measure of grouping that the planted-truth assertions stand on."""

from __future__ import annotations

import numpy as np
from planted import routing_ari

TRUTH = {"groups": {f"u{i}": i % 3 for i in range(30)}}


def routing(strength, rng):
    """Weights `[routers=4, experts=5]`: every router numbers its experts in its own order."""
    orders = [rng.permutation(5) for _ in range(4)]
    weights = {}
    for user, group in TRUTH["groups"].items():
        logits = rng.standard_normal((4, 5))
        for row, order in zip(logits, orders, strict=True):
            row[order[group]] += strength
        weights[user] = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    return weights


def test_routing_by_group_is_found():
    index, p = routing_ari(routing(6, np.random.default_rng(0)), TRUTH)
    assert index == 1
    # No relabeling but the true one: the smallest p that 999 permutations can give.
    assert p == 1 / 1000


def test_routing_by_chance_is_not():
    results = [routing_ari(routing(0, np.random.default_rng(seed)), TRUTH) for seed in range(5)]
    assert abs(np.mean([index for index, _ in results])) < 0.1
    assert min(p for _, p in results) > 0.01


def test_averaging_routers_would_hide_the_groups():
    weights = routing(6, np.random.default_rng(2))
    mixed = {
        user: w[:, np.random.default_rng(int(user[1:])).permutation(5)]
        for user, w in weights.items()
    }
    assert routing_ari(mixed, TRUTH)[0] < 0.3
