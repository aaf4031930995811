"""Membership attacks that compare a target with reference models of known training sets.

LiRA (Carlini et al. 2022, arXiv 2112.03570): under models that
trained on a record and under models that did not, phi = log(p / (1 - p)) of the record is taken as
normal, N(mu_in, s_in^2) and N(mu_out, s_out^2).

    online    log N(phi; mu_in, s_in) - log N(phi; mu_out, s_out)
    offline   (phi - mu_out) / s_out; the paper's Phi of it orders records the same, but rounds to 1

RMIA (Zarifzadeh, Liu, Shokri 2024, arXiv 2312.03262): the share of population records z, none of which
trained the target, that record x dominates,

    share_z [ (p(x | target) / p(x)) / (p(z | target) / p(z)) >= gamma ]
    online    p(x) = (mean p_in + mean p_out) / 2
    offline   p(x) = ((1 + a) mean p_out + (1 - a)) / 2, which takes p_in for a p_out + 1 - a

For one target and one gamma, RMIA orders records as p(x | target) / p(x) does; z puts the scores of
several targets on one scale. p is a record's probability: of several tokens, the geometric mean of
theirs, since the product over a text is so small that 1 - a alone would remain.

Letters: M reference models, n records, Z population records.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp

from proper_model.errors import MetricError
from simulations.privacy.statistics.measures import Scored, auc

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]
Integers = NDArray[np.int64]
Entry = TypeVar("Entry", bound=np.generic)

OWN_VARIANCE_FROM = (
    64  # models a side; below, one variance for all records does better (LiRA's ablation)
)
LEAST_LOSS = 1e-12  # nats; the loss of a certain answer is rounding, and phi of it must be finite
OFFLINE_A = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
_ROUNDING = 1e-6


@dataclass(frozen=True)
class Observed:
    """What a target and its reference models say of records.

    Two columns need not be of the same models: `others` leaves each record's own target out.

    Attributes:
        target: `[n]` log p of each record under the target, in nats, the mean over its tokens; minus
            the loss.
        references: `[M, n]` the same under every reference model.
        trained: `[M, n]` whether the reference model was trained on the record.
    """

    target: Floats
    references: Floats
    trained: Flags

    def __post_init__(self) -> None:
        target = np.asarray(self.target, dtype=np.float64)
        references = np.asarray(self.references, dtype=np.float64)
        trained = np.asarray(self.trained)
        if references.ndim != 2 or references.shape[1:] != target.shape or not len(target):
            raise MetricError(
                f"target is {target.shape} and references are {references.shape}",
                hint="give [n] and [models, n], of the same records",
            )
        if trained.shape != references.shape or trained.dtype != np.bool_:
            raise MetricError(
                f"the mask of who was trained on what is {trained.dtype} {trained.shape}, "
                f"expected bool {references.shape}"
            )
        for name, values in (("target", target), ("references", references)):
            _check_log_p(name, values)
        object.__setattr__(self, "target", np.minimum(target, 0.0))
        object.__setattr__(self, "references", np.minimum(references, 0.0))


def _check_log_p(name: str, values: Floats) -> None:
    broken = int(np.count_nonzero(~np.isfinite(values)))
    if broken:
        raise MetricError(
            f"{broken} of {values.size} log-probabilities of the {name} are not finite",
            hint="a record without tokens, or a loss that overflowed: leave it out of all arrays",
        )
    above = int(np.count_nonzero(values > _ROUNDING))
    if above:
        raise MetricError(
            f"{above} of {values.size} log-probabilities of the {name} are above 0",
            hint="give log p, which is minus the loss",
        )


def others(values: NDArray[Entry], own: Integers) -> NDArray[Entry]:
    """`[M - 1, n]`: of every column of `[M, n]` all rows but `own` `[n]`, in their order.

    Where every model is the target of its own records and a reference for all others. Raises
    MetricError if `own` does not name one model of `values` for every record.
    """
    if (
        values.ndim != 2
        or own.shape != values.shape[1:]
        or not np.isin(own, range(len(values))).all()
    ):
        raise MetricError(
            f"own models {own.shape} do not name one of {len(values)} models for every record of "
            f"{values.shape}",
            hint="give places 0 to models - 1, one a record",
        )
    keep = np.arange(len(values))[:, None] != own
    return np.asarray(values.T[keep.T].reshape(values.shape[1], len(values) - 1).T)


def scaled_logit(log_p: Floats) -> Floats:
    """phi = log(p / (1 - p)) from log p <= 0, without a difference of near numbers; finite."""
    certain = np.minimum(log_p, -LEAST_LOSS)
    return np.asarray(certain - np.log(-np.expm1(certain)))


def lira_offline(observed: Observed, *, own_variance_from: int = OWN_VARIANCE_FROM) -> Floats:
    """`[n]` deviations of phi above models that did not train on the record; larger = member.

    A record's own variance is used where every record has `own_variance_from` such models or more,
    else one for all: the mean within records. Raises MetricError if a record has fewer than two of
    them, or if they do not vary.
    """
    outside = ~observed.trained
    _need(outside, 2, "never saw them")
    mean, deviation = _moments(scaled_logit(observed.references), outside, own_variance_from)
    return np.asarray((scaled_logit(observed.target) - mean) / deviation)


def lira_online(observed: Observed, *, own_variance_from: int = OWN_VARIANCE_FROM) -> Floats:
    """`[n]` log-likelihood ratios of in against out; larger = member. Variances as offline, a side.

    Raises MetricError if a record has fewer than two models on a side, or if a side does not vary.
    """
    phi, target = scaled_logit(observed.references), scaled_logit(observed.target)
    _need(observed.trained, 2, "trained on them")
    _need(~observed.trained, 2, "never saw them")
    logs = []
    for side in (observed.trained, ~observed.trained):
        mean, deviation = _moments(phi, side, own_variance_from)
        logs.append(-0.5 * ((target - mean) / deviation) ** 2 - np.log(deviation))
    return np.asarray(logs[0] - logs[1])


def rmia_offline(
    observed: Observed, population: Observed, *, a: float, gamma: float = 1.0
) -> Floats:
    """`[n]` shares of the population that a record dominates; larger = member.

    `a` in [0, 1] says how much training raises p: 1 not at all, 0 to certainty; `choose_offline_a`
    finds it on the references. Raises MetricError if a record has no reference that was not trained
    on it, or `a` or `gamma` is out of range.
    """
    ratio = observed.target - _offline_log_p(observed, a)
    return _dominated(ratio, population.target - _offline_log_p(population, a), gamma)


def rmia_online(
    observed: Observed, population: Observed, *, a: float, gamma: float = 1.0
) -> Floats:
    """`[n]` shares of the population that a record dominates; larger = member.

    p(z) has the offline form, with `a`: population records need not have trained any reference.
    Raises MetricError if a record has no reference on one of the sides, or `a` or `gamma` is out of
    range.
    """
    _need(observed.trained, 1, "trained on them")
    _need(~observed.trained, 1, "never saw them")
    inside = _log_mean(observed.references, observed.trained)
    outside = _log_mean(observed.references, ~observed.trained)
    ratio = observed.target - (np.logaddexp(inside, outside) - math.log(2))
    return _dominated(ratio, population.target - _offline_log_p(population, a), gamma)


def choose_offline_a(
    observed: Observed, population: Observed, *, values: Sequence[float] = OFFLINE_A
) -> float:
    """The `a` of `values` with the largest mean AUC when each reference is attacked with the others.

    The target is not looked at, so nothing of it is fitted. Ties: the largest `a`. Raises MetricError
    if no reference has members and non-members, or too few others remain.
    """
    attacked = [
        place for place, member in enumerate(observed.trained) if member.any() != member.all()
    ]
    if not attacked:
        raise MetricError(
            f"none of {len(observed.trained)} references has members and non-members among the records",
            hint="choosing a needs references of which some records are members; or name an a",
        )
    sums = dict.fromkeys(sorted(values, reverse=True), 0.0)
    for place in attacked:
        rest, rest_population = _without(observed, place), _without(population, place)
        for a in sums:
            score = rmia_offline(rest, rest_population, a=a)
            sums[a] += auc(Scored(score, observed.trained[place], np.arange(len(score))))
    return max(sums, key=lambda a: sums[a])


def _without(observed: Observed, place: int) -> Observed:
    """One reference as the target, the others as its references."""
    rest = np.arange(len(observed.references)) != place
    return Observed(observed.references[place], observed.references[rest], observed.trained[rest])


def _need(chosen: Flags, least: int, what: str) -> None:
    few = int(np.count_nonzero(chosen.sum(0) < least))
    if few:
        raise MetricError(
            f"{few} of {chosen.shape[1]} records have fewer than {least} references that {what}, of "
            f"{len(chosen)} in all",
            hint="train more references, or draw their training sets so that every record is in some "
            "and out of some; offline, references that never saw the records suffice",
        )


def _moments(phi: Floats, chosen: Flags, own_variance_from: int) -> tuple[Floats, Floats]:
    """`[n]` mean and standard deviation of every record over its chosen models."""
    count = chosen.sum(0)
    mean = (phi * chosen).sum(0) / count
    squares = (np.where(chosen, phi - mean, 0.0) ** 2).sum(0)
    if count.min() >= own_variance_from:
        variance = squares / (count - 1)
    else:
        # Within records: the deviation over all of them would count how hard each one is.
        variance = np.full(len(count), squares.sum() / (count - 1).sum())
    still = int(np.count_nonzero(variance <= 0))
    if still:
        raise MetricError(
            f"of {still} of {len(count)} records all reference models say exactly the same",
            hint="references must differ in data or seed; or raise own_variance_from",
        )
    return mean, np.sqrt(variance)


def _log_mean(log_p: Floats, chosen: Flags) -> Floats:
    """`[n]` log of the mean probability over the chosen models."""
    return np.asarray(logsumexp(log_p, axis=0, b=chosen) - np.log(chosen.sum(0)))


def _offline_log_p(observed: Observed, a: float) -> Floats:
    """`[n]` log p(x) from models that did not train on the record."""
    if not 0 <= a <= 1:
        raise MetricError(f"RMIA's a is {a}, expected 0 to 1")
    _need(~observed.trained, 1, "never saw them")
    scaled = _log_mean(observed.references, ~observed.trained) + math.log((1 + a) / 2)
    return scaled if a == 1 else np.asarray(np.logaddexp(scaled, math.log((1 - a) / 2)))


def _dominated(ratio: Floats, population: Floats, gamma: float) -> Floats:
    """`[n]` share of `population` `[Z]` whose log ratio lies log gamma or more below `ratio`."""
    if not (math.isfinite(gamma) and gamma > 0):
        raise MetricError(f"RMIA's gamma is {gamma}, expected a positive number")
    below = np.searchsorted(np.sort(population), ratio - math.log(gamma), side="right")
    return np.asarray(below / len(population))
