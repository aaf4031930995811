"""Exposure of canaries (Carlini et al. 2019, "The Secret Sharer", arXiv 1802.08232), in bits.

A canary is drawn at random from a space R of candidates and planted. Its rank is its place among all
of R by the model's loss, lowest first, and

    exposure = log2 |R| - log2 rank

so a canary that the model knows better than all others has log2 |R| bits, and one that was never
planted has 1 bit or more with probability one half, `CHANCE_BITS` in the mean: that is what an
untrained model must show. Loss is minus the log-probability of the canary, summed over its tokens.

Letters: c canaries, n other candidates.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import kstest, skewnorm

from proper_model.errors import MetricError

Floats = NDArray[np.float64]

CHANCE_BITS = 1 / math.log(2)  # mean of -log2 of a uniform rank
LEAST_SAMPLE = 200  # fewer say too little of the skew, and the tail is that of the skew


@dataclass(frozen=True)
class Extrapolated:
    """Exposures beyond what a sample of candidates can show.

    Attributes:
        bits: `[c]`, at most log2 |R|.
        fit_p: Kolmogorov and Smirnov's p of the sample against the fitted distribution. A small one
            says that `bits` mean nothing; a large one is weak support: the distribution was fitted
            to the same sample, and the test sees its middle, while `bits` are about its tail.
        measured_bits: `[c]` without extrapolation, at most log2 (n + 1): report both.
    """

    bits: Floats
    fit_p: float
    measured_bits: Floats


def exposure(loss: Floats, candidates: Floats) -> Floats:
    """`[c]` bits of every canary by its exact rank among itself and `candidates` `[n]`: |R| = n + 1.

    Candidates of equal loss count half, so that a model that tells nothing apart gives nearly 1 bit.
    If the candidates are a random sample of a larger space, this is at most log2 (n + 1). Raises
    MetricError on losses that are not finite, or without candidates.
    """
    loss, candidates = _checked("canaries", loss), _checked("candidates", candidates)
    ordered = np.sort(candidates)
    below = np.searchsorted(ordered, loss, side="left")
    tied = np.searchsorted(ordered, loss, side="right") - below
    return np.asarray(math.log2(len(ordered) + 1) - np.log2(1 + below + tied / 2))


def chance_bits(candidates: int) -> float:
    """Mean exposure of a uniform rank among a canary and so many candidates; `CHANCE_BITS` of endlessly many."""
    ranks = np.arange(1, candidates + 2)
    return float(math.log2(candidates + 1) - np.log2(ranks).mean())


def extrapolated_exposure(loss: Floats, sample: Floats, *, space: int) -> Extrapolated:
    """Exposures in a space of `space` candidates, from losses of a random sample `[n]` of it.

    -log2 F(loss), F the skew-normal distribution with the likeliest parameters for the sample. What
    it says beyond log2 (n + 1) bits is the form of F, not anything seen: canaries found there are
    above all of the sample, and by how much depends on losses being sums over tokens that are drawn
    alike. Raises MetricError on losses that are not finite, fewer than 200 candidates or equal ones,
    or a space that the sample covers.
    """
    measured = exposure(loss, sample)
    sample = _checked("candidates", sample)
    if len(sample) < LEAST_SAMPLE or sample.std() <= 0:
        raise MetricError(
            f"{len(sample)} candidates with {len(np.unique(sample))} different losses, expected at "
            f"least {LEAST_SAMPLE} that differ",
            hint="draw more candidates, or give the exposure by rank",
        )
    if space <= len(sample):
        raise MetricError(
            f"a space of {space} candidates with {len(sample)} of them given",
            hint="all of the space is there: give the exposure by rank",
        )
    middle, width = float(sample.mean()), float(sample.std())
    scaled = (sample - middle) / width  # the fit starts from these scales
    fitted = skewnorm(*skewnorm.fit(scaled))
    with np.errstate(divide="ignore"):  # F that rounds to 0 is infinitely many bits, then |R|'s
        bits = -np.log2(fitted.cdf((_checked("canaries", loss) - middle) / width))
    return Extrapolated(
        np.clip(bits, 0.0, math.log2(space)), float(kstest(scaled, fitted.cdf).pvalue), measured
    )


def _checked(what: str, loss: Floats) -> Floats:
    loss = np.asarray(loss, dtype=np.float64)
    if loss.ndim != 1 or not len(loss):
        raise MetricError(f"losses of {what} are {loss.shape}, expected [number] with one or more")
    broken = int(np.count_nonzero(~np.isfinite(loss)))
    if broken:
        raise MetricError(f"{broken} of {len(loss)} losses of {what} are not finite")
    return loss
