"""Membership scores of one record from its tokens' log-probabilities; larger = likelier a member.

All take `[T]` arrays over the record's predicted tokens, in nats.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from proper_model.errors import MetricError

Floats = NDArray[np.float64]


def loss_score(log_p: Floats) -> float:
    """Minus the mean loss: mean_t log p(x_t | x_<t)."""
    if log_p.ndim != 1 or not len(log_p):
        raise MetricError(f"log-probabilities have shape {log_p.shape}, expected [T] with T > 0")
    return float(np.mean(log_p))


def calibrated_score(log_p: Floats, base_log_p: Floats) -> float:
    """`loss_score` minus that of the public base on the same tokens."""
    if log_p.shape != base_log_p.shape:
        raise MetricError(f"target and base have shapes {log_p.shape} and {base_log_p.shape}")
    return loss_score(log_p) - loss_score(base_log_p)


def min_k_plus_plus(log_p: Floats, mean: Floats, deviation: Floats, *, share: float = 0.2) -> float:
    """Mean of the lowest `share` of (log p(x_t) - mean_t) / deviation_t (Zhang et al. 2024).

    mean_t and deviation_t are those of log p(v | x_<t) over the vocabulary, v drawn from the model:
    mean_t = sum_v p(v) log p(v), deviation_t^2 = sum_v p(v) log^2 p(v) - mean_t^2. At least one
    token is taken. Raises MetricError if shapes differ, `share` is outside (0, 1] or a deviation is
    not positive (a uniform or certain distribution says nothing of a token: leave it out).
    """
    if not log_p.shape == mean.shape == deviation.shape or not 0 < share <= 1:
        raise MetricError("Min-K%++ needs three equal shapes [T] and a share in (0, 1]")
    if not (deviation > 0).all():
        raise MetricError("Min-K%++ needs positive deviations", hint="leave such tokens out")
    z = np.sort((log_p - mean) / deviation)
    return loss_score(z[: max(1, math.floor(share * len(z)))])
