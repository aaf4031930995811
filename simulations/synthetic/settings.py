"""Sizes and knobs of the synthetic populations, and who is in them.

Source: docs/method.md 5.1 and 5.2. A preset names sizes that were chosen together; every number can be
overridden on its own.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal

import numpy as np

from proper_model.errors import ConfigError
from proper_model.tasks import User

Kind = Literal["synth_tag", "synth_rate", "synth_text"]
KINDS: tuple[Kind, ...] = ("synth_tag", "synth_rate", "synth_text")
LEVELS = ("pop", "group", "user")

# Log-normal history sizes, docs/method.md 5.2: median is `items`, cut to this range.
SMALLEST_HISTORY, LARGEST_HISTORY, SIZE_SPREAD = 12, 200, 0.6


@dataclass(frozen=True)
class SyntheticSettings:
    """What a population is made of.

    Attributes:
        kind: which of the three tasks.
        groups: planted groups, 2 to 5.
        users_per_group, test_users_per_group: pooled users and unseen users of every group.
        items: history items a user, or their median with `sizes="lognormal"`.
        queries_per_level: queries of each level a user; synth_rate draws three times as many
            without regard to level (see synthetic_rate).
        topics, shared_topics: synth_tag only; the first `shared_topics` have one tag for all.
        quirk_repeats: history items on each private quirk.
        noise: share of history labels replaced by a random one.
        leak_text: share of filler words drawn from a list typical of the user's group; 0 keeps
            all text free of user information.
        hard: synth_tag only; two groups share a candidate tag, so one item seldom tells a group.
        sizes: whether all histories are equally long.
        pretrain: number of unpersonalised texts for the tiny base.
    """

    kind: Kind
    groups: int = 5
    users_per_group: int = 30
    test_users_per_group: int = 8
    items: int = 24
    seed: int = 0
    queries_per_level: int = 6
    topics: int = 24
    shared_topics: int = 8
    quirk_repeats: int = 2
    noise: float = 0.03
    leak_text: float = 0.0
    hard: bool = False
    sizes: Literal["fixed", "lognormal"] = "fixed"
    pretrain: int = 4000

    def __post_init__(self) -> None:
        _check(self.kind in KINDS, f"kind must be one of {', '.join(KINDS)}")
        _check(2 <= self.groups <= 5, f"groups must be 2 to 5, got {self.groups}")
        for name in ("users_per_group", "test_users_per_group", "queries_per_level", "pretrain"):
            _check(
                getattr(self, name) >= 1, f"{name} must be at least 1, got {getattr(self, name)}"
            )
        _check(
            2 <= self.shared_topics <= self.topics - 2 and self.topics <= 24,
            f"topics must be at most 24 and leave two shared ones and two of the groups, got "
            f"{self.topics} with {self.shared_topics} shared",
        )
        _check(self.quirk_repeats >= 1, f"quirk_repeats must be at least 1: {self.quirk_repeats}")
        _check(
            self.items > 2 * self.quirk_repeats,
            f"items must exceed the {2 * self.quirk_repeats} that quirks take, got {self.items}",
        )
        for name in ("noise", "leak_text"):
            _check(0 <= getattr(self, name) <= 1, f"{name} must be between 0 and 1")
        _check(self.sizes in ("fixed", "lognormal"), "sizes must be 'fixed' or 'lognormal'")


def _check(condition: bool, message: str) -> None:
    if not condition:
        raise ConfigError(f"synthetic population: {message}")


PRESETS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        # docs/method.md 5.5: the sizes of the assertions.
        "easy": {},
        # Five groups share three candidate tags a topic.
        "hard": {"hard": True, "items": 48},
        # A negative control: nobody can find the groups, so whoever does has found a leak.
        "sparse": {"items": 8},
        # Minutes on two cores, and still learnable level by level.
        "demo": {
            "groups": 3,
            "users_per_group": 8,
            "test_users_per_group": 3,
            "topics": 16,
            "shared_topics": 5,
            "noise": 0.0,
        },
        # Seconds: plumbing only.
        "smoke": {
            "groups": 3,
            "users_per_group": 6,
            "test_users_per_group": 2,
            "items": 12,
            "topics": 8,
            "shared_topics": 3,
            "queries_per_level": 2,
            "pretrain": 600,
        },
    }
)


def settings_for(kind: str, preset: str, knobs: Mapping[str, Any]) -> SyntheticSettings:
    """The preset with some numbers replaced. Raises ConfigError for unknown names."""
    if preset not in PRESETS:
        raise ConfigError(
            f"synthetic population: unknown preset '{preset}'",
            hint="presets are: " + ", ".join(PRESETS),
        )
    known = {f.name for f in dataclasses.fields(SyntheticSettings)} - {"kind"}
    unknown = sorted(set(knobs) - known)
    if unknown:
        raise ConfigError(
            f"synthetic population: unknown setting {', '.join(unknown)}",
            hint="known: " + ", ".join(sorted(known)),
        )
    return SyntheticSettings(**{"kind": kind, **PRESETS[preset], **knobs})


@dataclass(frozen=True)
class Member:
    """One user before anything is written: `history_items` is the length of the history."""

    user_id: str
    group: int
    test: bool
    history_items: int


def roster(settings: SyntheticSettings, rng: np.random.Generator) -> tuple[Member, ...]:
    """All users, pooled first. Neither the id nor the place in the list tells the group."""
    members: list[tuple[int, bool]] = []
    for test, count in ((False, settings.users_per_group), (True, settings.test_users_per_group)):
        groups = rng.permutation(np.repeat(np.arange(settings.groups), count))
        members.extend((int(g), test) for g in groups)
    return tuple(
        Member(str(1000 + i), group, test, _history_size(settings, rng))
        for i, (group, test) in enumerate(members)
    )


def _history_size(settings: SyntheticSettings, rng: np.random.Generator) -> int:
    if settings.sizes == "fixed":
        return settings.items
    drawn = round(float(settings.items * np.exp(SIZE_SPREAD * rng.standard_normal())))
    return min(max(drawn, SMALLEST_HISTORY), LARGEST_HISTORY)


def query_id(member: Member, number: int) -> str:
    """Id of a user's query; no query of another user and no history item has it."""
    return f"{member.user_id}{number:03d}"


