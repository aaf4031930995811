"""Who is attacked: candidates, and the seeded draw that decides before training whose data train.

Half of the candidates are pooled. Every candidate keeps some items that never train anything (`fresh`):
an attacker who knows a person's style, but none of the pooled texts, has these. Of a private adapter,
half of a person's items train it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from proper_model.errors import ConfigError, DataError
from proper_model.progress import Progress
from proper_model.settings import StageSettings
from proper_model.tasks import HistoryItem, Task, User
from simulations.privacy.results.options import LEAST_PEOPLE
from simulations.setup.columns import parse_columns
from simulations.setup.options import DEMOS
from simulations.setup.sources import DATA_HINT, check_there, choose_template, read_data

if TYPE_CHECKING:
    from simulations.synthetic.people import SyntheticPopulation

# Templates may give two people one sentence by chance; a real set of own items has hardly any.
MOST_SHARED = 0.1
FRESH_SHARE = 0.25
LEAST_ITEMS = 12  # a quarter fresh, and half of the others still train an adapter


@dataclass(frozen=True)
class Candidates:
    """People, any of whom may be pooled.

    Attributes:
        base: folder of the public base, which has seen none of them; empty: not made yet.
        shared: share of items that several people have.
    """

    name: str
    users: tuple[User, ...]
    task: Task
    base: str
    shared: float

    @property
    def texts(self) -> list[list[Any]]:
        """Everybody's id, items and queries, for a digest."""
        return [
            [
                user.user_id,
                [dict(item.fields) for item in user.history],
                [query.input for query in user.queries],
            ]
            for user in self.users
        ]


@dataclass(frozen=True)
class Draw:
    """One seed's draw over the candidates, in their order.

    Attributes:
        pooled: `[people]`, who is handed to the pooled stages.
        known: each one's items that train if the person is pooled.
        fresh: each one's items that never train.
        halves: of each one's `known` items whether an own adapter trains on it.
    """

    pooled: tuple[bool, ...]
    known: tuple[tuple[HistoryItem, ...], ...]
    fresh: tuple[tuple[HistoryItem, ...], ...]
    halves: tuple[tuple[bool, ...], ...]

    def users(self, candidates: Candidates) -> list[User]:
        """Whoever is pooled, without fresh items."""
        return [
            replace(user, history=items)
            for user, items, inside in zip(candidates.users, self.known, self.pooled, strict=True)
            if inside
        ]


def draw_members(users: Sequence[User], seed: int) -> Draw:
    """Exactly half of the people, half of everybody's known items, and the fresh ones, by seed."""
    rng = np.random.default_rng([seed, len(users)])
    known, fresh, halves = [], [], []
    for user in users:
        apart = set(_some(rng, len(user.history), round(FRESH_SHARE * len(user.history))))
        known.append(tuple(item for i, item in enumerate(user.history) if i not in apart))
        fresh.append(tuple(item for i, item in enumerate(user.history) if i in apart))
        chosen = set(_some(rng, len(known[-1]), len(known[-1]) // 2))
        halves.append(tuple(i in chosen for i in range(len(known[-1]))))
    inside = set(_some(rng, len(users), len(users) // 2))
    pooled = tuple(place in inside for place in range(len(users)))
    return Draw(pooled, tuple(known), tuple(fresh), tuple(halves))


def _some(rng: np.random.Generator, of: int, count: int) -> list[int]:
    return [int(place) for place in rng.permutation(of)[:count]]


def shared_share(users: Sequence[User], task: Task) -> float:
    """Share of items, over all people, whose prompt another person's history has too."""
    prompts = [{task.history_example(item).prompt for item in user.history} for user in users]
    owners = Counter(prompt for own in prompts for prompt in own)
    total = sum(map(len, prompts))
    return sum(owners[prompt] > 1 for own in prompts for prompt in own) / max(1, total)


def check_own_items(name: str, shared: float) -> None:
    """Raise DataError for a set whose items many people share: no ground for record-level attacks."""
    if shared > MOST_SHARED:
        raise DataError(
            f"{name}: several people have {shared:.0%} of the items, at most {MOST_SHARED:.0%} may be "
            "shared: an item that is no member as one person's is often a member as another's, so "
            "membership of a record means nothing here",
            hint="take a set of own texts (news_categories, news_headlines, scholarly_titles, demo), "
            "or --level person",
        )


def load_candidates(
    data: str,
    task: str | None,
    base: str | None,
    settings: StageSettings,
    columns: str | None,
    *,
    bases: Path,
    people: int | None,
    max_items: int,
    progress: Progress,
    check: Callable[[Candidates], object],
) -> Candidates:
    """Candidates out of a data folder, or synthetic ones, whose draw of people has a fixed seed.

    Args:
        check: called with the candidates before a base is made for them; what it raises ends it all.
        columns: of a dataset, by what they mean.

    Raises DataError if there are too few with enough items; ConfigError for options that contradict.
    """
    made = None
    if data in DEMOS:
        if task is not None or base is not None:
            raise ConfigError(f"{data} brings its own task and base", hint="drop --task and --base")
        made = _synthetic(DEMOS[data], people)
        users, name = (*made.population.pooled, *made.population.test), made.task
        chosen, _ = choose_template(name, None, settings)
    else:
        known = f"{DATA_HINT}; or " + ", ".join(sorted(DEMOS))
        check_there(data, hint=known)
        if task is None or base is None:
            raise ConfigError(f"{data} needs --task and --base", hint="or attack the demo's people")
        chosen, _ = choose_template(task, None, settings)
        progress("reading users", 0, 0)
        population, name = read_data(
            data, chosen, parse_columns(columns), hint=known, progress=progress
        )
        users = (*population.pooled, *population.test)
    able = [
        replace(user, history=user.history[-max_items:])
        for user in users
        if len(user.history) >= LEAST_ITEMS and user.queries
    ]
    if people is not None:
        order = np.random.default_rng(0).permutation(len(able))[:people]
        able = [able[place] for place in sorted(order)]
    if len(able) < LEAST_PEOPLE:
        raise DataError(
            f"{name}: {len(able)} people have {LEAST_ITEMS} items and a query, attacks need {LEAST_PEOPLE}",
            hint="take a larger set, or more --people",
        )
    found = Candidates(name, tuple(able), chosen, base or "", shared_share(able, chosen))
    check(found)
    return found if made is None else replace(found, base=_base(made, bases, progress))


def _synthetic(kind: str, people: int | None) -> SyntheticPopulation:
    from simulations.synthetic.people import make_synthetic

    a_group = max(1, -(-(people or 48) // 6))  # three groups, half of each called test users
    return make_synthetic(
        kind, preset="demo", users_per_group=a_group, test_users_per_group=a_group
    )


def _base(made: SyntheticPopulation, bases: Path, progress: Progress) -> str:
    """Folder of a base that was pretrained on nobody's texts."""
    from simulations.synthetic.tiny_base import make_tiny_base

    base = make_tiny_base(
        bases,
        made.pretrain_texts,
        vocabulary=made.vocabulary,
        progress=lambda done, total: progress("pretraining a tiny base", done, total),
    )
    return str(base.resolve())
