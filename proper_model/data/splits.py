"""Who is pooled and who is a test user (docs/method.md 1.8), and how much of each is used.

Specs: `given` (as the data say), `random:N` (N of all users), `inactive:N` (the N pooled users with
the shortest histories, at most a fifth of them; the given test users take no part, and
`inactive:N:in-population` leaves the chosen ones in the pool, the literal reading of the paper).

Users are ordered by a hash of seed and id, not by a random generator: the choice does not depend on
a library's version, and a smaller choice is always part of a larger one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

from proper_model.errors import ConfigError, DataError
from proper_model.tasks.records import Population, User

INACTIVE_SHARE = 0.2
MIN_POOLED = 3  # two to train on, one held back


@dataclass(frozen=True)
class SplitSpec:
    """A parsed spec. `count` is 0 for `given`."""

    kind: str
    count: int = 0
    in_population: bool = False


def parse_split(spec: str) -> SplitSpec:
    """Parse `given`, `random:N`, `inactive:N` or `inactive:N:in-population`, else ConfigError."""
    parts = spec.split(":")
    kind = parts[0]
    in_population = kind == "inactive" and parts[2:] == ["in-population"]
    if parts == ["given"]:
        return SplitSpec("given")
    sized = len(parts) == 2 or in_population
    count = int(parts[1]) if sized and parts[1].isascii() and parts[1].isdigit() else 0
    if kind in ("random", "inactive") and count >= 1:
        return SplitSpec(kind, count, in_population)
    raise ConfigError(
        f"unknown split '{spec}'",
        hint="splits are given, random:N, inactive:N and inactive:N:in-population, N at least 1",
    )


def apply_split(
    population: Population,
    spec: str,
    *,
    fold: int = 0,
    folds: int = 1,
    pooled_users: int | None = None,
    users: int | None = None,
    max_items: int | None = None,
    seed: int = 0,
) -> Population:
    """Choose pooled and test users, then cut.

    With `folds` > 1 test membership rotates over all users that have a query: `given` cuts them
    into `folds` parts, so that everyone is a test user in exactly one fold; `random:N` gives every
    fold N other test users. `pooled_users` and `users` keep that many pooled and test users,
    `max_items` the most recent items of every history.

    Raises ConfigError for a contradiction, DataError if no pooled or no test user is left.
    """
    wanted, everyone = parse_split(spec), (*population.pooled, *population.test)
    _check(fold=fold, folds=folds, pooled_users=pooled_users, users=users, max_items=max_items)
    if wanted.kind == "inactive":
        if folds > 1:
            raise ConfigError("split inactive:N chooses its test users; it has no folds")
        pooled, test = _inactive(population.pooled, wanted)
    elif wanted.kind == "random":
        pooled, test = _random(everyone, wanted.count, fold, folds, seed)
    elif folds > 1:
        pooled, test = _rotated(everyone, fold, folds, seed)
    else:
        pooled, test = population.pooled, population.test
    test = tuple(user for user in test if user.queries)
    pooled = _keep(pooled, pooled_users, seed)
    test = _keep(test, users, seed)
    _check_somebody(population, spec, pooled, test)
    if max_items is not None:
        pooled, test = _cut(pooled, max_items), _cut(test, max_items)
    return Population(population.name, pooled, test)


def effective_split(population: Population, spec: str) -> str:
    """The spec with the number of users it can have: `inactive:N` is cut to its share (1.8)."""
    wanted = parse_split(spec)
    if wanted.kind != "inactive":
        return spec
    count = len(_least_active(population.pooled, wanted.count))
    return ":".join(["inactive", str(count), *spec.split(":")[2:]])


def check_pool(users: Sequence[User]) -> None:
    """Raise DataError unless stages 1 and 2 can train on some pooled users and hold others back."""
    if len(users) < MIN_POOLED:
        raise DataError(
            f"{len(users)} pooled users; training and early stopping need at least {MIN_POOLED}",
            hint="add users to user_others.json, raise --pooled-users, or use a smaller --split",
        )
    if not any(user.queries for user in users):
        raise DataError(
            "no pooled user has a query; held-back users' queries judge stages 1 and 2",
            hint="add queries to user_others.json, or use a smaller --split",
        )


def _check_somebody(
    population: Population, spec: str, pooled: Sequence[User], test: Sequence[User]
) -> None:
    if not test:
        raise DataError(
            f"{population.name}: split '{spec}' leaves no test user",
            hint="a test user needs a query; use --split random:N where the data name no test users",
        )
    if not pooled:
        raise DataError(
            f"{population.name}: split '{spec}' leaves no pooled user",
            hint="stages 1 and 2 train on pooled users: add user_others.json, or use --split "
            "random:N, which pools everybody but N",
        )


def _check(*, fold: int, folds: int, **counts: int | None) -> None:
    if folds < 1 or not 0 <= fold < folds:
        raise ConfigError(f"fold {fold} of {folds}: folds count from 0 to folds - 1")
    for name, count in counts.items():
        if count is not None and count < 1:
            raise ConfigError(f"{name} must be at least 1, got {count}")


def _shuffled(users: Sequence[User], seed: int) -> list[User]:
    def rank(user: User) -> bytes:
        return hashlib.sha256(f"{seed}\0{user.user_id}".encode()).digest()

    return sorted(users, key=rank)


def _keep(users: tuple[User, ...], count: int | None, seed: int) -> tuple[User, ...]:
    """`count` users chosen by hash, in their old order."""
    if count is None or count >= len(users):
        return users
    chosen = {user.user_id for user in _shuffled(users, seed)[:count]}
    return tuple(user for user in users if user.user_id in chosen)


def _divide(
    users: tuple[User, ...], test_ids: set[str]
) -> tuple[tuple[User, ...], tuple[User, ...]]:
    return (
        tuple(user for user in users if user.user_id not in test_ids),
        tuple(user for user in users if user.user_id in test_ids),
    )


def _random(
    users: tuple[User, ...], count: int, fold: int, folds: int, seed: int
) -> tuple[tuple[User, ...], tuple[User, ...]]:
    eligible = _shuffled([user for user in users if user.queries], seed)
    if count * folds > len(eligible) or count >= len(users):
        raise ConfigError(
            f"split random:{count} with {folds} folds needs more than the {len(eligible)} users "
            "that have a query",
            hint="choose a smaller N, fewer folds, or split `given` with folds",
        )
    block = eligible[fold * count : (fold + 1) * count]
    return _divide(users, {user.user_id for user in block})


def _rotated(
    users: tuple[User, ...], fold: int, folds: int, seed: int
) -> tuple[tuple[User, ...], tuple[User, ...]]:
    eligible = _shuffled([user for user in users if user.queries], seed)
    if folds > len(eligible):
        raise ConfigError(f"{folds} folds need as many users with a query, got {len(eligible)}")
    return _divide(users, {user.user_id for user in eligible[fold::folds]})


def _inactive(
    pooled: tuple[User, ...], wanted: SplitSpec
) -> tuple[tuple[User, ...], tuple[User, ...]]:
    chosen = {user.user_id for user in _least_active(pooled, wanted.count)}
    if not chosen:
        raise ConfigError(
            f"split inactive:{wanted.count} finds no user: it takes at most a fifth of the "
            f"{len(pooled)} pooled users, of those with a history and a query",
            hint="pool more users, or use --split random:N",
        )
    rest, test = _divide(pooled, chosen)
    return (pooled if wanted.in_population else rest), test


def _least_active(pooled: tuple[User, ...], count: int) -> list[User]:
    """At most `count` users and a fifth of all, with the shortest histories (docs/method.md 1.8)."""
    eligible = [user for user in pooled if user.history and user.queries]
    eligible.sort(key=lambda user: (len(user.history), user.user_id))
    return eligible[: min(count, int(INACTIVE_SHARE * len(pooled)))]


def _cut(users: tuple[User, ...], max_items: int) -> tuple[User, ...]:
    return tuple(replace(user, history=user.history[-max_items:]) for user in users)
