"""Canaries over several seeds: every seed trained and asked once and kept, then summed up."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from proper_model.errors import ConfigError
from proper_model.evaluation import holm
from proper_model.progress import Progress
from proper_model.settings import StageSettings, Structure, to_mapping
from simulations.privacy.membership.population import Candidates, check_own_items
from simulations.privacy.memorization.asking import CanariesFound, RecordsFound
from simulations.privacy.memorization.attacks import THINGS, CanaryAttacker, Setup
from simulations.privacy.memorization.new_tokens import with_new_tokens
from simulations.privacy.memorization.planting import (
    SECRET_WORDS,
    Design,
    Pool,
    check_task,
    word_pool,
)
from simulations.privacy.memorization.sentences import sentences
from simulations.privacy.results.canary_schema import (
    CanaryNumbers,
    CanaryResult,
    CanaryRow,
    RecordRow,
)
from simulations.privacy.results.kept import digest_of, kept_rows
from simulations.privacy.results.rates import Rate
from simulations.privacy.results.schema import Measured
from simulations.privacy.results.seeded import base_name, facts_of
from simulations.privacy.statistics.exposure import chance_bits
from simulations.privacy.statistics.measures import Scored, joined, measure, p_of_auc, pooled
from simulations.privacy.statistics.shares import DRAWS, Share, cases, p_against, rng_of, share

NOTES = (
    "a canary is an item with a question and an answer of random content; who has one how often is drawn "
    "by seed before training, and everybody has a second one that is planted nowhere",
    "exposure is by the ratio of a secret's probability to that under the public base; of a server that "
    "sees prompts it is the most there is for what it saw, and 1 bit for the rest, all of which look alike to it",
    "word for word: the likeliest tokens after the question are the secret, or, of a server, the secret "
    "stands in a prompt; sampled: the chance that one of several answers at temperature 1 begins with it",
    "membership of a record by a server is an exact match of its answer in the prompts, without a model",
    "the positive control is an adapter that saw its items far too often; negative controls are adapters that "
    "nobody trained, the public base, another person's prompts, and canaries that were planted nowhere",
    "prompts have 2048 tokens of room, also where the base has less; pooled people who were held back are "
    "left out of what is asked of the release",
    "only what resembles a query is retrieved, and nobody asks about a random secret, so of secrets retrieval "
    "shows less than of own items: read both",
    "intervals draw people, each with all seeds; p is two-sided, corrected (Holm) over all that are no control, "
    "and over all negative controls",
)
Row = CanariesFound | RecordsFound


@dataclass(frozen=True)
class Plan:
    """What is planted and asked; `things` of `attacks.THINGS`."""

    setup: Setup
    design: Design
    seeds: tuple[int, ...]
    things: tuple[str, ...]

    def __post_init__(self) -> None:
        setup = self.setup
        check_task(setup.candidates.task)
        check_own_items(setup.candidates.name, setup.candidates.shared)
        unknown = sorted(set(self.things) - set(THINGS))
        if unknown or not self.things:
            raise ConfigError(
                f"no such things to ask: {unknown}", hint=f"known: {', '.join(THINGS)}"
            )

    @property
    def digest(self) -> str:
        """sha256 over all that a seed's result depends on but the seed."""
        setup = self.setup
        return digest_of(
            *("canaries", str(setup.candidates.task), base_name(setup.candidates.base)),
            str(setup.structure),
            *(
                to_mapping(setup.settings),
                self.design,
                setup.insertions,
                setup.others,
                setup.samples,
            ),
            *(self.things, setup.candidates.texts),
        )


def prepared(
    candidates: Candidates,
    structure: Structure,
    settings: StageSettings,
    *,
    design: Design,
    seeds: tuple[int, ...],
    insertions: tuple[int, ...],
    others: int,
    samples: int,
    things: tuple[str, ...],
    bases: Path,
) -> Plan:
    """A plan with what secrets are drawn from; new tokens are given to a copy of the base below `bases`.

    Raises ConfigError or DataError for what no canary can be planted in, BaseModelError for a base that
    cannot be loaded.
    """
    check_task(candidates.task)
    words = word_pool(candidates.users)
    pool = Pool(words, words, SECRET_WORDS)
    if design == "new-token":
        base, tokens = with_new_tokens(candidates.base, 2 * len(candidates.users) + others, bases)
        candidates = replace(candidates, base=str(base))
        pool = Pool(words, tokens, 1)
    setup = Setup(candidates, structure, settings, pool, insertions, others, samples)
    return Plan(setup, design, seeds, things)


def canaries_of(plan: Plan, *, out: Path, cache: Path, progress: Progress) -> CanaryResult:
    """Train and ask every seed that is not kept in OUT, and sum up all."""

    def make(seed: int) -> list[Row]:
        progress(f"seed {seed}", 0, 0)
        attacker = CanaryAttacker(plan.setup, seed=seed, cache=cache, progress=progress)
        found = attacker.run(plan.things)
        return [*found.canaries, *found.records]

    kept = [
        kept_rows(out, seed, plan.digest, partial(make, seed), write=row_content, read=row_of)
        for seed in plan.seeds
    ]
    result = summarized(plan, kept)
    return result.model_copy(update={"sentences": sentences(result)})