def item_id(member: Member, number: int) -> str:
    """Id of a user's history item, longer than any query's."""
    return f"{member.user_id}9{number:04d}"


def filler(
    settings: SyntheticSettings, rng: np.random.Generator, group: int | None, words: Sequence[str]
) -> str:
    """A word that says nothing about the answer; with `leak_text` it says who writes."""
    if group is not None and settings.leak_text and rng.random() < settings.leak_text:
        words = words[group :: settings.groups]
    return words[int(rng.integers(len(words)))]


@dataclass(frozen=True)
class Draft:
    """What one kind's generator hands over.

    Attributes:
        members, users: in the same order.
        rules: what each group does, readable.
        quirks: user id to what only this user does.
        level: query id to the level that decides its answer.
        detail: query or item id to what its text was made from.
        oracle: stage to what an ideal estimator reaches, and `grouping`.
        pretrain: unpersonalised texts, in the form the prompts have.
        vocabulary: every word a text, prompt or answer can hold.
    """

    members: tuple[Member, ...]
    users: tuple[User, ...]
    rules: Any
    quirks: dict[str, Any]
    level: dict[str, str]
    detail: dict[str, Any]
    oracle: dict[str, Any]
    pretrain: tuple[str, ...]
    vocabulary: frozenset[str]


def words_of(*texts: str) -> frozenset[str]:
    """All words, as the tiny base's tokenizer splits them."""
    return frozenset(word for text in texts for word in text.split())
