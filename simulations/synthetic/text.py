"""`synth_text`: how would this user put that sentence?

Each group has its own word for 20 everyday things and its own opener; each user signs off with two
private letters and has a private nickname for one thing. All style is in words, because ROUGE sees
neither case nor punctuation. Source: docs/method.md 5.4.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from proper_model.tasks import HistoryItem, Query, User
from simulations.synthetic.oracle import Question, categorical_oracle
from simulations.synthetic.sentences import (
    NICKNAMES,
    OPENERS,
    PATTERNS,
    PLAIN_THINGS,
    SIGN_OFFS,
    SYNONYMS,
    THINGS,
    TIMES,
)
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

QUERY = "Paraphrase the following tweet without any explanation before or after it: {}"
CUE = "tweet:"
# A history shows at most this many of the 20 things, so that the rest must come from the group.
THINGS_SEEN = 8
# Situations of the oracle after the things themselves.
OPENER, SIGN_OFF = len(THINGS), len(THINGS) + 1


def build(settings: SyntheticSettings, rng: np.random.Generator) -> Draft:
    """Users, truth, oracle and pretraining texts of one synth_text population."""
    table = [rng.permutation(len(SYNONYMS[thing])).tolist() for thing in THINGS]
    openers = rng.permutation(len(OPENERS)).tolist()
    members = roster(settings, rng)
    styles = [
        _Style(
            things=[row[member.group] for row in table],
            opener=openers[member.group],
            sign_off=int(rng.integers(len(SIGN_OFFS))),
            nicknamed=int(rng.integers(len(THINGS))),
            nickname=int(rng.integers(len(NICKNAMES))),
        )
        for member in members
    ]
    world = _World(settings, rng)
    users = tuple(
        User(member.user_id, world.history(member, style), world.queries(place, member, style))
        for place, (member, style) in enumerate(zip(members, styles, strict=True))
    )
    rules = [
        {"opener": OPENERS[openers[g]]}
        | {thing: SYNONYMS[thing][table[z][g]] for z, thing in enumerate(THINGS)}
        for g in range(settings.groups)
    ]
    return Draft(
        members=members,
        users=users,
        rules=rules,
        quirks={m.user_id: style.quirks() for m, style in zip(members, styles, strict=True)},
        level=world.level,
        detail=world.detail,
        oracle=categorical_oracle(np.stack(world.counts), members, world.questions, rng),
        pretrain=_pretrain(settings, rng),
        vocabulary=words_of(
            *(word for own in SYNONYMS.values() for word in own),
            *(*THINGS, *PLAIN_THINGS, *TIMES, *OPENERS, *SIGN_OFFS, *NICKNAMES, CUE),
            *(pattern.format("", "", "") for pattern in PATTERNS),
        ),
    )


class _World:
    """Writes users' sentences and notes what they are made of."""

    def __init__(self, settings: SyntheticSettings, rng: np.random.Generator) -> None:
        self.settings, self.rng = settings, rng
        self.level: dict[str, str] = {}
        self.detail: dict[str, dict[str, dict[str, str]]] = {}
        self.counts: list[NDArray[np.float64]] = []
        self.questions: list[Question] = []

    def history(self, member: Member, style: _Style) -> tuple[HistoryItem, ...]:
        seen = np.zeros((len(THINGS) + 2, len(SIGN_OFFS) + len(NICKNAMES)))
        items = []
        for number, thing in enumerate(_history_things(self.settings, self.rng, member, style)):
            plain = _sentence(self.settings, self.rng, [thing], member.group)
            name = item_id(member, number)
            self.detail[name] = {"slots": style.slots([thing])}
            for z in (thing, OPENER, SIGN_OFF):
                seen[z, style.answer(z)] += 1
            items.append(HistoryItem(name, {"text": style.rewrite(plain), "plain": plain}))
        self.counts.append(seen)
        return tuple(items)

    def queries(self, place: int, member: Member, style: _Style) -> tuple[Query, ...]:
        asked = [level for level in LEVELS for _ in range(self.settings.queries_per_level)]
        queries = []
        for number, level in enumerate(self.rng.permutation(asked).tolist()):
            things = _query_things(self.rng, level, style)
            plain = _sentence(self.settings, self.rng, things, member.group)
            name = query_id(member, number)
            self.level[name] = level
            self.detail[name] = {"slots": style.slots(things)}
            queries.append(Query(name, QUERY.format(plain), style.rewrite(plain)))
            self.questions += [
                Question(place, z, style.answer(z), style.level(z))
                for z in (*things, OPENER, SIGN_OFF)
            ]
        return tuple(queries)


