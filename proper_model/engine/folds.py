"""Which of a user's own items train and which judge.

Learning rate, epochs and the kind of embedding are chosen by loss on own items that were held back
(docs/method.md 1.5 f). With one fold these are the most recent items: cheap, and a change of taste shows
in the loss. With K folds every item is held back once, which costs K times as much and serves short
histories: five held-back items may miss what an adapter has learned.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from proper_model.engine.trials import TrialResult
from proper_model.kernels.packing import Encoded


@dataclass(frozen=True)
class Fold:
    """One cut of a user's items; `held_back` may be empty, then nothing is chosen."""

    train: tuple[Encoded, ...]
    held_back: tuple[Encoded, ...]


@dataclass(frozen=True)
class Samples:
    """One user's tokenized items in time order, and how they are cut. No fold: nothing trains."""

    items: tuple[Encoded, ...]
    folds: tuple[Fold, ...]
    seed: int

    @property
    def judged(self) -> tuple[Encoded, ...]:
        """What fixed candidates are compared on: held-back items, or all of a short history."""
        held_back = tuple(item for fold in self.folds for item in fold.held_back)
        return held_back or self.items


def split_items(
    items: Sequence[Encoded], *, fraction: float, folds: int, minimum: int, seed: int
) -> Samples:
    """Hold back the most recent `fraction`, or with `folds` > 1 every item once.

    A user with fewer than `minimum` items gets no fold.
    """
    whole = tuple(items)
    if len(whole) < minimum:
        return Samples(whole, (), seed)
    if folds == 1:
        count = min(len(whole) - 1, max(1, round(fraction * len(whole))))
        return Samples(whole, (Fold(whole[:-count], whole[-count:]),), seed)
    parts = min(folds, len(whole))
    cuts = tuple(
        Fold(
            tuple(item for i, item in enumerate(whole) if i % parts != k),
            tuple(item for i, item in enumerate(whole) if i % parts == k),
        )
        for k in range(parts)
    )
    return Samples(whole, cuts, seed)


def combine(results: Sequence[tuple[TrialResult, int]]) -> TrialResult:
    """One result of a user's folds: the mean loss curve over held-back items, its best epoch.

    Args:
        results: each fold's result with its number of held-back items.

    A fold that stopped early counts with its last loss from there on. One failed fold fails the
    user: a rate that diverges on some of the items is no rate to train all of them with.
    """
    curves = [(result.losses, count) for result, count in results if result.losses]
    failed = any(result.failed for result, _ in results)
    if not curves:
        return TrialResult(failed=failed)
    longest = max(len(curve) for curve, _ in curves)
    items = sum(count for _, count in curves)
    mean = [
        sum(curve[min(epoch, len(curve) - 1)] * count for curve, count in curves) / items
        for epoch in range(longest)
    ]
    best = min(range(longest), key=lambda epoch: (math.isnan(mean[epoch]), mean[epoch]))
    return TrialResult(mean, best, failed)


def kept_epochs(result: TrialResult) -> int:
    """Epochs of training that survive: none where a fold or the refit diverged."""
    return 0 if result.failed else result.best_epoch
