"""Synthetic populations whose truth is known: who is in which group, and what decides each answer.

`make_synthetic` plants groups and private quirks in films to tag, reviews to score, or sentences to
rewrite. Source: docs/method.md 5.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from proper_model.tasks import Population
from simulations.synthetic import rate, tag, text
from simulations.synthetic.settings import KINDS, Draft, SyntheticSettings, settings_for

SCHEMA = 1

BUILDERS: dict[str, Callable[[SyntheticSettings, np.random.Generator], Draft]] = {
    "synth_tag": tag.build,
    "synth_rate": rate.build,
    "synth_text": text.build,
}


@dataclass(frozen=True)
class SyntheticPopulation:
    """A population with its truth.

    Attributes:
        settings: everything it was made from; the same settings make the same population.
        population: pooled and unseen users, as readers of real data return them.
        truth: what truth.json holds, see `make_synthetic`.
        pretrain_texts: unpersonalised prompts with answers, to give a tiny base the language.
        vocabulary: every word of prompts and answers, sorted.
    """

    settings: SyntheticSettings
    population: Population
    truth: dict[str, Any]
    pretrain_texts: tuple[str, ...]
    vocabulary: tuple[str, ...]

    @property
    def task(self) -> str:
        """Name of the shipped task file."""
        return self.settings.kind


def make_synthetic(kind: str, *, preset: str = "easy", **knobs: Any) -> SyntheticPopulation:
    """A population of one kind: `synth_tag`, `synth_rate` or `synth_text`.

    Args:
        kind: the task.
        preset: sizes chosen together: easy, hard, sparse, demo or smoke.
        knobs: fields of `SyntheticSettings` to replace, such as `seed`, `items`, `leak_text`.

    The truth holds, JSON-ready: `groups` (user to group), `rules` (one a group), `quirks` (user to
    what only this user does), `level` (query to pop, group or user), `gold` (query to answer),
    `detail` (query or history item to what its text was made from) and `oracle` (stage to task to
    level to what an ideal estimator reaches, and under `grouping` how well it groups users).

    Raises:
        ConfigError: an unknown kind, preset or knob, or one out of range.
    """
    settings = settings_for(kind, preset, knobs)
    # Kinds draw from streams of their own, so that one seed does not align their groups.
    rng = np.random.default_rng([settings.seed, KINDS.index(settings.kind)])
    draft = BUILDERS[settings.kind](settings, rng)
    pairs = list(zip(draft.members, draft.users, strict=True))
    population = Population(
        name=settings.kind,
        pooled=tuple(user for member, user in pairs if not member.test),
        test=tuple(user for member, user in pairs if member.test),
    )
    return SyntheticPopulation(
        settings=settings,
        population=population,
        truth=_truth(settings, draft),
        pretrain_texts=draft.pretrain,
        vocabulary=tuple(sorted(draft.vocabulary)),
    )


def _truth(settings: SyntheticSettings, draft: Draft) -> dict[str, Any]:
    return {
        "schema": SCHEMA,
        "kind": settings.kind,
        "settings": dataclasses.asdict(settings),
        "groups": {member.user_id: member.group for member in draft.members},
        "rules": draft.rules,
        "quirks": draft.quirks,
        "level": draft.level,
        "gold": {query.id: query.gold for user in draft.users for query in user.queries},
        "detail": draft.detail,
        "oracle": {stage: {settings.kind: scores} for stage, scores in draft.oracle.items()},
    }
