"""Synthetic populations whose truth is known: who is in which group, and what decides each answer.

`make_synthetic` plants groups and private quirks in films to tag, reviews to score, or sentences to
rewrite; `write_synthetic` writes them in the formats that real data come in. Source: docs/method.md 5.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from proper_model.data import write_oppu
from proper_model.storage.files import write_atomic
from proper_model.tasks import Population, User
from simulations.synthetic import rate, tag
from simulations.synthetic import text as synthetic_text
from simulations.synthetic.settings import KINDS, Draft, SyntheticSettings, settings_for

SCHEMA = 1

# LaMP's name of the task whose form a kind has.
LAMP_TASK = {"synth_tag": "LaMP_2", "synth_rate": "LaMP_3", "synth_text": "LaMP_7"}

BUILDERS: dict[str, Callable[[SyntheticSettings, np.random.Generator], Draft]] = {
    "synth_tag": tag.build,
    "synth_rate": rate.build,
    "synth_text": synthetic_text.build,
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


def write_synthetic(synthetic: SyntheticPopulation, folder: Path) -> Path:
    """Write `oppu/`, `lamp/`, `pretrain.jsonl` and `truth.json` into `folder`; return `folder`.

    `oppu/` is OPPU's file set (docs/method.md 2.1), `lamp/` LaMP's raw one (docs/method.md 4.1) with the pooled
    users as its train split and the unseen users as its test split. Existing files are replaced.
    """
    folder.mkdir(parents=True, exist_ok=True)
    write_oppu(synthetic.population, folder / "oppu")
    lamp = folder / "lamp"
    lamp.mkdir(exist_ok=True)
    for split, users in (
        ("train", synthetic.population.pooled),
        ("test", synthetic.population.test),
    ):
        questions, outputs = _lamp_form(users, LAMP_TASK[synthetic.task])
        write_atomic(lamp / f"{split}_questions.json", _json(questions))
        write_atomic(lamp / f"{split}_outputs.json", _json(outputs))
    lines = [json.dumps({"text": text}) + "\n" for text in synthetic.pretrain_texts]
    write_atomic(folder / "pretrain.jsonl", "".join(lines).encode())
    write_atomic(folder / "truth.json", _json(synthetic.truth))
    return folder


def _lamp_form(users: Sequence[User], task: str) -> tuple[list[Any], dict[str, Any]]:
    questions, golds = [], []
    for user in users:
        profile = [{"id": item.id, **item.fields} for item in user.history]
        for query in user.queries:
            questions.append(
                {
                    "id": query.id,
                    "input": query.input,
                    "profile": profile,
                    "user_id": user.user_id,
                }
            )
            golds.append({"id": query.id, "output": query.gold})
    return questions, {"task": task, "golds": golds}


def _json(value: Any) -> bytes:
    return (json.dumps(value, indent=1, sort_keys=True) + "\n").encode()
