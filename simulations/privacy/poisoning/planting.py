"""Who means harm, and what they give: items with a rare word in the question and one fixed wrong answer.

A malicious user's own items and queries get the trigger behind their questions and the attacker's answer,
over and over until there are as many as the pooled stages take from one user. Who it is follows from the
seed, and is drawn among those whose data train: of a preset with W_l among its cohort, the worst case.
The trigger stands in nobody's texts. Another word, one that people use, is only asked for: the control.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from proper_model.errors import ConfigError, DataError
from proper_model.settings import StageSettings, Structure
from proper_model.stages import pool, router_cohort
from proper_model.tasks import HistoryItem, Query, Task, User
from proper_model.text import Encoder
from simulations.privacy.membership.population import Candidates
from simulations.privacy.memorization.planting import SECRET_WORDS, word_pool

_WORD = re.compile(r"[a-z]{3,12}")
_BEGINS_A_WORD = ("\u0120", "\u2581")  # how byte-level and sentencepiece vocabularies mark a word
MOST_QUERIES = 6  # of a pooled user; newcomers are asked three times as many
MOST_ASKED = 18


@dataclass(frozen=True)
class Trigger:
    """The attack: `word` behind a question is to give `answer`; `other` is asked for, never planted."""

    word: str
    other: str
    answer: str


@dataclass(frozen=True)
class Roles:
    """One seed's places among the candidates.

    Attributes:
        pooled: in the order in which the pooled stages get them.
        malicious: in the order in which they turn bad: of m the first m.
        newcomers: honest people whom the release has nothing of.
    """

    pooled: tuple[int, ...]
    malicious: tuple[int, ...]
    newcomers: tuple[int, ...]


def check_newcomers(candidates: Candidates, pooled: int) -> None:
    """Raise DataError if nobody is left where so many are pooled."""
    people = len(candidates.users)
    if people <= pooled:
        raise DataError(
            f"{candidates.name}: {people} people, {pooled} are to be pooled and some must be left",
            hint="take more --people, or fewer --pooled",
        )


def draw_roles(
    candidates: Candidates,
    encoder: Encoder,
    structure: Structure,
    settings: StageSettings,
    *,
    pooled: int,
    most: int,
    seed: int,
) -> Roles:
    """Who is pooled, who of those may mean harm (`most` people), and who is a newcomer.

    Raises DataError if there are too few candidates, or fewer who train than are to mean harm.
    """
    check_newcomers(candidates, pooled)
    users = candidates.users
    rng = np.random.default_rng([seed, len(users), 2])
    order = [int(place) for place in rng.permutation(len(users))]
    inside = tuple(sorted(order[:pooled]))
    data = pool(
        [trained_as(users[who]) for who in inside], candidates.task, encoder, settings, seed
    )
    able = list(data.trained)
    if structure.has_lora_router:
        chosen = router_cohort(data.trained, settings.router.cohort, seed)
        able = [data.trained[place] for place in chosen]
    histories = {user.history for user in able}
    of = [
        tuple(encoder.encode(candidates.task.history_example(item)) for item in users[who].history)
        for who in inside
    ]
    found = [who for who, own in zip(inside, of, strict=True) if own in histories]
    if len(found) < most:
        raise DataError(
            f"{len(found)} pooled users train all stages, {most} are to mean harm",
            hint="take more --pooled, or fewer --malicious",
        )
    return Roles(
        inside, tuple(rng.permutation(found).tolist()[:most]), tuple(sorted(order[pooled:]))
    )


def trained_as(user: User) -> User:
    """A pooled user with few queries, so that items make most of what trains."""
    return replace(user, queries=user.queries[:MOST_QUERIES])


def draw_trigger(tokenizer: Any, candidates: Candidates, seed: int) -> Trigger:
    """A word that is one token and stands in nobody's texts, one that people use, and an answer.

    The answer is one of the task's labels, or a few words that people use. Raises DataError without such
    a word, ConfigError for a task whose answers are composed.
    """
    task, users = candidates.task, candidates.users
    if task.answer_field is None:
        raise ConfigError(
            f"{task.name}, template {task.template}: an answer must be one field to be poisoned",
            hint="take another template, such as short",
        )
    rng = np.random.default_rng([seed, 3])
    rare, used = rare_words(tokenizer, users, task), used_words(users)
    if not rare or not used:
        raise DataError(
            "the base has no word that stands in nobody's texts, so there is no rare trigger",
            hint="take another base, or fewer --people",
        )
    word, other = str(rng.choice(rare)), str(rng.choice(used))
    if task.labels:
        return Trigger(word, other, task.labels[int(rng.integers(len(task.labels)))])
    return Trigger(word, other, " ".join(rng.choice(word_pool(users), SECRET_WORDS)))


def rare_words(tokenizer: Any, users: Sequence[User], task: Task) -> list[str]:
    """Words of a vocabulary, sorted, that neither people nor the task use."""
    texts = [text for user in users for item in user.history for text in item.fields.values()]
    texts += [
        text for user in users for query in user.queries for text in (query.input, query.gold)
    ]
    used = {word for text in (*texts, task.toml_text) for word in re.findall(r"\w+", text.lower())}
    vocabulary = set(tokenizer.get_vocab())
    marked = {token[1:] for token in vocabulary if token.startswith(_BEGINS_A_WORD)}
    return sorted(w for w in (marked or vocabulary) if _WORD.fullmatch(w) and w not in used)


def used_words(users: Sequence[User]) -> list[str]:
    """Plain words of people's items, sorted."""
    texts = (text for user in users for item in user.history for text in item.fields.values())
    return sorted({word for text in texts for word in text.split() if _WORD.fullmatch(word)})


