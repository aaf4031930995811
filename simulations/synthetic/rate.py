"""`synth_rate`: how many points from 1 to 5 does this user give after such a review?

A review praises or pans three of six aspects. Each group cares for one aspect of its own, all care
for the last one, and every user is lenient, neutral or harsh. Source: docs/method.md 5.3.

DEVIATION from docs/method.md 5.1: queries are drawn without regard to their level. To balance
levels one would have to pick reviews that mention the aspect of the user's own group, and then the
text would tell the group.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from proper_model.tasks import HistoryItem, Query, User
from simulations.synthetic.oracle import Array, adjusted_rand
from simulations.synthetic.rate_oracle import Ratings, rating_oracle
from simulations.synthetic.settings import (
    LEVELS,
    Draft,
    Member,
    SyntheticSettings,
    filler,
    item_id,
    query_id,
    roster,
    words_of,
)

# Aspect: nouns, adjectives of praise, adjectives of blame. An adjective tells aspect and sign.
ASPECTS = (
    (("acting", "cast"), ("convincing", "heartfelt"), ("wooden", "stiff")),
    (("plot", "story"), ("gripping", "clever"), ("predictable", "muddled")),
    (("music", "songs"), ("soaring", "catchy"), ("shrill", "dreary")),
    (("camera", "pictures"), ("gorgeous", "crisp"), ("shaky", "blurry")),
    (("humor", "jokes"), ("hilarious", "witty"), ("stale", "cheap")),
    (("ending", "finale"), ("moving", "satisfying"), ("rushed", "pointless")),
)
MENTIONED = 3
NAMES = tuple(nouns[0] for nouns, _, _ in ASPECTS)
ARTICLES = ("the", "its", "their", "even the", "only the")
SEEM = ("felt", "became", "stayed", "turned", "looked")
JOINTS = ("and", "while", "then", "plus", "also")
QUERY = (
    "What is the score of the following review on a scale of 1 to 5? just answer with 1, 2, 3, 4, "
    "or 5 without further explanation. review: {}"
)
CUE = "score:"
SAID = ("bad", "nothing", "good")
OWN_WEIGHT, COMMON_WEIGHT = 1.2, 0.6
OFFSETS = (-1, 0, 1)


def build(settings: SyntheticSettings, rng: np.random.Generator) -> Draft:
    """Users, truth, oracle and pretraining texts of one synth_rate population."""
    weights = _weights(settings.groups)
    members = roster(settings, rng)
    offsets = _offsets(members, settings.groups, rng)
    world = _World(settings, rng, weights)
    users = tuple(
        User(member.user_id, world.history(member, offset), world.queries(member, offset))
        for member, offset in zip(members, offsets, strict=True)
    )
    oracle, found = rating_oracle(world.histories, world.asked, members, rng)
    pooled = [o + 1 for o, m in zip(offsets, members, strict=True) if not m.test]
    oracle["grouping"]["ari_offset"] = adjusted_rand(np.array(pooled), found)
    return Draft(
        members=members,
        users=users,
        rules=[dict(zip(NAMES, row.tolist(), strict=True)) for row in weights],
        quirks={m.user_id: {"offset": o} for m, o in zip(members, offsets, strict=True)},
        level=world.level,
        detail=world.detail,
        oracle=oracle,
        pretrain=_pretrain(settings, rng),
        vocabulary=words_of(
            *(word for kinds in ASPECTS for words in kinds for word in words),
            *(*ARTICLES, *SEEM, *JOINTS, *SAID, *(f"{name}:" for name in NAMES)),
            f"about {CUE} 1 2 3 4 5",
        ),
    )


class _World:
    """Writes users' reviews and notes what they praise and pan."""

    def __init__(
        self, settings: SyntheticSettings, rng: np.random.Generator, weights: Array
    ) -> None:
        self.settings, self.rng, self.weights = settings, rng, weights
        self.level: dict[str, str] = {}
        self.detail: dict[str, dict[str, dict[str, int]]] = {}
        self.histories: list[Ratings] = []
        self.asked: list[Ratings] = []

    def history(self, member: Member, offset: int) -> tuple[HistoryItem, ...]:
        seen = _draw(self.rng, member.history_items)
        meant = _score(seen, self.weights[member.group], offset)
        noisy = self.rng.random(len(seen)) < self.settings.noise
        given = np.where(noisy, self.rng.integers(1, 6, len(seen)), meant)
        self.histories.append(Ratings(seen, given.astype(float)))
        return tuple(
            HistoryItem(name, {"text": self._review(name, aspects, member), "score": str(score)})
            for name, aspects, score in zip(
                [item_id(member, number) for number in range(len(seen))],
                seen,
                given.tolist(),
                strict=True,
            )
        )

    def queries(self, member: Member, offset: int) -> tuple[Query, ...]:
        rule, everybody = self.weights[member.group], self.weights.mean(0)
        drawn = _draw(self.rng, len(LEVELS) * self.settings.queries_per_level)
        right = _score(drawn, rule, offset)
        queries = []
        for number, (aspects, score) in enumerate(zip(drawn, right.tolist(), strict=True)):
            name = query_id(member, number)
            self.level[name] = _level(aspects, rule, everybody, offset)
            text = self._review(name, aspects, member)
            queries.append(Query(name, QUERY.format(text), str(score)))
        levels = [self.level[query.id] for query in queries]
        self.asked.append(Ratings(drawn, right.astype(float), levels))
        return tuple(queries)

    def _review(self, name: str, aspects: Array, member: Member) -> str:
        signs = aspects.astype(int).tolist()
        self.detail[name] = {"aspects": dict(zip(NAMES, signs, strict=True))}
        return _review(self.settings, self.rng, aspects, member.group)


