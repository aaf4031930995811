"""Training what all users share so that nobody can be told to have taken part (docs/method.md 1.12).

`PooledTraining` with another step: users are drawn instead of samples, every user's gradient is
clipped as a whole, and noise is added once (`user_privacy`). One pass there and back a user and step, or
several where memory asks for it. There are no epochs and nobody is held back: a fixed number of steps
is taken and the last state is kept, since whatever chose among states by people's losses would have
to be paid for, too.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from proper_model.engine.factor_cores import FactorCores
from proper_model.engine.pooled_training import PooledTraining
from proper_model.engine.training_loop import Row
from proper_model.engine.user_privacy import (
    Chance,
    ClippedSum,
    SeededChance,
    SystemChance,
    draw_items,
    poisson_sample,
)
from proper_model.kernels.dropout import mix_seed
from proper_model.settings.privacy import PrivacySettings


class PrivateTraining(PooledTraining):
    """One stage's training under the Poisson-sampled Gaussian mechanism.

    Args beyond those of `PooledTraining`, whose epochs, batch size, clipping and judge are not used:
        privacy: with a noise multiplier.
        steps: how many are taken.
        owners: the user, 0 to `users` - 1, of every sample.
        users: U. Those without any sample count, too, so that taking a user's data away leaves it.
        cores: of factors that the optimizer does not have, but their cores.
    """

    def __init__(
        self,
        *args: Any,
        privacy: PrivacySettings,
        steps: int,
        owners: Sequence[int],
        users: int,
        cores: FactorCores | None = None,
        **more: Any,
    ) -> None:
        self.privacy, self.steps, self.users, self.cores = privacy, steps, users, cores
        self.items: dict[int, list[int]] = defaultdict(list)  # numbers of every user's samples
        for number, owner in enumerate(owners):
            self.items[owner].append(number)
        self.chance: Chance = SystemChance()
        super().__init__(*args, **more)

    @property
    def _total(self) -> int:
        return self.steps

    def _rows(self) -> list[Row]:
        """Items of the users who are drawn for this step: now more of them, now fewer, maybe none.

        A row's seed follows from step, user and its place among the user's own rows, so that what one
        user adds is the same whoever else is drawn.
        """
        seed, step = self.settings.seed, self.taken
        if self.privacy.reproducible:
            self.chance = SeededChance(mix_seed(seed, step))
        rows = []
        for u in poisson_sample(self.chance, self.users, self.privacy.sampling_rate):
            drawn = draw_items(self.chance, self.items.get(u, ()), self.privacy.items_per_user)
            rows += [
                Row(*self.samples[i], mix_seed(seed, step, u, k), len(drawn))
                for k, i in enumerate(drawn)
            ]
        return rows

    def _gradients(self, rows: Sequence[Row]) -> list[float]:
        """The noisy sum of the users' clipped gradients; losses are not looked at."""
        total = ClippedSum(self.parameters, self.privacy.clip_norm)
        for own in _by_user(rows):
            super()._gradients(own)  # of the mean loss over this user's items
            if self.cores is not None:
                self.cores.pull()
            total.add()
        total.release(
            self.chance,
            noise_multiplier=self.privacy.z,
            expected=self.privacy.sampling_rate * self.users,
        )
        return []

    def _update(self, found: Sequence[float]) -> None:
        del found  # no loss is looked at
        self._move()
        self._write_factors()
        self._tell(None)

    def _clear(self) -> None:
        super()._clear()
        for factor in self.cores.factors if self.cores else ():
            factor.grad = None

    def _write_factors(self) -> None:
        if self.cores is not None:
            self.cores.push()

    def _resume(self, tensors: Mapping[str, Tensor], meta: Mapping[str, Any]) -> None:
        super()._resume(tensors, meta)
        self._write_factors()

    def _after_step(self) -> None:
        if self.taken == self._total:
            self._judge()

    @torch.no_grad()
    def _judge(self) -> None:
        """Nobody judges: the state of now is what is kept."""
        for best, p in zip(self.best, self.parameters, strict=True):
            best.copy_(p)


def _by_user(rows: Sequence[Row]) -> Iterator[Sequence[Row]]:
    """Rows of one user after another: they stand together, and each says how many there are."""
    start = 0
    while start < len(rows):
        end = start + rows[start].count
        yield rows[start:end]
        start = end


def training_for(
    privacy: PrivacySettings | None,
    steps: int,
    owners: Sequence[int],
    users: int,
    cores: FactorCores | None = None,
) -> Callable[..., PooledTraining]:
    """The kind of training that settings ask for, to be called as `PooledTraining` is.

    `steps`, `owners`, `users` and `cores` as for `PrivateTraining`.
    """
    if privacy is None:
        return PooledTraining
    how: dict[str, Any] = {"owners": owners, "users": users, "cores": cores}
    return partial(PrivateTraining, privacy=privacy, steps=steps, **how)
