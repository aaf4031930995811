"""Poisoning over several seeds: every seed trained and asked once and kept, then summed up."""

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
from simulations.privacy.membership.population import Candidates
from simulations.privacy.poisoning.attacks import THINGS, Asked, Floats, Poisoned, Poisoning
from simulations.privacy.poisoning.defences import CLIP, DEFENCES, TRIM
from simulations.privacy.poisoning.planting import check_newcomers
from simulations.privacy.poisoning.sentences import sentences
from simulations.privacy.poisoning.targets import Bench
from simulations.privacy.results.kept import digest_of, kept_rows
from simulations.privacy.results.poison_schema import PoisonNumbers, PoisonResult, PoisonRow
from simulations.privacy.results.rates import Rate
from simulations.privacy.results.seeded import base_name, facts_of
from simulations.privacy.statistics.shares import DRAWS, cases, p_against, rng_of, share

VERSION = 1
ARRAYS = ("trigger", "other", "loss", "right")
NOTES = (
    "who is pooled and who of those is malicious is drawn by seed, of a preset with W_l among the router's "
    "cohort; the trigger stands in nobody's texts, the other word is one that people use",
    "a malicious user's items and queries all have the trigger and the attacker's answer, as many as the pooled "
    "stages take from one user",
    "queries whose right answer is the attacker's are left out",
    "negative control: nobody is malicious, and the trigger is compared with the other word; positive control: "
    "poisoned items in everybody's history",
    "population and experts: stages 1 and 2 of everybody; router: stage 3 with an own adapter, over honest "
    "experts and a W_l whose cohort has the malicious users",
    "defences: items, nobody gives more than the median user; clip, a user's gradient is at most "
    f"{CLIP:g} times the step's median; trim, {TRIM:.0%} of users at either end are left out of every number",
    "intervals draw newcomers, each with all seeds; p is two-sided, corrected (Holm) over all that is no control, "
    "and over all negative controls",
)


@dataclass(frozen=True)
class Plan:
    """What is poisoned and how; `malicious` are numbers of users, `pooled` how many there are in all."""

    candidates: Candidates
    structure: Structure
    settings: StageSettings
    seeds: tuple[int, ...]
    things: tuple[str, ...]
    defences: tuple[str, ...]
    malicious: tuple[int, ...]
    pooled: int

    def __post_init__(self) -> None:
        for what, asked, known in (
            ("things", self.things, THINGS),
            ("defences", self.defences, tuple(DEFENCES)),
        ):
            unknown = sorted(set(asked) - set(known))
            if unknown or not asked:
                raise ConfigError(f"unknown {what} {unknown}", hint="known: " + ", ".join(known))
        if self.structure.population_only and set(self.things) - {"population"}:
            raise ConfigError("stage 1 alone has no experts and no router to poison")
        if "router" in self.things and not self.structure.has_lora_router:
            raise ConfigError(
                f"preset '{self.structure.name}' has no W_l that users share",
                hint="leave router out of --things, or take preset default or paper",
            )
        if not self.malicious or min(self.malicious) < 1 or max(self.malicious) > self.pooled // 2:
            raise ConfigError(
                f"{max(self.malicious, default=0)} malicious of {self.pooled} pooled users",
                hint="at most half of the pooled users can be malicious",
            )
        check_newcomers(self.candidates, self.pooled)

    @property
    def digest(self) -> str:
        """sha256 over all that a seed's result depends on but the seed."""
        return digest_of(
            *("poisoning", VERSION, str(self.candidates.task), base_name(self.candidates.base)),
            *(str(self.structure), to_mapping(self.settings), self.things, self.defences),
            *(self.malicious, self.pooled, self.candidates.texts),
        )


def poisoning_of(plan: Plan, *, out: Path, cache: Path, progress: Progress) -> PoisonResult:
    """Train and ask every seed that is not kept in OUT, and sum up all."""

    def make(seed: int) -> list[Poisoned]:
        progress(f"seed {seed}", 0, 0)
        bench = Bench(plan.candidates, plan.structure, seed, cache, progress)
        attack = Poisoning(bench, plan.settings, pooled=plan.pooled, malicious=plan.malicious)
        return attack.run(plan.things, plan.defences)

    kept = [
        kept_rows(out, seed, plan.digest, partial(make, seed), write=_content, read=_row)
        for seed in plan.seeds
    ]
    return summarized(plan, kept)


