"""Membership scores against a plain loop over tokens."""

from __future__ import annotations

import math

import numpy as np
import pytest

from proper_model.errors import MetricError
from simulations.privacy.statistics.scores import calibrated_score, loss_score, min_k_plus_plus


@pytest.mark.parametrize(("tokens", "share"), [(3, 0.2), (11, 0.2), (11, 1.0)])
def test_scores_are_those_of_a_loop(tokens: int, share: float) -> None:
    rng = np.random.default_rng(tokens)
    p = rng.dirichlet(np.ones(7), size=tokens)
    log_p, base = np.log(p[:, 2]), np.log(p[:, 3])
    z, means, deviations = [], [], []
    for row in p:
        mean = sum(q * math.log(q) for q in row)
        deviation = math.sqrt(sum(q * (math.log(q) - mean) ** 2 for q in row))
        z.append((math.log(row[2]) - mean) / deviation)
        means.append(mean)
        deviations.append(deviation)
    lowest = sorted(z)[: max(1, int(share * tokens))]
    found = min_k_plus_plus(log_p, np.array(means), np.array(deviations), share=share)
    assert found == pytest.approx(sum(lowest) / len(lowest), abs=1e-12)
    assert loss_score(log_p) == pytest.approx(sum(log_p) / tokens, abs=1e-12)
    assert calibrated_score(log_p, base) == pytest.approx(sum(log_p - base) / tokens, abs=1e-12)


def test_empty_or_unequal_tokens_are_refused() -> None:
    one, two = np.zeros(1), np.zeros(2)
    for call in (
        lambda: loss_score(np.zeros(0)),
        lambda: calibrated_score(one, two),
        lambda: min_k_plus_plus(one, one, one),
        lambda: min_k_plus_plus(one, one, one + 1, share=0.0),
    ):
        with pytest.raises(MetricError):
            call()
