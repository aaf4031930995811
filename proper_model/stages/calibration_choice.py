"""Choosing how much a history of n items may change, from losses of people treated as newcomers.

Everything is chosen by mean loss *per person*, and differences are paired by person. Noise of few
people is met three times: ways of training are compared on losses averaged over neighbouring lengths;
scale and weight may only grow with the length; and among what cannot be told from the best by one
standard error, the least adaptation is taken (Breiman et al., 1984, 3.4.3).

Letters: P people with a history of some length, E epochs, C candidates.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

# Of a length and of the ones before and after it, in the average that ways are compared on.
OWN_SHARE, NEXT_SHARE = 0.5, 0.25


@dataclass(frozen=True)
class Way:
    """One way of training a private LoRA; `common`: from the start that all have in common."""

    common: bool
    learning_rate: float
    shrinkage: float


# By way and length of history: losses before training and after every epoch, [P, 1 + E].
Curves = Mapping[Way, Mapping[int, Tensor]]


@dataclass(frozen=True)
class Training:
    way: Way
    epochs: int


@dataclass(frozen=True)
class Amount:
    """How much of an adapter is used: B times `scale`, mixed with weight `weight`."""

    scale: float
    weight: float

    @property
    def is_none(self) -> bool:
        return self.scale * self.weight == 0

    def at_least(self, other: Amount) -> bool:
        return self.scale >= other.scale and self.weight >= other.weight


NOTHING = Amount(0.0, 0.0)


def amounts(scales: Sequence[float], weights: Sequence[float]) -> list[Amount]:
    """All that may be chosen, the least adaptation first; `NOTHING` stands for every zero.

    Of two that are as much the larger weight comes first: at a weight of one an answer takes one pass.
    """
    some = [Amount(s, w) for s in scales for w in weights if s > 0 and w > 0]
    return [NOTHING, *sorted(some, key=lambda one: (one.scale * one.weight, -one.weight))]


def excess(losses: Tensor, best: Tensor) -> tuple[float, float]:
    """Mean of the paired differences of losses [P], and its standard error; infinite for one person."""
    apart = losses.double() - best.double()
    count = len(apart)
    error = float(apart.std()) / math.sqrt(count) if count > 1 else math.inf
    return float(apart.mean()), error


def within_one_error(losses: Tensor, best: Tensor) -> bool:
    """Whether these losses [P] are not worse than the best ones beyond one standard error."""
    mean, error = excess(losses, best)
    return mean <= error  # false where a loss is no number


def choose_start(curves: Curves) -> bool:
    """Whether a common start helps: its best way beats the best other by more than one error.

    Compared on every person's mean over lengths, so that nobody with a long history counts more.
    """
    ways = {common: [way for way in curves if way.common == common] for common in (False, True)}
    if not ways[True]:
        return False
    found = {common: _best_losses(curves, own) for common, own in ways.items()}
    gains = [
        float((found[True][length] - found[False][length]).double().mean())
        for length in found[True]
    ]
    errors = [excess(found[True][length], found[False][length])[1] for length in found[True]]
    # Lengths share people, so their errors do not average out: the mean error is the careful one.
    return sum(gains) / len(gains) < -sum(errors) / len(errors)


def choose_training(curves: Curves) -> dict[int, Training]:
    """By length, the best way and the fewest epochs (at least one) that serve as well."""
    chosen: dict[int, Training] = {}
    smooth = {way: _smoothed(own) for way, own in curves.items()}
    lengths = sorted(next(iter(curves.values())))
    for length in lengths:
        way, best = min(
            ((way, epoch) for way in curves for epoch in range(1, len(smooth[way][length]))),
            key=lambda pair: _bad(smooth[pair[0]][length][pair[1]]),
        )
        losses = curves[way][length]
        fewest = next(
            epoch
            for epoch in range(1, best + 1)
            if epoch == best or within_one_error(losses[:, epoch], losses[:, best])
        )
        chosen[length] = Training(way, fewest)
    return chosen


def choose_amounts(losses: Mapping[int, Tensor], candidates: Sequence[Amount]) -> dict[int, Amount]:
    """By length, from losses [P, C] of `candidates` in the order of `amounts`.

    First the best path of amounts that never shrink as histories grow, by dynamic programming; then,
    from the shortest history on, the least that is within one standard error of the path's.
    """
    path = _best_path(losses, candidates)
    chosen: dict[int, Amount] = {}
    before = NOTHING
    for length in sorted(losses):
        table, best = losses[length], losses[length][:, path[length]]
        # Nothing beyond the path in either number: the path would then shrink at the next length.
        before = next(
            candidate
            for c, candidate in enumerate(candidates)
            if candidate.at_least(before)
            and candidates[path[length]].at_least(candidate)
            and (c == path[length] or within_one_error(table[:, c], best))
        )
        chosen[length] = before
    return chosen


def choose_temperature(losses: Tensor, temperatures: Sequence[float]) -> float:
    """From losses [P, T]: the one nearest to 1 that is within one standard error of the best."""
    means = [_bad(float(losses[:, t].mean())) for t in range(len(temperatures))]
    best = losses[:, means.index(min(means))]
    near = sorted(range(len(temperatures)), key=lambda t: abs(math.log(temperatures[t])))
    return next(
        (temperatures[t] for t in near if within_one_error(losses[:, t], best)),
        1.0,  # losses that are no numbers choose nothing
    )


def _best_losses(curves: Curves, ways: Sequence[Way]) -> dict[int, Tensor]:
    """By length, every person's losses [P] under the best of these ways, trained at all."""
    chosen = choose_training({way: curves[way] for way in ways})
    return {n: curves[one.way][n][:, one.epochs] for n, one in chosen.items()}


def _smoothed(own: Mapping[int, Tensor]) -> dict[int, list[float]]:
    """Mean losses after every epoch, each averaged with those of the neighbouring lengths."""
    lengths = sorted(own)
    means = [own[length].double().mean(0) for length in lengths]
    smooth = {}
    for place, length in enumerate(lengths):
        near = {place: OWN_SHARE} | {
            other: NEXT_SHARE for other in (place - 1, place + 1) if 0 <= other < len(lengths)
        }
        total = sum(near.values())
        mean = sum((share * means[k] for k, share in near.items()), start=0 * means[place]) / total
        smooth[length] = [float(value) for value in mean]
    return smooth


def _best_path(losses: Mapping[int, Tensor], candidates: Sequence[Amount]) -> dict[int, int]:
    """By length, the candidate on the path of least summed mean loss; none may follow a larger one."""
    lengths = sorted(losses)
    cost = [0.0] * len(candidates)
    came: list[list[int]] = []
    for length in lengths:
        means = [_bad(float(value)) for value in losses[length].double().mean(0)]
        fore = [
            min(
                (i for i, before in enumerate(candidates) if candidate.at_least(before)),
                key=lambda i: cost[i],
            )
            for candidate in candidates
        ]
        cost = [cost[i] + mean for i, mean in zip(fore, means, strict=True)]
        came.append(fore)
    at = min(range(len(candidates)), key=lambda c: cost[c])
    path = {}
    for length, fore in zip(reversed(lengths), reversed(came), strict=True):
        path[length] = at
        at = fore[at]
    return path


def _bad(loss: float) -> float:
    """A loss that is no number is worse than every one that is."""
    return math.inf if math.isnan(loss) else loss