def summarized(plan: Plan, seeds: Sequence[Sequence[Row]]) -> CanaryResult:
    """Every thing over all seeds, without sentences; Holm's correction is over what is no control, and over
    negative ones.
    """
    canaries: dict[str, list[CanariesFound]] = {}
    records: dict[str, list[RecordsFound]] = {}
    for found in seeds:
        for one in found:
            if isinstance(one, CanariesFound):
                canaries.setdefault(one.name, []).append(one)
            else:
                records.setdefault(one.name, []).append(one)
    setup = plan.setup
    chance = chance_bits(setup.others)
    numbers = {name: _numbers(name, rows) for name, rows in canaries.items()}
    measured = {
        name: measure(_together(rows), rng=rng_of(name), draws=DRAWS)
        for name, rows in records.items()
    }
    p = {name: _exposed(found.against_public, chance) for name, found in numbers.items()} | {
        name: p_of_auc(found, draws=DRAWS) for name, found in measured.items()
    }
    firsts: list[Row] = [rows[0] for rows in canaries.values()]
    firsts += [rows[0] for rows in records.values()]
    corrected = dict(p)
    for control in ("none", "negative"):
        chosen = {one.name for one in firsts if one.control == control}
        corrected |= holm({name: value for name, value in p.items() if name in chosen})
    return CanaryResult(
        **facts_of(setup.candidates, setup.structure, setup.settings, plan.seeds, NOTES),
        design=plan.design,
        insertions=list(setup.insertions),
        candidates=setup.others,
        samples=setup.samples,
        queries=float(np.mean([len(user.queries) for user in setup.candidates.users])),
        guessing=chance,
        most=math.log2(setup.others + 1),
        canaries=[
            _canary_row(rows, numbers[name], p[name], corrected[name])
            for name, rows in canaries.items()
        ],
        records=[
            _record_row(rows, Measured.of(measured[name]), p[name], corrected[name])
            for name, rows in records.items()
        ],
        sentences=[],
    )


def _exposed(bits: Rate, chance: float) -> float:
    """p of an exposure against guessing; 1 where it is no larger, as of what all look alike in."""
    return 1.0 if bits.value <= chance else p_against(bits.value, bits.low, bits.high, chance)


def _numbers(name: str, rows: Sequence[CanariesFound]) -> CanaryNumbers:
    owner = np.concatenate([row.owner for row in rows])

    def of(which: str, mean: Callable[..., Share]) -> Rate:
        values = np.concatenate([getattr(row, which) for row in rows])
        return Rate.of(mean(values, owner, rng=rng_of(f"{name}/{which}")))

    return CanaryNumbers(
        n=len(owner),
        exposure=of("exposure", share),
        against_public=of("against_public", share),
        greedy=of("greedy", cases),
        sampled=of("sampled", cases),
    )


def _canary_row(
    rows: Sequence[CanariesFound], whole: CanaryNumbers, p: float, corrected: float
) -> CanaryRow:
    one = rows[0]
    return CanaryRow(
        thing=one.thing,
        insertions=one.insertions,
        control=one.control,
        per_seed=[_numbers(f"{one.name}/{place}", [row]) for place, row in enumerate(rows)],
        pooled=whole,
        p=p,
        p_holm=corrected,
    )


def _together(rows: Sequence[RecordsFound]) -> Scored:
    """All seeds' records; what was seen has one scale, losses have one a seed."""
    scored = [row.scored for row in rows]
    return joined(scored) if rows[0].attack == "seen" else pooled(scored)


def _record_row(
    rows: Sequence[RecordsFound], whole: Measured, p: float, corrected: float
) -> RecordRow:
    one = rows[0]

    def produced(inside: bool) -> Rate:
        chosen = [row.scored.member == inside for row in rows]
        values = [row.produced[mine] for row, mine in zip(rows, chosen, strict=True)]
        owner = [row.scored.owner[mine] for row, mine in zip(rows, chosen, strict=True)]
        rng = rng_of(f"{one.name}/produced/{inside}")
        return Rate.of(cases(np.concatenate(values), np.concatenate(owner), rng=rng))

    return RecordRow(
        thing=one.thing,
        attack=one.attack,
        control=one.control,
        per_seed=[
            Measured.of(measure(row.scored, rng=rng_of(f"{one.name}/{place}"), draws=DRAWS))
            for place, row in enumerate(rows)
        ],
        pooled=whole,
        produced=produced(True),
        produced_apart=produced(False),
        p=p,
        p_holm=corrected,
    )


def row_content(one: Row) -> dict[str, Any]:
    """A row in JSON's types."""
    if isinstance(one, CanariesFound):
        arrays = ("owner", "exposure", "against_public", "greedy", "sampled")
        return {
            "thing": one.thing,
            "insertions": one.insertions,
            "control": one.control,
            **{name: getattr(one, name).tolist() for name in arrays},
        }
    scored = one.scored
    return {
        "thing": one.thing,
        "attack": one.attack,
        "control": one.control,
        "score": scored.score.tolist(),
        "member": scored.member.tolist(),
        "owner": scored.owner.tolist(),
        "produced": one.produced.tolist(),
    }


def row_of(row: Mapping[str, Any]) -> Row:
    """The inverse of `row_content`."""
    owner = np.array(row["owner"], dtype=np.int64)
    if "insertions" in row:
        numbers = ("exposure", "against_public", "greedy", "sampled")
        values = {name: np.array(row[name], dtype=np.float64) for name in numbers}
        if any(found.shape != owner.shape for found in values.values()):
            raise ValueError("columns of different lengths")
        return CanariesFound(row["thing"], int(row["insertions"]), row["control"], owner, **values)
    scored = Scored(np.array(row["score"]), np.array(row["member"], dtype=np.bool_), owner)
    produced = np.array(row["produced"], dtype=np.float64)
    if produced.shape != owner.shape:
        raise ValueError("columns of different lengths")
    return RecordsFound(row["thing"], row["attack"], row["control"], scored, produced)
