"""Membership over several seeds: every seed attacked once and stored, then summed up.

    OUT/seeds/SEED.json    scores beside the truth of every attack of one finished seed
    OUT/membership.json    the result (`schema.PrivacyResult`)

A seed that is there is not trained again; the file says what it was made with, and another
configuration is refused rather than mixed in.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from proper_model.errors import CheckpointError, ConfigError
from proper_model.evaluation import holm
from proper_model.progress import Progress
from proper_model.settings import StageSettings, Structure, to_mapping
from proper_model.storage.documents import DocumentError, parse_object
from proper_model.storage.files import make_private_folder, read_regular, write_atomic
from simulations.outcome import environment
from simulations.privacy.membership.attacks import THINGS, attack
from simulations.privacy.membership.found import Control, Found, Level
from simulations.privacy.membership.population import Candidates, check_own_items
from simulations.privacy.results.schema import MERGED, Attack, Measured, PrivacyResult
from simulations.privacy.results.sentences import sentence
from simulations.privacy.statistics.measures import Advantage, Scored, measure
from simulations.privacy.statistics.shares import p_against, rng_of

LEVELS: tuple[Level, ...] = ("record", "person", "fresh")
DRAWS = 2000
LEAST_SHADOWS = 4
# Raised whenever an attack computes something else, so that seeds of before are not mixed in.
VERSION = 2
MAX_BYTES = 1 << 30
NOTES = (
    "membership is drawn by seed before training; half of the candidates are pooled, and half of a "
    "newcomer's items train the adapter",
    "positive controls: an adapter that saw its items far too often, a W_l that did, a prototype of "
    "one person each; negative controls: the public base, an adapter as it begins, no W_l, embeddings of "
    "other people",
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
        if "record" in self.levels:
            check_own_items(self.candidates.name, self.candidates.shared)

    @property
    def digest(self) -> str:
        """sha256 over all that a seed's scores depend on but the seed."""
        users = [
            [
                user.user_id,
                [dict(item.fields) for item in user.history],
                [q.input for q in user.queries],
            ]
            for user in self.candidates.users
        ]
        made = [
            VERSION,
            *(str(self.candidates.task), self.candidates.base, str(self.structure)),
            *(to_mapping(self.settings), self.things, self.levels, self.shadows, users),
        ]
        return hashlib.sha256(json.dumps(made, sort_keys=True, default=str).encode()).hexdigest()


def _known(what: str, asked: Sequence[str], known: Sequence[str]) -> None:
    unknown = sorted(set(asked) - set(known))
    if unknown or not asked:
        raise ConfigError(
            f"unknown {what} {unknown}" if unknown else f"no {what} to attack",
            hint="known: " + ", ".join(known),
        )


def membership(plan: Plan, *, out: Path, cache: Path, progress: Progress) -> PrivacyResult:
    """Attack what is missing and sum up all seeds."""
    found = [_seed(plan, seed, out / "seeds", cache, progress) for seed in plan.seeds]
    return summarized(plan, found)


def _seed(plan: Plan, seed: int, folder: Path, cache: Path, progress: Progress) -> list[Found]:
    path = folder / f"{seed}.json"
    stored = read_found(path, plan.digest)
    if stored is not None:
        return stored
    progress(f"seed {seed}", 0, 0)
    found = attack(
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
    if not found:
        raise ConfigError(
            f"preset '{plan.structure.name}' has nothing of {', '.join(plan.things)} at level "
            f"{', '.join(plan.levels)}",
            hint="router-cohort needs a preset with W_l (default, paper); adapters have records only",
        )
    make_private_folder(folder)
    write_atomic(path, json.dumps(_content(found, plan.digest)).encode())
    return found


def _content(found: Sequence[Found], digest: str) -> dict[str, Any]:
    rows = [
        {
            "thing": one.thing,
            "attack": one.attack,
            "level": one.level,
            "control": one.control,
            "score": one.scored.score.tolist(),
            "member": one.scored.member.tolist(),
            "owner": one.scored.owner.tolist(),
        }
        for one in found
    ]
    return {"digest": digest, "attacks": rows}


def read_found(path: Path, digest: str) -> list[Found] | None:
    """A finished seed's attacks; None if there is none. Raises CheckpointError for another's."""
    try:
        stored: Mapping[str, Any] = parse_object(read_regular(path, limit_bytes=MAX_BYTES))
    except FileNotFoundError:
        return None
    except DocumentError as error:
        raise _unusable(path, "is damaged") from error
    if stored.get("digest") != digest:
        raise _unusable(path, "was made with other data, options or settings")
    try:
        return [_found(row) for row in stored["attacks"]]
    except (KeyError, TypeError, ValueError):
        raise _unusable(path, "is damaged") from None


def _found(row: Mapping[str, Any]) -> Found:
    scored = Scored(
        np.array(row["score"], dtype=np.float64),
        np.array(row["member"], dtype=np.bool_),
        np.array(row["owner"], dtype=np.int64),
    )
    return Found(row["thing"], row["attack"], row["level"], row["control"], scored)


def _unusable(path: Path, why: str) -> CheckpointError:
    return CheckpointError(f"{path} {why}", hint="take another --out, or delete that file")


def pooled(scored: Sequence[Scored]) -> Scored:
    """Several seeds' scores in one, each seed's with mean 0 and deviation 1: scales differ."""
    parts = []
    for one in scored:
        spread = float(one.score.std())
        parts.append((one.score - one.score.mean()) / (spread if spread > 0 else 1.0))
    return Scored(
        np.concatenate(parts),
        np.concatenate([one.member for one in scored]),
        np.concatenate([one.owner for one in scored]),
    )


def p_value(found: Advantage) -> float:
    """Two-sided p of an AUC against .5; see `shares.p_against`."""
    return p_against(found.auc, found.low, found.high, 0.5, draws=DRAWS)


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
    p = {name: p_value(found) for name, found in whole.items()}
    attacks = holm({n: value for n, value in p.items() if _is_claim(by_name[n][0])})
    corrected = p | attacks
    rows = [
        _attack(found, whole[name], p[name], corrected[name]) for name, found in by_name.items()
    ]
    base = Path(plan.candidates.base)
    return PrivacyResult(
        task=plan.candidates.task.name,
        base=base.name if base.is_dir() else plan.candidates.base,
        preset=plan.structure.name,
        profile=plan.settings.name,
        seeds=list(plan.seeds),
        people=len(plan.candidates.users),
        records=sum(len(user.history) for user in plan.candidates.users),
        shared_items=plan.candidates.shared,
        hardware=environment.hardware(),
        commit=environment.commit(),
        attacks=rows,
        notes=list(NOTES),
    )


def _is_claim(one: Found) -> bool:
    """Whether it says something of a thing of ours: no control, nor a protocol that is judged."""
    return one.control == "none" and one.thing != MERGED


def _attack(found: Sequence[Found], whole: Advantage, p: float, corrected: float) -> Attack:
    one = found[0]
    control: Control = one.control
    per_seed = [
        Measured.of(measure(row.scored, rng=rng_of(f"{one.name}/{place}"), draws=DRAWS))
        for place, row in enumerate(found)
    ]
    return Attack(
        thing=one.thing,
        attack=one.attack,
        level=one.level,
        control=control,
        per_seed=per_seed,
        pooled=Measured.of(whole),
        p=p,
        p_holm=corrected,
        sentence=sentence(one.thing, one.level, whole, corrected),
    )
