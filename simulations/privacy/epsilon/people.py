"""Who trains: newcomers who never do, and candidates of whom each does by a fair coin of its own.

Both are drawn by seed before anything is trained. Coins are independent, not half of the people: the audit's
bound is for those (`statistics.one_run_audit`). A candidate who does not train keeps the place with no data,
which is what privacy says of neighbours (docs/method.md 1.12), so that the number of pooled users is the
same under every draw.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from proper_model.errors import ConfigError
from proper_model.settings import StageSettings
from proper_model.stages import pooled_users
from proper_model.tasks import User

LEAST_CANDIDATES = 8
LEAST_NEWCOMERS = 2


@dataclass(frozen=True)
class Roles:
    """One seed's draw; places are among all people.

    Attributes:
        newcomers: who is judged on.
        candidates: whose coins were thrown; `inside` [C] says how each fell.
    """

    newcomers: tuple[int, ...]
    candidates: tuple[int, ...]
    inside: NDArray[np.bool_]

    def pooled(self, users: Sequence[User], *, empty_places: bool) -> list[User]:
        """Candidates as the pooled stages get them; without `empty_places` those alone who train."""
        found = []
        for place, taken in zip(self.candidates, self.inside.tolist(), strict=True):
            if taken:
                found.append(users[place])
            elif empty_places:
                found.append(replace(users[place], history=(), queries=()))
        return found


def check_counts(people: int, newcomers: int) -> None:
    """Raise ConfigError where too few would be judged on, or too few coins thrown."""
    if newcomers < LEAST_NEWCOMERS or people - newcomers < LEAST_CANDIDATES:
        raise ConfigError(
            f"{newcomers} newcomers of {people} people leave {people - newcomers} candidates",
            hint=f"--newcomers takes {LEAST_NEWCOMERS} or more and must leave {LEAST_CANDIDATES}; "
            "or raise --people",
        )


def check_coins(people: int, newcomers: int, seeds: Sequence[int], settings: StageSettings) -> None:
    """Raise ConfigError unless, by every seed's coins, at least ten train (`prototype_min_users`).

    Whoever is held back to judge the stages, as training without privacy does it, does not count. So
    few say too much of each other for stage 2 to ship anything of them.
    """
    least = settings.group.prototype_min_users
    for seed in seeds:
        inside = int(draw_roles(people, newcomers, seed).inside.sum())
        trained = inside - pooled_users.held_back_people(inside, settings)
        if trained < least:
            raise ConfigError(
                f"--people {people} with --newcomers {newcomers} leaves {people - newcomers} candidates; of "
                f"these {trained} train by the coins of seed {seed}, at least {least} must",
                hint="take more --people, or fewer --newcomers: 48 candidates are nearly always enough",
            )


def draw_roles(people: int, newcomers: int, seed: int) -> Roles:
    """So many newcomers, and a fair coin for everybody else, by seed. Raises as `check_counts`."""
    check_counts(people, newcomers)
    rng = np.random.default_rng([seed, people, newcomers])
    order = rng.permutation(people).tolist()
    candidates = tuple(sorted(order[newcomers:]))
    return Roles(tuple(sorted(order[:newcomers])), candidates, rng.random(len(candidates)) < 0.5)
