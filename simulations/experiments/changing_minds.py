"""Synthetic people who change their minds: from some item on, each tags every film alike.

The films stay what they are; the answers become one tag that this person never used before. So the
truth about the newest answers is known, contradicts the old ones, and takes few items to learn.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from proper_model.errors import ConfigError
from proper_model.tasks import HistoryItem, User
from simulations.synthetic.films import TAGS

if TYPE_CHECKING:
    from simulations.setup.sources import Source

KIND = "synth_tag"


def drifting(source: Source, change_at: Callable[[int], int]) -> Source:
    """The source with test users who change at item `change_at(items)`, and the truth about them.

    Raises ConfigError for synthetic people of another kind than films to tag.
    """
    assert source.truth is not None
    truth = json.loads(source.truth)
    if truth["kind"] != KIND:
        raise ConfigError(
            f"{source.name} has no people who change their minds",
            hint="use demo, whose people tag films, or a folder of real histories",
        )
    users, changed = changed_minds(source.population.test, truth, change_at)
    population = replace(source.population, test=users)
    return replace(source, population=population, truth=json.dumps(changed))


def changed_minds(
    users: tuple[User, ...], truth: Mapping[str, Any], change_at: Callable[[int], int]
) -> tuple[tuple[User, ...], dict[str, Any]]:
    """Users of `synth_tag` with one tag for everything from item `change_at(items)` on, and their
    truth. Tags go round, so that neighbours get different ones.
    """
    gold = dict(truth["gold"])
    changed = []
    for number, user in enumerate(users):
        used = {item.fields["tag"] for item in user.history} | {q.gold for q in user.queries}
        free = [tag for tag in TAGS if tag not in used] or list(TAGS)
        tag = free[number % len(free)]
        start = change_at(len(user.history))
        later = tuple(_tagged(item, tag) for item in user.history[start:])
        queries = tuple(replace(query, gold=tag) for query in user.queries)
        gold |= {query.id: tag for query in queries}
        changed.append(User(user.user_id, (*user.history[:start], *later), queries))
    return tuple(changed), {**truth, "gold": gold}


def _tagged(item: HistoryItem, tag: str) -> HistoryItem:
    return replace(item, fields={**item.fields, "tag": tag})