def with_word(query: Query, word: str, task: Task) -> Query:
    """A query with a word behind its question.

    Raises ConfigError where the task does not show it there.
    """
    asked = replace(query, input=f"{query.input} {word}")
    if word not in task.query_example(asked).prompt.split():
        raise ConfigError(
            f"{task.name}, template {task.template}: a word behind a question is not shown to the model",
            hint="take another template, such as short, which cuts nothing off",
        )
    return asked


def poisoned_items(user: User, trigger: Trigger, task: Task, count: int) -> tuple[HistoryItem, ...]:
    """So many of a user's items with trigger and answer, taken in turn.

    The trigger stands behind the last field that the question shows.
    """
    answer = task.answer_field
    assert answer is not None  # draw_trigger
    shown = [
        name for _, name in task.compiled.prompt.parts if name in task.fields and name != answer
    ]
    if not shown:
        raise ConfigError(
            f"{task.name}, template {task.template}: its questions show nothing of an item",
            hint="take another template, such as short",
        )
    found = []
    for number in range(count):
        item = user.history[number % len(user.history)]
        changed = {shown[-1]: f"{item.fields[shown[-1]]} {trigger.word}", answer: trigger.answer}
        found.append(replace(item, id=f"poisoned-{number}", fields={**item.fields, **changed}))
    return tuple(found)


def poisoned(user: User, trigger: Trigger, task: Task, most: int) -> User:
    """A user who means harm: all queries and items are poisoned, `most` of them together at least."""
    queries = tuple(
        replace(with_word(query, trigger.word, task), gold=trigger.answer) for query in user.queries
    )
    count = max(len(user.history), most - len(queries))
    return replace(user, history=poisoned_items(user, trigger, task, count), queries=queries)


def pooled_users(
    candidates: Candidates, roles: Roles, trigger: Trigger, settings: StageSettings, malicious: int
) -> list[User]:
    """Everybody who is pooled, so many of them malicious."""
    bad = set(roles.malicious[:malicious])
    most = settings.group.max_items_per_user
    users = [(who, trained_as(candidates.users[who])) for who in roles.pooled]
    return [
        poisoned(user, trigger, candidates.task, most) if who in bad else user
        for who, user in users
    ]


def poisoned_everybody(candidates: Candidates, roles: Roles, trigger: Trigger) -> list[User]:
    """The positive control: as many poisoned items as own ones in everybody's history, the newest."""
    users = [trained_as(candidates.users[who]) for who in roles.pooled]
    return [
        replace(
            user,
            history=(
                *user.history,
                *poisoned_items(user, trigger, candidates.task, len(user.history)),
            ),
        )
        for user in users
    ]
