"""Attacks that succeed with some people and fail with others: their file, summed up over seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import Field, model_validator

from proper_model.evaluation import holm
from simulations.outcome.results import Number, Strict, read_document
from simulations.privacy.results.seeded import SeededResult
from simulations.privacy.statistics.shares import (
    Control,
    Share,
    Tried,
    cases,
    p_against,
    rng_of,
    share,
    worst_decile,
)

Experiment = Literal["linkage", "inversion"]


class Rate(Strict):
    """How often an attack succeeded, with its interval over people; see `shares.Share`."""

    value: Number
    low: Number
    high: Number
    n_owners: int = Field(ge=1)

    @classmethod
    def of(cls, found: Share) -> Rate:
        """The file's form of what was measured."""
        return cls(**asdict(found))


class Rated(Strict):
    """One attack; `pooled` is over all seeds, people being drawn with all their seeds.

    `rank` is the mean place of the right answer among `ranked`, where answers were compared; guessing
    gives (ranked + 1) / 2. `worst_decile` is the success with the tenth of people with whom it is best; the
    negative control says what choosing them makes of chance. p is two-sided against `chance`; `p_holm` corrects over the file.
    """

    scope: str
    thing: str
    attack: str
    control: Control
    chance: Number
    per_seed: list[Rate] = Field(min_length=1)
    pooled: Rate
    worst_decile: Number
    rank: Rate | None
    ranked: int | None
    p: Number
    p_holm: Number


class RateResult(SeededResult):
    """One file: all attacks of one experiment; `sentences` are for a record of processing."""

    experiment: Experiment
    sentences: list[str]
    attacks: list[Rated] = Field(min_length=1)

    @model_validator(mode="after")
    def _seeds_fit(self) -> RateResult:
        self.check_rows(self.attacks)
        return self


def read_rates(path: Path) -> RateResult:
    """Parse one file. Raises ReportError naming the file and the first bad field."""
    make = "proper-sim privacy linkage --out OUT, or proper-sim privacy inversion --out OUT"
    return read_document(
        RateResult,
        path,
        missing=("no such file", f"make one: {make}"),
        faulty=("not a result of linkage or inversion of schema 1", f"make it again: {make}"),
    )


def rated(seeds: Sequence[Sequence[Tried]]) -> list[Rated]:
    """Every attack over all seeds, with Holm's correction over those that are no control."""
    by_name: dict[str, list[Tried]] = {}
    for found in seeds:
        for one in found:
            by_name.setdefault(one.name, []).append(one)
    pooled = {name: _pooled(name, rows) for name, rows in by_name.items()}
    p = {
        name: p_against(found.value, found.low, found.high, _chance(by_name[name]))
        for name, found in pooled.items()
    }
    corrected = p | holm({n: value for n, value in p.items() if by_name[n][0].control == "none"})
    return [_rated(rows, pooled[name], p[name], corrected[name]) for name, rows in by_name.items()]


def _rated(rows: Sequence[Tried], pooled: Share, p: float, corrected: float) -> Rated:
    one = rows[0]
    rank = None
    if one.rank is not None:
        places = np.concatenate([row.rank for row in rows if row.rank is not None])
        rank = Rate.of(share(places, _owners(rows), rng=rng_of(f"{one.name}/rank")))
    return Rated(
        scope=one.scope,
        thing=one.thing,
        attack=one.attack,
        control=one.control,
        chance=_chance(rows),
        per_seed=[
            Rate.of(cases(row.hit, row.owner, rng=rng_of(f"{one.name}/{place}")))
            for place, row in enumerate(rows)
        ],
        pooled=Rate.of(pooled),
        worst_decile=worst_decile(_hits(rows), _owners(rows)),
        rank=rank,
        ranked=one.ranked,
        p=p,
        p_holm=corrected,
    )


def _pooled(name: str, rows: Sequence[Tried]) -> Share:
    return cases(_hits(rows), _owners(rows), rng=rng_of(name))


def _hits(rows: Sequence[Tried]) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    return np.concatenate([row.hit for row in rows])


def _owners(rows: Sequence[Tried]) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    return np.concatenate([row.owner for row in rows])


def _chance(rows: Sequence[Tried]) -> float:
    return float(np.mean([row.chance for row in rows]))


def strongest(rows: Sequence[Rated]) -> Mapping[tuple[str, str], Rated]:
    """By scope and thing the attack, no control, that found most beyond chance."""
    best: dict[tuple[str, str], Rated] = {}
    for row in rows:
        key = row.scope, row.thing
        if row.control == "none" and (key not in best or _gain(row) > _gain(best[key])):
            best[key] = row
    return best


def _gain(row: Rated) -> float:
    return (row.pooled.value - row.chance) / max(1e-9, 1 - row.chance)