@dataclass(frozen=True)
class _Style:
    """How one user writes. Numbers index the lists in `sentences`."""

    things: list[int]
    opener: int
    sign_off: int
    nicknamed: int
    nickname: int

    def answer(self, situation: int) -> int:
        """The oracle's number of what this user writes; nicknames follow the synonyms."""
        if situation == self.nicknamed:
            return len(SIGN_OFFS) + self.nickname
        special = {OPENER: self.opener, SIGN_OFF: self.sign_off}
        return special[situation] if situation in special else self.things[situation]

    def level(self, situation: int) -> str:
        return "user" if situation in (self.nicknamed, SIGN_OFF) else "group"

    def word(self, situation: int) -> str:
        if situation == OPENER:
            return OPENERS[self.opener]
        if situation == SIGN_OFF:
            return SIGN_OFFS[self.sign_off]
        if situation == self.nicknamed:
            return NICKNAMES[self.nickname]
        return SYNONYMS[THINGS[situation]][self.things[situation]]

    def rewrite(self, plain: str) -> str:
        own = {thing: self.word(z) for z, thing in enumerate(THINGS)}
        words = [own.get(word, word) for word in plain.split()]
        return " ".join([self.word(OPENER), *words, self.word(SIGN_OFF)])

    def slots(self, situations: list[int]) -> dict[str, str]:
        """Words of the rewritten sentence that only some people would write, with their level."""
        return {self.word(z): self.level(z) for z in [*situations, OPENER, SIGN_OFF]}

    def quirks(self) -> dict[str, str]:
        return {
            "sign_off": SIGN_OFFS[self.sign_off],
            "nicknamed": THINGS[self.nicknamed],
            "nickname": NICKNAMES[self.nickname],
        }


def _history_things(
    settings: SyntheticSettings, rng: np.random.Generator, member: Member, style: _Style
) -> list[int]:
    """The thing of every history sentence, one of a few that differ from user to user."""
    others = [z for z in range(len(THINGS)) if z != style.nicknamed]
    familiar = rng.choice(others, THINGS_SEEN - 1, replace=False)
    own = [style.nicknamed] * min(settings.quirk_repeats, member.history_items)
    rest = rng.choice(familiar, member.history_items - len(own)).tolist()
    return [int(z) for z in rng.permutation([*own, *rest])]


def _query_things(rng: np.random.Generator, level: str, style: _Style) -> list[int]:
    if level == "pop":
        return []
    if level == "user":
        return [style.nicknamed]
    others = [z for z in range(len(THINGS)) if z != style.nicknamed]
    return [int(rng.choice(others))]


def _sentence(
    settings: SyntheticSettings, rng: np.random.Generator, things: list[int], group: int | None
) -> str:
    """A plain sentence of two nouns, some of them `things`; the rest nobody rewrites."""
    words = [THINGS[z] for z in things]
    while len(words) < 2:
        plain = PLAIN_THINGS[int(rng.integers(len(PLAIN_THINGS)))]
        words += [plain] if plain not in words else []
    first, second = rng.permutation(words).tolist()
    pattern = filler(settings, rng, group, PATTERNS)
    time = filler(settings, rng, group, TIMES)
    return pattern.format(first, second, time)


def _pretrain(settings: SyntheticSettings, rng: np.random.Generator) -> tuple[str, ...]:
    """Sentences rewritten by somebody whose style is drawn anew for every text."""
    texts = []
    for _ in range(settings.pretrain):
        style = _Style(
            things=rng.integers(len(OPENERS), size=len(THINGS)).tolist(),
            opener=int(rng.integers(len(OPENERS))),
            sign_off=int(rng.integers(len(SIGN_OFFS))),
            nicknamed=int(rng.integers(len(THINGS))),
            nickname=int(rng.integers(len(NICKNAMES))),
        )
        wanted = int(rng.integers(3))
        things = [int(z) for z in rng.choice(len(THINGS), wanted, replace=False)]
        if wanted and rng.random() < 0.25:
            things[0] = style.nicknamed
            things = list(dict.fromkeys(things))
        plain = _sentence(settings, rng, things, None)
        texts.append(f"{plain} {CUE} {style.rewrite(plain)}")
    return tuple(texts)
