"""`synth_tag`: which of LaMP-2M's 15 tags does this film get from this user?

Some topics get one tag from everybody, the others one of several candidates from each group, and
every user tags two topics as nobody else does. Source: docs/method.md 5.2.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from proper_model.tasks import HistoryItem, Query, User
from simulations.synthetic.films import (
    ADJECTIVES,
    FORMS,
    PLAIN_DOES,
    PLAIN_WHERE,
    PLAIN_WHO,
    TAGS,
    TOPICAL,
    TOPICS,
    Topic,
)
from simulations.synthetic.oracle import Question, categorical_oracle
from simulations.synthetic.settings import (
    Draft,
    Member,
    SyntheticSettings,
    filler,
    item_id,
    query_id,
    roster,
    words_of,
)

QUIRKS = 2
QUERY = (
    "Which tag does this movie relate to among the following tags? Just answer with the tag name "
    "without further explanation. tags: [" + ", ".join(TAGS) + "] description: {}"
)
CUE, ABOUT = "tag:", "about:"
SLOTS = ("{adjective}", "{who}", "{does}", "{where}")
# How many tags an unpersonalised text finds plausible for a topic.
PLAUSIBLE = 5


def build(settings: SyntheticSettings, rng: np.random.Generator) -> Draft:
    """Users, truth, oracle and pretraining texts of one synth_tag population."""
    topics = [TOPICS[i] for i in rng.permutation(len(TOPICS))[: settings.topics]]
    world = _World(settings, rng, topics, _rules(settings, rng))
    members = roster(settings, rng)
    users = tuple(world.user(member) for member in members)
    oracle = categorical_oracle(
        np.stack(world.counts),
        members,
        [Question(i, z, t, level) for i, asked in enumerate(world.asked) for z, t, level in asked],
        rng,
    )
    rules = [{topics[z].name: TAGS[row[z]] for z in range(len(topics))} for row in world.rules]
    return Draft(
        members=members,
        users=users,
        rules=rules,
        quirks=world.quirks,
        level=world.level,
        detail=world.detail,
        oracle=oracle,
        pretrain=_pretrain(settings, rng, topics),
        vocabulary=words_of(
            *(part for t in topics for part in (t.name, *t.who, *t.does, *t.where)),
            *(*FORMS, *ADJECTIVES, *PLAIN_WHO, *PLAIN_DOES, *PLAIN_WHERE, *TAGS, CUE, ABOUT),
        )
        - words_of(*SLOTS),
    )


def _rules(settings: SyntheticSettings, rng: np.random.Generator) -> NDArray[np.int64]:
    """Tag numbers `[groups, topics]`; the first topics have one tag for all."""
    rules = np.zeros((settings.groups, settings.topics), np.int64)
    for z in range(settings.topics):
        if z < settings.shared_topics:
            rules[:, z] = rng.integers(len(TAGS))
            continue
        pattern = rng.permutation(settings.groups)
        if settings.hard:
            pattern //= 2
        rules[:, z] = rng.choice(len(TAGS), settings.groups, replace=False)[pattern]
    return rules


@dataclass
class _World:
    """The rules, and what was written down while users were drawn."""

    settings: SyntheticSettings
    rng: np.random.Generator
    topics: list[Topic]
    rules: NDArray[np.int64]

    def __post_init__(self) -> None:
        self.quirks: dict[str, dict[str, str]] = {}
        self.level: dict[str, str] = {}
        self.detail: dict[str, dict[str, str]] = {}
        self.counts: list[NDArray[np.float64]] = []
        self.asked: list[list[tuple[int, int, str]]] = []

    def user(self, member: Member) -> User:
        s, rng = self.settings, self.rng
        rule = self.rules[member.group]
        quirk = {
            int(z): int(rng.choice([t for t in range(len(TAGS)) if t not in self.rules[:, z]]))
            for z in rng.choice(s.topics, QUIRKS, replace=False)
        }
        tag = {z: quirk.get(z, int(rule[z])) for z in range(s.topics)}
        self.quirks[member.user_id] = {self.topics[z].name: TAGS[t] for z, t in quirk.items()}
        return User(
            user_id=member.user_id,
            history=self._history(member, quirk, tag),
            queries=self._queries(member, quirk, tag),
        )

    def _history(
        self, member: Member, quirk: dict[int, int], tag: dict[int, int]
    ) -> tuple[HistoryItem, ...]:
        s, rng = self.settings, self.rng
        own = [z for z in quirk for _ in range(s.quirk_repeats)]
        rest = rng.integers(s.topics, size=max(0, member.history_items - len(own)))
        seen = rng.permutation([*own, *rest.tolist()])
        counts = np.zeros((s.topics, len(TAGS)))
        items = []
        for number, z in enumerate(seen.tolist()):
            noisy = rng.random() < s.noise
            label = int(rng.integers(len(TAGS))) if noisy else tag[z]
            counts[z, label] += 1
            name = item_id(member, number)
            self.detail[name] = {"topic": self.topics[z].name}
            text = _describe(s, rng, self.topics[z], member.group)
            items.append(HistoryItem(name, {"description": text, "tag": TAGS[label]}))
        self.counts.append(counts)
        return tuple(items)

    def _queries(
        self, member: Member, quirk: dict[int, int], tag: dict[int, int]
    ) -> tuple[Query, ...]:
        s, rng = self.settings, self.rng
        pools = {
            "pop": [z for z in range(s.shared_topics) if z not in quirk],
            "group": [z for z in range(s.shared_topics, s.topics) if z not in quirk],
            "user": list(quirk),
        }
        # Both quirks may lie on the shared topics, or on the groups', of a very small population.
        drawn = [
            (int(z), level)
            for level, pool in pools.items()
            if pool
            for z in rng.choice(pool, s.queries_per_level)
        ]
        queries = []
        for number, place in enumerate(rng.permutation(len(drawn)).tolist()):
            z, level = drawn[place]
            name = query_id(member, number)
            self.level[name] = level
            self.detail[name] = {"topic": self.topics[z].name}
            text = _describe(s, rng, self.topics[z], member.group)
            queries.append(Query(name, QUERY.format(text), TAGS[tag[z]]))
        self.asked.append([(z, tag[z], level) for z, level in drawn])
        return tuple(queries)


def _describe(
    settings: SyntheticSettings, rng: np.random.Generator, topic: Topic, group: int | None
) -> str:
    who, does, where = TOPICAL[int(rng.integers(len(TOPICAL)))]

    def phrase(own: int, topical: tuple[str, str], plain: tuple[str, ...]) -> str:
        return topical[int(rng.integers(2))] if own else filler(settings, rng, group, plain)

    return FORMS[int(rng.integers(len(FORMS)))].format(
        adjective=filler(settings, rng, group, ADJECTIVES),
        who=phrase(who, topic.who, PLAIN_WHO),
        does=phrase(does, topic.does, PLAIN_DOES),
        where=phrase(where, topic.where, PLAIN_WHERE),
    )


def _pretrain(
    settings: SyntheticSettings, rng: np.random.Generator, topics: list[Topic]
) -> tuple[str, ...]:
    """Descriptions with the name of their topic, or with a tag that is plausible to nobody.

    A language model knows what a text is about before it meets any user. The plausible tags are
    drawn without looking at any group's rule.
    """
    plausible = [rng.choice(len(TAGS), PLAUSIBLE, replace=False) for _ in topics]
    texts = []
    for number in range(settings.pretrain):
        z = int(rng.integers(len(topics)))
        text = _describe(settings, rng, topics[z], None)
        if number % 2:
            texts.append(f"{text} {ABOUT} {topics[z].name}")
        else:
            texts.append(f"{text} {CUE} {TAGS[int(rng.choice(plausible[z]))]}")
    return tuple(texts)
