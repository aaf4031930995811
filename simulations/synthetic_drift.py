"""Synthetic people who change their minds: from some item on, each does as another group does.

What the text says and what is a person's own stay; the answers that a group decides become those of
the next group. So the truth about somebody's newest answers is known, and contradicts the old ones.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from proper_model.errors import ConfigError
from proper_model.records import HistoryItem, User

if TYPE_CHECKING:
    from simulations.sources import Source

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
    """Users of `synth_tag` who join the next group at item `change_at(items)`, and their truth."""
    gold = dict(truth["gold"])
    changed = []
    for user in users:
        rule = truth["rules"][(truth["groups"][user.user_id] + 1) % len(truth["rules"])]
        now = {**rule, **truth["quirks"][user.user_id]}
        start = change_at(len(user.history))
        history = tuple(
            item if place < start else _tagged(item, now[truth["detail"][item.id]["topic"]])
            for place, item in enumerate(user.history)
        )
        queries = tuple(
            replace(query, gold=now[truth["detail"][query.id]["topic"]]) for query in user.queries
        )
        gold |= {query.id: query.gold for query in queries}
        changed.append(User(user.user_id, history, queries))
    return tuple(changed), {**truth, "gold": gold}


def _tagged(item: HistoryItem, tag: str) -> HistoryItem:
    return replace(item, fields={**item.fields, "tag": tag})
