"""Which of a user's own items train, which judge, and what is chosen by them.

Learning rate, epochs and the kind of embedding are chosen by loss on own items that were held back
(docs/method.md 1.5 f). With one fold these are the most recent items: cheap, and a change of taste shows
in the loss. With K folds every item is held back once, which costs K times as much and serves short
histories: five held-back items may miss what an adapter has learned.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

from proper_model.engine.checkpoint import Checkpoint, beside
from proper_model.engine.trials import Trial, TrialResult
from proper_model.kernels.packing import Encoded
from proper_model.settings.profile import UserSettings


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


def own_split(items: Sequence[Encoded], user: UserSettings, *, seed: int) -> Samples:
    """A person's items of one task, as the settings say."""
    return split_items(
        items,
        fraction=user.held_back_fraction,
        folds=user.held_back_folds,
        minimum=user.min_items_to_train,
        seed=seed,
    )


def embedding_split(items: Sequence[Encoded], user: UserSettings, *, seed: int) -> Samples:
    """As `own_split`; of too few items for an adapter, each judges once, against the others.

    An embedding is a few numbers, and it is kept only where items that did not train it say so.
    """
    if 1 < len(items) < user.min_items_to_train:
        return split_items(items, fraction=0.0, folds=len(items), minimum=2, seed=seed)
    return own_split(items, user, seed=seed)


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


# From trials, the user of each and a place for checkpoints to what came of them: results, and every
# trial's best state as tensors [trials, ...].
TrainTrials = Callable[
    [Sequence[Trial], Sequence[int], Checkpoint | None], tuple[list[TrialResult], list[Tensor]]
]


@dataclass
class Choice:
    """What a user's held-back items chose.

    Attributes:
        result: the mean over the user's folds at this rate; failed also where the refit diverged.
        trials: whose states these are, by position: of the refit, or without one of every fold.
    """

    learning_rate: float
    result: TrialResult
    trials: list[int]


def train_and_choose(
    users: Sequence[Samples],
    learning_rates: Sequence[float],
    train: TrainTrials,
    *,
    refit: bool,
    checkpoint: Checkpoint | None,
) -> tuple[list[Choice], list[Tensor]]:
    """Train every user at every rate on every fold, choose, and train again on all own items.

    The refit goes on for as many epochs as were best, at the schedule of all. Users without folds
    choose nothing and train nothing. Returns a choice a user, and the states that `Choice.trials`
    point at.
    """
    cuts = [
        (u, rate, fold)
        for u, user in enumerate(users)
        for rate in learning_rates
        for fold in user.folds
    ]
    results, states = train(
        [Trial(fold.train, fold.held_back, rate, users[u].seed) for u, rate, fold in cuts],
        [u for u, _, _ in cuts],
        checkpoint,
    )
    trials: dict[tuple[int, float], list[int]] = defaultdict(list)
    for number, (u, rate, _) in enumerate(cuts):
        trials[u, rate].append(number)

    def choice(u: int, rate: float) -> Choice:
        own = trials[u, rate]
        result = combine([(results[n], len(cuts[n][2].held_back)) for n in own])
        return Choice(rate, result, own)

    chosen = [
        min((choice(u, rate) for rate in learning_rates), key=_badness) for u in range(len(users))
    ]
    if refit:
        del states  # of every trial; only what was chosen is needed now
        again = [
            Trial(user.items, (), one.learning_rate, user.seed, stop_epoch=kept_epochs(one.result))
            for user, one in zip(users, chosen, strict=True)
        ]
        ended, states = train(again, range(len(users)), beside(checkpoint, ".refit"))
        for u, (one, result) in enumerate(zip(chosen, ended, strict=True)):
            one.result.failed |= result.failed
            one.trials = [] if result.failed else [u]
    return chosen, states


def _badness(choice: Choice) -> tuple[bool, float]:
    """Orders learning rates: the lowest held-back loss first, one that diverged last."""
    result = choice.result
    return result.failed, result.best_loss if result.losses else 0.0
