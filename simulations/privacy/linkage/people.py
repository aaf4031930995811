"""Synthetic people whose planted group is known, and the seeded draw that says who plays which part.

    pooled    train the first release, and the one with another seed
    more      train the larger release beside them
    public    people whose texts an attacker has: questions to ask, gradients to learn from
    attacked  newcomers, whose private parts are attacked

Every part has as many people of each group. A newcomer's items are cut into two halves without a common
item, one for each training. Only synthetic people have a true group, so real data are refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from proper_model.errors import ConfigError
from proper_model.progress import Progress
from proper_model.settings import StageSettings
from proper_model.tasks import HistoryItem, Task, User
from simulations.setup.options import DEMOS
from simulations.setup.sources import choose_template

if TYPE_CHECKING:
    from simulations.synthetic.people import SyntheticPopulation

GROUPS = 3  # of the preset `demo`
PARTS = {"pooled": 8, "more": 4, "public": 20}  # of each group
SECOND = {"synth_tag": "synth_rate", "synth_rate": "synth_tag", "synth_text": "synth_rate"}


@dataclass(frozen=True)
class Planted:
    """People of one kind, and of a second task that the same people have.

    Attributes:
        users, second: in the same order and with the same ids; the second task's items are other texts.
        group: `[people]` planted group of each, the same in both tasks.
        tasks: of `users` and of `second`.
        base: folder of a base that met the words of both tasks and nobody's texts; `alone`: of the first.
    """

    kind: str
    users: tuple[User, ...]
    second: tuple[User, ...]
    group: tuple[int, ...]
    tasks: tuple[Task, Task]
    alone: str
    base: str

    @property
    def identity(self) -> str:
        """All that it is but where the bases lie: their names say what is in them."""
        return str(replace(self, alone=Path(self.alone).name, base=Path(self.base).name))


@dataclass(frozen=True)
class Parts:
    """One seed's places in `Planted.users`, and each attacked person's items in two halves."""

    pooled: tuple[int, ...]
    more: tuple[int, ...]
    public: tuple[int, ...]
    attacked: tuple[int, ...]
    halves: tuple[tuple[tuple[HistoryItem, ...], tuple[HistoryItem, ...]], ...]


def draw_parts(people: Planted, attacked: int, seed: int) -> Parts:
    """Who plays which part: the same numbers of every group, `attacked` people in all; by seed."""
    rng = np.random.default_rng([seed, len(people.users)])
    wanted = {**PARTS, "attacked": attacked // GROUPS}
    found: dict[str, list[int]] = {name: [] for name in wanted}
    group = np.array(people.group)
    for number in range(GROUPS):
        order = rng.permutation(np.flatnonzero(group == number)).tolist()
        for name, count in wanted.items():
            found[name] += order[:count]
            order = order[count:]
    places = {name: tuple(sorted(own)) for name, own in found.items()}
    halves = tuple(_halved(people.users[who].history, rng) for who in places["attacked"])
    return Parts(halves=halves, **places)


def _halved(
    items: Sequence[HistoryItem], rng: np.random.Generator
) -> tuple[tuple[HistoryItem, ...], tuple[HistoryItem, ...]]:
    first = set(rng.permutation(len(items))[: len(items) // 2].tolist())
    return (
        tuple(item for place, item in enumerate(items) if place in first),
        tuple(item for place, item in enumerate(items) if place not in first),
    )


def plant(
    data: str,
    settings: StageSettings,
    *,
    attacked: int,
    two_tasks: bool,
    bases: Path,
    progress: Progress,
) -> Planted:
    """Synthetic people by the name of a demo, enough for every part, and their bases.

    Without `two_tasks` the base of both tasks is not made, and `base` is `alone`.

    Raises ConfigError for other data, or for fewer than two attacked people a group.
    """
    if data not in DEMOS:
        raise ConfigError(
            f"{data}: only synthetic people have a true group to be compared with",
            hint="known: " + ", ".join(sorted(DEMOS)),
        )
    if attacked < 2 * GROUPS:
        raise ConfigError(
            f"{attacked} people are attacked, expected {2 * GROUPS} or more: two of each of {GROUPS} groups",
            hint=f"take more --people, a multiple of {GROUPS}",
        )
    if attacked % GROUPS:
        raise ConfigError(
            f"{attacked} people cannot be divided evenly over {GROUPS} groups",
            hint=f"--people {attacked // GROUPS * GROUPS} or {-(-attacked // GROUPS) * GROUPS} can",
        )
    kind = DEMOS[data]
    a_group = sum(PARTS.values()) + attacked // GROUPS
    first, second = (_made(one, a_group) for one in (kind, SECOND[kind]))
    users = first.population.pooled
    group = first.truth["groups"]
    partner = _partners(first, second)
    alone = _base([first], bases, progress)
    return Planted(
        kind,
        users,
        tuple(replace(partner[user.user_id], user_id=user.user_id) for user in users),
        tuple(int(group[user.user_id]) for user in users),
        (
            choose_template(kind, None, settings)[0],
            choose_template(SECOND[kind], None, settings)[0],
        ),
        alone,
        _base([first, second], bases, progress) if two_tasks else alone,
    )


def _made(kind: str, a_group: int) -> SyntheticPopulation:
    from simulations.synthetic.people import make_synthetic

    return make_synthetic(kind, preset="demo", users_per_group=a_group, test_users_per_group=1)


def _partners(first: SyntheticPopulation, second: SyntheticPopulation) -> dict[str, User]:
    """By id of a person of the first task one of the second, of the same group, nobody twice."""

    def of(made: SyntheticPopulation, number: int) -> list[User]:
        groups = made.truth["groups"]
        return [user for user in made.population.pooled if groups[user.user_id] == number]

    return {
        own.user_id: other
        for number in range(GROUPS)
        for own, other in zip(of(first, number), of(second, number), strict=True)
    }


def _base(made: Sequence[SyntheticPopulation], bases: Path, progress: Progress) -> str:
    """Folder of a base that has met the words and texts of all, and no person."""
    from simulations.synthetic.tiny_base import make_tiny_base

    found = make_tiny_base(
        bases,
        tuple(text for one in made for text in one.pretrain_texts),
        vocabulary=tuple(word for one in made for word in one.vocabulary),
        progress=lambda done, total: progress("pretraining a tiny base", done, total),
    )
    return str(found.resolve())
