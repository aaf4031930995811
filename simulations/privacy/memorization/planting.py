"""Secrets of random content in people's items, planted a known number of times, also none.

A canary is an item whose question and answer are drawn at random, so that whoever finds the answer, the
secret, to the question has it from what was trained (Carlini et al. 2019, "The Secret Sharer"). Unlike the
marks of `privacy.egress`, which are looked for in bytes, they are asked for.

    random      the secret is a few words that people use anyway
    new-token   it is one token that the base was given for this and that stands in no other text, so that
                nothing else that is trained moves it: the stronger design for an audit (arXiv 2503.06808)

Every person has two, alike but for one thing: one is planted, as often as chance says, the other is not.
Letters: P people, R candidates.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

import numpy as np

from proper_model.errors import ConfigError, DataError
from proper_model.tasks import Example, HistoryItem, Task, User
from simulations.privacy.membership.population import (
    Candidates,
    Draw,
    check_own_items,
    draw_members,
)

Design = Literal["random", "new-token"]
DESIGNS: tuple[Design, ...] = get_args(Design)
QUESTION_WORDS = 8
SECRET_WORDS = 4
LEAST_WORDS = 64  # a secret of four such words has 24 bits
_PLAIN = re.compile(r"[a-z]{2,10}")


@dataclass(frozen=True)
class Pool:
    """What questions and secrets are drawn from: `length` units of `units` make a secret."""

    words: tuple[str, ...]
    units: tuple[str, ...]
    length: int


@dataclass(frozen=True)
class Canary:
    """One person's secret.

    Attributes:
        item: what is planted; its answer is `secret`.
        candidates: `[R]`, drawn as the secret was; no model was trained on one.
        times: how often the item stands among the person's.
    """

    item: HistoryItem
    secret: str
    candidates: tuple[str, ...]
    times: int

    def asked(self, task: Task) -> list[Example]:
        """The secret, then the candidates, as answers to the question: [1 + R]."""
        prompt = task.history_example(self.item).prompt
        return [Example("canary", prompt, text) for text in (self.secret, *self.candidates)]


@dataclass(frozen=True)
class Planted:
    """One seed's people with their canaries.

    Attributes:
        draw: who is pooled, and everybody's items, canaries among the known ones.
        own: `[P]` the known items without.
        planted, absent: `[P]`, of everybody the canary that is there and the one that is not.
    """

    draw: Draw
    own: tuple[tuple[HistoryItem, ...], ...]
    planted: tuple[Canary, ...]
    absent: tuple[Canary, ...]


def check_task(task: Task) -> None:
    """Raise ConfigError for a task whose answers cannot hold a secret, or whose questions are alike."""
    if task.kind != "generation" or task.answer_field is None:
        raise ConfigError(
            f"{task.name}, template {task.template}: an answer must be one field of free text to hold a "
            "canary; of a label only the label can be trained",
            hint="take a task that generates text: demo:text, scholarly_titles, news_headlines",
        )
    if not task.compiled.prompt.placeholders & set(task.fields) - {task.answer_field}:
        raise ConfigError(
            f"{task.name}, template {task.template}: its questions show nothing of an item, so a canary "
            "has no question of its own",
            hint="take another template, such as short",
        )


def check_people(candidates: Candidates) -> None:
    """Raise ConfigError or DataError for people whose items take no canary, whatever the base."""
    check_task(candidates.task)
    check_own_items(candidates.name, candidates.shared)
    word_pool(candidates.users)


def word_pool(users: Sequence[User]) -> tuple[str, ...]:
    """Plain words that people use, sorted. Raises DataError if they are too few."""
    texts = (text for user in users for item in user.history for text in item.fields.values())
    found = {word for text in texts for word in text.split() if _PLAIN.fullmatch(word)}
    if len(found) < LEAST_WORDS:
        raise DataError(
            f"people's items have {len(found)} plain words, canaries need {LEAST_WORDS} to be drawn from",
            hint="take a larger set, or more --people",
        )
    return tuple(sorted(found))


def plant(
    users: Sequence[User],
    task: Task,
    pool: Pool,
    *,
    seed: int,
    insertions: Sequence[int],
    candidates: int,
) -> Planted:
    """Draw members as `draw_members` does, and canaries: all numbers of insertions as often on each side.

    Args:
        insertions: how often a canary is planted; each at least once.
        candidates: R.
    """
    draw = draw_members(users, seed)
    rng = np.random.default_rng([seed, len(users), 1])
    times = np.zeros(len(users), dtype=np.int64)
    for side in (True, False):
        places = np.flatnonzero(np.array(draw.pooled) == side)
        times[places] = rng.permutation(np.resize(insertions, len(places)))
    secrets = _secrets(rng, pool, count=2 * len(users), candidates=candidates)
    made = [
        Canary(_item(task, rng, pool, secret), secret, others, int(count))
        for (secret, others), count in zip(secrets, np.r_[times, 0 * times], strict=True)
    ]
    planted, absent = made[: len(users)], made[len(users) :]
    known = tuple(
        _with_copies(own, canary, rng) for own, canary in zip(draw.known, planted, strict=True)
    )
    return Planted(replace(draw, known=known), draw.known, tuple(planted), tuple(absent))


def _secrets(
    rng: np.random.Generator, pool: Pool, *, count: int, candidates: int
) -> list[tuple[str, tuple[str, ...]]]:
    """So many secrets with candidates, no two texts alike; of single units all have the same candidates."""
    if pool.length == 1:
        order = [pool.units[place] for place in rng.permutation(len(pool.units))]
        others = tuple(order[count : count + candidates])
        assert len(others) == candidates  # `with_new_tokens` makes as many
        return [(secret, others) for secret in order[:count]]
    each = candidates + 1
    texts: dict[str, None] = {}
    while len(texts) < count * each:
        rows = rng.integers(len(pool.units), size=(count * each - len(texts), pool.length))
        texts |= dict.fromkeys(" ".join(pool.units[i] for i in row) for row in rows.tolist())
    drawn = list(texts)
    return [(drawn[k], tuple(drawn[k + 1 : k + each])) for k in range(0, count * each, each)]


def _item(task: Task, rng: np.random.Generator, pool: Pool, secret: str) -> HistoryItem:
    """An item with random words in every field that a question or a line shows."""
    shown = sorted(task.required_fields - {task.answer_field})
    fields = {name: " ".join(rng.choice(pool.words, QUESTION_WORDS)) for name in shown}
    assert task.answer_field is not None  # check_task
    return HistoryItem("canary", {**fields, task.answer_field: secret})


def _with_copies(
    items: tuple[HistoryItem, ...], canary: Canary, rng: np.random.Generator
) -> tuple[HistoryItem, ...]:
    """The items with so many copies of the canary at random places; every copy has an id of its own."""
    found = list(items)
    for number in range(canary.times):
        copy = replace(canary.item, id=f"{canary.item.id}-{number}")
        found.insert(int(rng.integers(len(found) + 1)), copy)
    return tuple(found)
