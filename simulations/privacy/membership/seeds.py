"""Membership over several seeds: every seed attacked once and stored, then summed up.

    OUT/seeds/SEED.json    scores beside the truth of every attack of one finished seed
    OUT/membership.json    the result (`schema.PrivacyResult`)

A seed that is there is not trained again; the file says what it was made with, and another
configuration is refused rather than mixed in.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from proper_model.errors import ConfigError
from proper_model.evaluation import holm
from proper_model.progress import Progress
from proper_model.settings import StageSettings, Structure, to_mapping
from simulations.privacy.membership.attacks import THINGS, attack, why_not
from simulations.privacy.membership.found import Found, Level
from simulations.privacy.membership.population import Candidates, check_own_items
from simulations.privacy.results.kept import digest_of, kept_rows
from simulations.privacy.results.schema import MERGED, Attack, Measured, PrivacyResult
from simulations.privacy.results.seeded import facts_of
from simulations.privacy.results.sentences import sentence
from simulations.privacy.statistics.measures import Advantage, Scored, measure, p_of_auc, pooled
from simulations.privacy.statistics.shares import DRAWS, rng_of

LEVELS: tuple[Level, ...] = ("record", "person", "fresh")
LEAST_SHADOWS = 4
# Raised whenever an attack computes something else, so that seeds of before are not mixed in.
VERSION = 2
NOTES = (
    "membership is drawn by seed before training; half of the candidates are pooled, and half of a "
    "newcomer's items train the adapter",
    "positive controls: an adapter that saw its items far too often, a W_l or a common start that did, a "
    "prototype or a center of one person each; negative controls: the public base, an adapter as it begins, no "
    "W_l, no start or one of other people, embeddings and features of other people",
    "LiRA and RMIA compare with models that the attacker trains on random halves of the same records",
    "intervals draw people, each with all seeds; p is two-sided against .5 from the interval's "
    "width, corrected (Holm) over all attacks that are no control, but not over 'merged', which judges "
    "a protocol",
    "a negative control fails where its p, corrected over all negative controls, is below .05",
)


@dataclass(frozen=True)
class Plan:
    """What is attacked and how."""

    candidates: Candidates
    structure: Structure
    settings: StageSettings
    seeds: tuple[int, ...]
    things: tuple[str, ...]
    levels: tuple[Level, ...]
    shadows: int = 0

    def __post_init__(self) -> None:
        _known("things", self.things, THINGS)
        _known("levels", self.levels, LEVELS)
        if not self.seeds or len(set(self.seeds)) != len(self.seeds):
            raise ConfigError("--seeds needs one or more different seeds", hint="such as 0,1,2,3,4")
        if self.shadows and (self.shadows < LEAST_SHADOWS or self.shadows % 2):
            raise ConfigError(
                f"{self.shadows} shadows, expected none or an even number from {LEAST_SHADOWS} on",
                hint="they are drawn in pairs, and every record must be out of two of them",
            )
        kind = self.structure, self.settings, self.levels, len(self.candidates.users)
        reasons = [why_not(thing, *kind) for thing in self.things]
        if None not in reasons:
            said = "; ".join(dict.fromkeys(map(str, reasons)))
            raise ConfigError(
                f"nothing to attack: {said}", hint="change --things, --level, --preset or --profile"
            )
        if "record" in self.levels:
            check_own_items(self.candidates.name, self.candidates.shared)

    @property
    def digest(self) -> str:
        """sha256 over all that a seed's scores depend on but the seed."""
        return digest_of(
            VERSION,
            *(str(self.candidates.task), self.candidates.base, str(self.structure)),
            *(to_mapping(self.settings), self.things, self.levels, self.shadows),
            self.candidates.texts,
        )


def _known(what: str, asked: Sequence[str], known: Sequence[str]) -> None:
    unknown = sorted(set(asked) - set(known))
    if unknown or not asked:
        raise ConfigError(
            f"unknown {what} {unknown}" if unknown else f"no {what} to attack",
            hint="known: " + ", ".join(known),
        )


def membership(plan: Plan, *, out: Path, cache: Path, progress: Progress) -> PrivacyResult:
    """Attack every seed that is not kept in OUT, and sum up all."""

    def make(seed: int) -> list[Found]:
        progress(f"seed {seed}", 0, 0)
        return attack(
            plan.candidates,
            plan.structure,
            plan.settings,
            seed=seed,
            cache=cache,
            things=plan.things,
            levels=plan.levels,
            shadows=plan.shadows,
            progress=progress,
        )

    return summarized(
        plan,
        [
            kept_rows(out, seed, plan.digest, partial(make, seed), write=_content, read=_found)
            for seed in plan.seeds
        ],
    )


def _content(one: Found) -> dict[str, Any]:
    return {
        "thing": one.thing,
        "attack": one.attack,
        "level": one.level,
        "control": one.control,
        "score": one.scored.score.tolist(),
        "member": one.scored.member.tolist(),
        "owner": one.scored.owner.tolist(),
    }


def _found(row: Mapping[str, Any]) -> Found:
    scored = Scored(
        np.array(row["score"], dtype=np.float64),
        np.array(row["member"], dtype=np.bool_),
        np.array(row["owner"], dtype=np.int64),
    )
    return Found(row["thing"], row["attack"], row["level"], row["control"], scored)


def summarized(plan: Plan, seeds: Sequence[Sequence[Found]]) -> PrivacyResult:
    """Measures of every attack, a seed and pooled, with Holm's correction over those that are none
    of the controls.
    """
    by_name: dict[str, list[Found]] = {}
    for found in seeds:
        for one in found:
            by_name.setdefault(one.name, []).append(one)
    whole = {
        name: measure(pooled([one.scored for one in rows]), rng=rng_of(name), draws=DRAWS)
        for name, rows in by_name.items()
    }
    p = {name: p_of_auc(found, draws=DRAWS) for name, found in whole.items()}
    attacks = holm({n: value for n, value in p.items() if _is_claim(by_name[n][0])})
    corrected = p | attacks
    rows = [
        _attack(found, whole[name], p[name], corrected[name]) for name, found in by_name.items()
    ]
    return PrivacyResult(
        **facts_of(plan.candidates, plan.structure, plan.settings, plan.seeds, NOTES),
        records=sum(len(user.history) for user in plan.candidates.users),
        shared_items=plan.candidates.shared,
        attacks=rows,
    )


def _is_claim(one: Found) -> bool:
    """Whether it says something of a thing of ours: no control, nor a protocol that is judged."""
    return one.control == "none" and one.thing != MERGED


def _attack(found: Sequence[Found], whole: Advantage, p: float, corrected: float) -> Attack:
    one = found[0]
    per_seed = [
        Measured.of(measure(row.scored, rng=rng_of(f"{one.name}/{place}"), draws=DRAWS))
        for place, row in enumerate(found)
    ]
    return Attack(
        thing=one.thing,
        attack=one.attack,
        level=one.level,
        control=one.control,
        per_seed=per_seed,
        pooled=Measured.of(whole),
        p=p,
        p_holm=corrected,
        sentence=sentence(one.thing, one.level, whole, corrected),
    )