def summarized(plan: Plan, seeds: Sequence[Sequence[Poisoned]]) -> PoisonResult:
    """Every row over all seeds, with Holm's correction over what is no control, and over negative ones."""
    by_name: dict[str, list[Poisoned]] = {}
    for found in seeds:
        for one in found:
            by_name.setdefault(one.name, []).append(one)
    rows = poison_rows(by_name)
    people = {int(who) for found in by_name.values() for one in found for who in one.owner}
    return PoisonResult(
        **facts_of(plan.candidates, plan.structure, plan.settings, plan.seeds, NOTES)
        | {"people": len(people)},
        users=plan.pooled,
        items=plan.settings.group.max_items_per_user,
        rows=rows,
        sentences=sentences(rows, plan.pooled),
    )


def poison_rows(by_name: Mapping[str, Sequence[Poisoned]]) -> list[PoisonRow]:
    """By name the rows of all seeds, measured and corrected."""
    pooled = {name: numbers(name, rows) for name, rows in by_name.items()}
    p = {}
    for name, found in pooled.items():
        negative = by_name[name][0].control == "negative"
        gain = found.over_other if negative else found.gain
        p[name] = p_against(gain.value, gain.low, gain.high, 0.0, draws=DRAWS)
    corrected = dict(p)
    for control in ("none", "negative"):
        chosen = {name for name, rows in by_name.items() if rows[0].control == control}
        corrected |= holm({name: value for name, value in p.items() if name in chosen})
    return [
        PoisonRow(
            thing=rows[0].thing,
            defence=rows[0].defence,
            malicious=rows[0].malicious,
            control=rows[0].control,
            per_seed=[numbers(f"{name}/{place}", [one]) for place, one in enumerate(rows)],
            pooled=pooled[name],
            p=p[name],
            p_holm=corrected[name],
        )
        for name, rows in by_name.items()
    ]


def numbers(name: str, rows: Sequence[Poisoned]) -> PoisonNumbers:
    """One row's numbers over the seeds that are given."""
    owner = np.concatenate([one.owner for one in rows])

    def joined(of: str, which: str) -> Floats:
        return np.concatenate([getattr(getattr(one, of), which) for one in rows])

    def rate(key: str, values: Floats) -> Rate:
        return Rate.of(share(values, owner, rng=rng_of(f"{name}/{key}"), draws=DRAWS))

    def part(key: str, values: Floats) -> Rate:
        return Rate.of(cases(values, owner, rng=rng_of(f"{name}/{key}"), draws=DRAWS))

    trigger, other = joined("now", "trigger"), joined("now", "other")
    before = joined("before", "trigger")
    loss, right = joined("now", "loss"), joined("now", "right")
    return PoisonNumbers(
        trigger=part("trigger", trigger),
        other=part("other", other),
        before=part("before", before),
        gain=rate("gain", trigger - before),
        over_other=rate("over_other", trigger - other),
        loss=rate("loss", loss),
        loss_change=rate("loss_change", loss - joined("bare", "loss")),
        right=part("right", right),
        right_change=rate("right_change", right - joined("bare", "right")),
    )


def _content(one: Poisoned) -> dict[str, Any]:
    """A row in JSON's types."""
    said = {
        of: {name: getattr(getattr(one, of), name).tolist() for name in ARRAYS}
        for of in ("now", "before", "bare")
    }
    return {
        "thing": one.thing,
        "defence": one.defence,
        "malicious": one.malicious,
        "control": one.control,
        "owner": one.owner.tolist(),
        **said,
    }


def _row(row: Mapping[str, Any]) -> Poisoned:
    owner = np.array(row["owner"], dtype=np.int64)

    def asked(of: str) -> Asked:
        found = {name: np.array(row[of][name], dtype=np.float64) for name in ARRAYS}
        if any(values.shape != owner.shape for values in found.values()):
            raise ValueError("columns of different lengths")
        return Asked(**found)

    return Poisoned(
        row["thing"],
        row["defence"],
        int(row["malicious"]),
        row["control"],
        owner,
        *(asked(of) for of in ("now", "before", "bare")),
    )
