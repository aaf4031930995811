"""Exposure by hand, at chance, and extrapolated from a known distribution."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.stats import skewnorm

from proper_model.errors import MetricError
from simulations.privacy.statistics.exposure import CHANCE_BITS, exposure, extrapolated_exposure


def test_hand_computed_exposure() -> None:
    others = np.array([7.0, 1, 2, 3, 4, 5, 6])  # eight candidates with the canary: three bits
    canaries = np.array([0.5, 1.5, 4.5, 9.0, 3.0])
    ranks = [1, 2, 5, 8, 3.5]  # two below 3 and one like it
    assert exposure(canaries, others) == pytest.approx([3 - math.log2(r) for r in ranks])


def test_a_model_that_tells_nothing_apart_has_nearly_one_bit() -> None:
    assert exposure(np.zeros(1), np.zeros(1023)) == pytest.approx([1.0], abs=0.002)


def test_canaries_that_were_never_planted_are_at_chance() -> None:
    rng = np.random.default_rng(0)
    bits = exposure(rng.normal(size=4000), rng.normal(size=4095))
    assert bits.mean() == pytest.approx(CHANCE_BITS, abs=0.08)  # deviation 1.44 / sqrt(4000) = .023
    assert np.mean(bits >= 1) == pytest.approx(0.5, abs=0.03)
    assert bits.max() <= 12


LAW = skewnorm(-3, 50, 5)


def test_extrapolation_finds_the_tail_of_a_known_distribution() -> None:
    sample = LAW.rvs(size=2000, random_state=np.random.default_rng(0))
    canaries = np.array([49.0, 40.0, 30.0, 20.0, -500.0])
    found = extrapolated_exposure(canaries, sample, space=2**64)
    # The true tail by integrating the density, not by the library's distribution function.
    truth = [-math.log2(quad(LAW.pdf, x - 60, x, epsabs=0)[0]) for x in canaries[:4]]
    assert truth[3] > 25  # far beyond the 11 bits of the sample
    assert found.bits[:4] == pytest.approx(truth, rel=0.1, abs=0.1)
    assert found.bits[4] == 64.0
    assert found.measured_bits == pytest.approx(exposure(canaries, sample))
    assert found.measured_bits.max() == pytest.approx(math.log2(2001))
    assert found.fit_p > 0.05


def test_a_sample_that_is_not_skew_normal_is_told() -> None:
    rng = np.random.default_rng(0)
    two_hills = np.r_[rng.normal(40, 1, 300), rng.normal(60, 1, 300)]
    assert extrapolated_exposure(np.array([35.0]), two_hills, space=2**40).fit_p < 1e-6


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: exposure(np.array([math.nan]), np.ones(3)), "1 of 1 losses of canaries are not"),
        (lambda: exposure(np.ones(1), np.array([1, math.inf])), "1 of 2 losses of candidates"),
        (lambda: exposure(np.ones(1), np.ones(0)), r"losses of candidates are \(0,\)"),
        (lambda: exposure(np.ones((1, 2)), np.ones(3)), r"losses of canaries are \(1, 2\)"),
        (lambda: extrapolated_exposure(np.ones(1), np.arange(199.0), space=999), "199 candidates"),
        (lambda: extrapolated_exposure(np.ones(1), np.ones(300), space=999), "with 1 different"),
        (lambda: extrapolated_exposure(np.ones(1), np.arange(300.0), space=300), "a space of 300"),
    ],
)
def test_what_has_no_exposure_is_refused(call, message: str) -> None:
    with pytest.raises(MetricError, match=message):
        call()