def _weights(groups: int) -> Array:
    weights = np.zeros((groups, len(ASPECTS)))
    weights[np.arange(groups), np.arange(groups)] = OWN_WEIGHT
    weights[:, -1] = COMMON_WEIGHT
    return weights


def _offsets(members: tuple[Member, ...], groups: int, rng: np.random.Generator) -> list[int]:
    """One offset a member, as even as can be within each group, pooled and unseen apart."""
    chosen = [0] * len(members)
    for test in (False, True):
        for group in range(groups):
            mine = [i for i, m in enumerate(members) if m.group == group and m.test is test]
            ring = rng.permutation(OFFSETS).tolist() * (len(mine) // len(OFFSETS) + 1)
            for i, offset in zip(mine, ring, strict=False):
                chosen[i] = int(offset)
    return chosen


def _draw(rng: np.random.Generator, count: int) -> Array:
    """`[count, aspects]` of -1, 0 and 1: three aspects a review, praised or panned."""
    aspects = np.zeros((count, len(ASPECTS)))
    for row in aspects:
        mentioned = rng.choice(len(ASPECTS), MENTIONED, replace=False)
        row[mentioned] = rng.choice([-1.0, 1.0], MENTIONED)
    return aspects


def _score(aspects: Array, weights: Array, offset: float) -> NDArray[np.int64]:
    return np.clip(np.round(3 + aspects @ weights + offset), 1, 5).astype(np.int64)


def _level(aspects: Array, rule: Array, everybody: Array, offset: int) -> str:
    """What decides the score: the offset, else the group's taste, else what all agree on."""
    review = aspects[None]
    if _score(review, rule, offset) != _score(review, rule, 0):
        return "user"
    return "group" if _score(review, rule, 0) != _score(review, everybody, 0) else "pop"


def _review(
    settings: SyntheticSettings, rng: np.random.Generator, aspects: Array, group: int | None
) -> str:
    def say(words: tuple[str, ...]) -> str:
        return filler(settings, rng, group, words)

    parts: list[str] = []
    for k in rng.permutation(np.flatnonzero(aspects)).tolist():
        nouns, praise, blame = ASPECTS[k]
        noun = nouns[int(rng.integers(2))]
        adjective = (praise if aspects[k] > 0 else blame)[int(rng.integers(2))]
        parts += [say(JOINTS)] if parts else []
        parts.append(f"{say(ARTICLES)} {noun} {say(SEEM)} {adjective}")
    return " ".join(parts)


def _pretrain(settings: SyntheticSettings, rng: np.random.Generator) -> tuple[str, ...]:
    """Reviews with what they say of one aspect, or with the score of an unknown critic.

    The critic of each text cares for one aspect drawn anew, so no group's taste can be learned.
    """
    texts = []
    for number, aspects in enumerate(_draw(rng, settings.pretrain)):
        text = _review(settings, rng, aspects, None)
        if number % 2:
            k = int(rng.integers(len(ASPECTS)))
            said = SAID[int(aspects[k]) + 1]
            texts.append(f"{text} about the {NAMES[k]}: {said}")
        else:
            taste = np.zeros(len(ASPECTS))
            taste[rng.integers(len(ASPECTS))] = OWN_WEIGHT
            score = _score(aspects[None], taste, float(rng.choice(OFFSETS)))[0]
            texts.append(f"{text} {CUE} {score}")
    return tuple(texts)
