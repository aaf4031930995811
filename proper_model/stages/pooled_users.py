"""Pooled users as tokenized samples: who trains, who is held back, who forms the router cohort."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice

from proper_model.data.splits import check_pool
from proper_model.kernels.packing import Encoded
from proper_model.settings.profile import StageSettings
from proper_model.tasks.records import User
from proper_model.tasks.task import Task
from proper_model.text.encoding import Encoder

MOST_CALIBRATING = 4  # one in so many pooled users


@dataclass(frozen=True)
class PooledUser:
    """A pooled user's tokenized history items and queries."""

    history: tuple[Encoded, ...]
    queries: tuple[Encoded, ...]

    def capped(self, limit: int) -> tuple[Encoded, ...]:
        """Queries and the most recent history items, at most `limit` together."""
        room = max(0, limit - len(self.queries))
        recent = self.history[max(0, len(self.history) - room) :]
        return (*recent, *self.queries[:limit])


@dataclass(frozen=True)
class PooledData:
    """Pooled users after tokenization: who trains, who is held back, who is kept to calibrate with."""

    trained: tuple[PooledUser, ...]
    held_back: tuple[PooledUser, ...]
    calibrating: tuple[PooledUser, ...] = ()

    def fingerprint(self) -> str:
        """sha256 over all tokens of stages 1 and 2 in order: the part of a cache key that is data."""
        return fingerprint_of({"trained": self.trained, "held back": self.held_back})

    def calibration_fingerprint(self) -> str:
        """The same of those who are kept to calibrate with."""
        return fingerprint_of({"calibrating": self.calibrating})


def fingerprint_of(named: Mapping[str, Sequence[PooledUser]]) -> str:
    """sha256 over the tokens of users by what they are for, in order."""
    digest = hashlib.sha256()
    for name, users in named.items():
        for user in users:
            for kind, samples in (("history", user.history), ("queries", user.queries)):
                digest.update(f"{name}/{kind}/{len(samples)}\n".encode())
                for sample in samples:
                    digest.update(f"{sample.prompt_tokens}:{sample.tokens}\n".encode())
    return digest.hexdigest()


Beside = Sequence[tuple[Sequence[User], Task]]
"""Users' data for further tasks, beside the release's own."""


def pool(
    users: Sequence[User],
    task: Task,
    encoder: Encoder,
    settings: StageSettings,
    seed: int,
    *,
    beside: Beside = (),
) -> PooledData:
    """Tokenize pooled users and hold some back, chosen by seed. Raises DataError if too few.

    At most a quarter of the users with items and queries who are not held back calibrate: stages 1
    and 2 need the others.
    Under privacy all train: who is held back follows from who has queries, and their losses would decide
    without noise.

    `beside` holds what the same users did in further tasks: it is trained and judged together with
    the first task's. Users who are not among `users` are left out.
    """
    check_pool(users)
    encoded = _encode(users, task, encoder)
    for others, other_task in beside:
        found = _by_id(others, other_task, encoder)
        encoded = [
            _together(own, found[user.user_id]) if user.user_id in found else own
            for user, own in zip(users, encoded, strict=True)
        ]
    if settings.privacy is not None:
        return PooledData(trained=tuple(encoded), held_back=())
    order = [i for i, user in enumerate(encoded) if user.queries]
    random.Random(f"{seed}/held back").shuffle(order)
    held = set(order[: held_back_people(len(users), settings)])
    apart = set(_calibrating(encoded, held, settings, seed))
    return PooledData(
        trained=tuple(u for i, u in enumerate(encoded) if i not in held | apart),
        held_back=tuple(u for i, u in enumerate(encoded) if i in held),
        calibrating=tuple(u for i, u in enumerate(encoded) if i in apart),
    )


def held_back_people(users: int, settings: StageSettings) -> int:
    """How many of so many pooled users judge stages 1 and 2, where all have queries; without privacy."""
    return min(users - 2, max(1, round(settings.held_back_fraction * users)))


def _calibrating(
    users: Sequence[PooledUser], held: set[int], settings: StageSettings, seed: int
) -> list[int]:
    """Positions of those who take no part in stages 1 and 2, drawn by seed; not those held back."""
    able = [i for i, u in enumerate(users) if u.queries and u.history and i not in held]
    random.Random(f"{seed}/calibrating").shuffle(able)
    return able[: calibrating_people(len(able), settings)]


def calibrating_people(able: int, settings: StageSettings) -> int:
    """How many of so many people calibrate: none where too few would be left to publish from."""
    count = min(settings.calibration.people, able // MOST_CALIBRATING)
    return count if count >= settings.group.prototype_min_users else 0


def histories_of(users: Sequence[User], task: Task, encoder: Encoder) -> tuple[PooledUser, ...]:
    """Tokenized histories alone, of people whose queries are to stay unseen; nobody without items."""
    unasked = [replace(user, queries=()) for user in users if user.history]
    return tuple(_encode(unasked, task, encoder))


def with_shuffled_identities(users: Sequence[PooledUser], seed: int) -> tuple[PooledUser, ...]:
    """The users' items permuted across them, and their queries; everybody has as many as before.

    Which items are one person's is then chance, and all else of the data is as it was.
    """

    def dealt(kind: str, samples: list[Encoded]) -> Iterator[Encoded]:
        random.Random(f"{seed}/shuffled {kind}").shuffle(samples)
        return iter(samples)

    history = dealt("history", [item for user in users for item in user.history])
    queries = dealt("queries", [query for user in users for query in user.queries])
    return tuple(
        PooledUser(
            tuple(islice(history, len(user.history))), tuple(islice(queries, len(user.queries)))
        )
        for user in users
    )


def _encode(users: Sequence[User], task: Task, encoder: Encoder) -> list[PooledUser]:
    return [
        PooledUser(
            history=tuple(encoder.encode(task.history_example(item)) for item in user.history),
            queries=tuple(
                encoder.encode(task.query_example(query, training=True)) for query in user.queries
            ),
        )
        for user in users
    ]


def _by_id(users: Sequence[User], task: Task, encoder: Encoder) -> dict[str, PooledUser]:
    encoded = _encode(users, task, encoder)
    return {user.user_id: own for user, own in zip(users, encoded, strict=True)}


def _together(a: PooledUser, b: PooledUser) -> PooledUser:
    """One user's two tasks, histories merged by relative age, so that a cap takes the newest of both."""
    places = [
        (place / len(history), sample)
        for history in (a.history, b.history)
        for place, sample in enumerate(history)
    ]
    places.sort(key=lambda row: row[0])
    return PooledUser(tuple(sample for _, sample in places), (*a.queries, *b.queries))


def router_cohort(
    users: Sequence[PooledUser], limit: int, seed: int, *, unasked: int = 0
) -> list[int]:
    """Positions of min(limit, available) users for 3a-3b, drawn by seed.

    Available are users with items to train on and a query to judge by. The last `unasked` users,
    whose queries are to stay unseen, take part beside those who were drawn, and judge nothing.
    """
    asked = len(users) - unasked
    order = [u for u, user in enumerate(users[:asked]) if user.queries and user.history]
    random.Random(f"{seed}/router cohort").shuffle(order)
    return [*sorted(order[:limit]), *range(asked, len(users))]
