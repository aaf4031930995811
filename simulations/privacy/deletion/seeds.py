"""Deletion over several seeds: every seed trained, deleted from and attacked once and kept, then summed up.

OUT/seeds/SEED.json          what one seed found
OUT/remains/seeds/0.json     what the look through folders found; that has no statistics, and is done once
OUT/deletion.json            the result (`results.deletion_schema`)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from proper_model.errors import ConfigError
from proper_model.evaluation import holm
from proper_model.progress import Progress
from proper_model.settings import StageSettings, Structure, to_mapping
from proper_model.storage.durable import remove_folder
from proper_model.storage.files import make_private_folder
from simulations.privacy.deletion.forgetting import ADAPTER, on_forgetting
from simulations.privacy.deletion.found import (
    Attempt,
    Remaining,
    Retrained,
    Row,
    content_of,
    row_of,
)
from simulations.privacy.deletion.remains import remains
from simulations.privacy.deletion.sentences import NOT_PUBLISHED, sentences
from simulations.privacy.deletion.withdrawal import EMBEDDINGS, POOLED_THINGS, on_withdrawal
from simulations.privacy.membership.attacked import Attacked
from simulations.privacy.membership.population import Candidates, check_own_items
from simulations.privacy.results.deletion_schema import (
    DeletionAttack,
    DeletionResult,
    Exactness,
    Remains,
)
from simulations.privacy.results.kept import digest_of, kept_rows
from simulations.privacy.results.schema import Measured
from simulations.privacy.results.seeded import base_name, facts_of
from simulations.privacy.statistics.measures import measure, p_of_auc, pooled
from simulations.privacy.statistics.shares import DRAWS, rng_of

REMAINS = "remains"
THINGS = (*POOLED_THINGS, ADAPTER, REMAINS)
# Raised whenever something else is computed, so that seeds of before are not mixed in.
VERSION = 1
NOTES = (
    "who is pooled, who withdraws (a third of those who trained) and which items are forgotten (a quarter of a "
    "newcomer's known ones) is drawn by seed before training",
    "the next release is trained by the coordinator's own code in the cache of the first; its reference is "
    "trained in an empty folder by somebody who never had the data; an adapter's begins with an empty state",
    "before, after: whoever withdrew against candidates who were never pooled, and forgotten items against fresh "
    "ones; both: who lost most probability from one release to the next, against those and pooled people who stayed",
    "positive controls: an adapter that saw the very records far too often, a prototype of one person each; "
    "negative: the public base, an adapter that never had the items, and for both two halves of people who were "
    "in neither release",
    "a release that was trained with them stays what it was, and so do copies on devices: what those tell is 'before'",
    "what remains is looked for in raw, UTF-16, JSON, hex, base64 and compressed forms, trained numbers as "
    "floats of four widths; encrypted content is not seen, so the vault is looked at opened",
    "intervals draw people, each with all seeds; p is two-sided against .5, corrected (Holm) over all "
    "attacks that are no control",
)


@dataclass(frozen=True)
class Plan:
    """What is deleted from and attacked; `things` of `THINGS`."""

    candidates: Candidates
    structure: Structure
    settings: StageSettings
    seeds: tuple[int, ...]
    things: tuple[str, ...]

    def __post_init__(self) -> None:
        if self.structure.population_only and not set(self.things) - {"experts", EMBEDDINGS}:
            raise ConfigError(
                f"preset '{self.structure.name}' has nothing of {', '.join(self.things)} to ask about",
                hint="take a preset with groups, or --things population",
            )
        if ADAPTER in self.things:
            check_own_items(self.candidates.name, self.candidates.shared)

    @property
    def digest(self) -> str:
        """sha256 over all that a seed's rows depend on but the seed."""
        return digest_of(
            *("deletion", VERSION, str(self.candidates.task), base_name(self.candidates.base)),
            *(str(self.structure), to_mapping(self.settings), sorted(self.things)),
            self.candidates.texts,
        )


def deletion_of(plan: Plan, *, out: Path, cache: Path, progress: Progress) -> DeletionResult:
    """Delete from and attack every seed that is not kept in OUT, look for remains once, and sum up all."""

    def make(seed: int) -> list[Row]:
        progress(f"seed {seed}", 0, 0)
        attacked = Attacked(
            *(plan.candidates, plan.structure, plan.settings),
            seed=seed,
            cache=cache,
            levels=("person", "record"),
            shadows=0,
            progress=progress,
        )
        found: list[Row] = []
        if set(plan.things) & set(POOLED_THINGS):
            found += on_withdrawal(attacked, plan.things)
        if ADAPTER in plan.things:
            found += on_forgetting(attacked)
        return found

    def look() -> list[Row]:
        folder = make_private_folder(out / REMAINS) / "folders"
        remove_folder(folder)  # of a look that failed, whose output was to be read
        found = remains(folder, plan.seeds[0], progress)
        remove_folder(folder)
        return found

    kept: list[list[Row]] = []
    if set(plan.things) - {REMAINS}:
        kept = [
            kept_rows(out, seed, plan.digest, partial(make, seed), write=content_of, read=row_of)
            for seed in plan.seeds
        ]
    looked: list[Row] = []
    if REMAINS in plan.things:
        digest = digest_of(REMAINS, VERSION, plan.seeds[0])
        looked = kept_rows(out / REMAINS, 0, digest, look, write=content_of, read=row_of)
    return summarized(plan, kept, looked)


def summarized(plan: Plan, seeds: Sequence[Sequence[Row]], looked: Sequence[Row]) -> DeletionResult:
    """All rows of all seeds, with Holm's correction over attacks that are no control."""
    by_name: dict[str, list[Attempt]] = {}
    for found in seeds:
        for one in found:
            if isinstance(one, Attempt):
                by_name.setdefault(one.name, []).append(one)
    attacks = _attacks(by_name)
    every = [*(one for found in seeds for one in found), *looked]
    exact = _exact([one for one in every if isinstance(one, Retrained)])
    left = [Remains(**vars(one)) for one in every if isinstance(one, Remaining)]
    return DeletionResult(
        **facts_of(plan.candidates, plan.structure, plan.settings, plan.seeds, NOTES),
        sentences=[*sentences(attacks, exact, left), *_not_measured(plan, attacks)],
        attacks=attacks,
        exact=exact,
        remains=left,
    )


def _not_measured(plan: Plan, attacks: Sequence[DeletionAttack]) -> list[str]:
    """Of embeddings that were to be attacked and of which releases of so few people say nothing."""
    asked = EMBEDDINGS in plan.things and not plan.structure.population_only
    return [NOT_PUBLISHED] if asked and all(row.thing != EMBEDDINGS for row in attacks) else []


def _attacks(by_name: dict[str, list[Attempt]]) -> list[DeletionAttack]:
    whole = {
        name: measure(pooled([one.scored for one in rows]), rng=rng_of(name), draws=DRAWS)
        for name, rows in by_name.items()
    }
    p = {name: p_of_auc(found, draws=DRAWS) for name, found in whole.items()}
    claims = {name: p[name] for name, rows in by_name.items() if rows[0].control == "none"}
    corrected = p | holm(claims)
    return [
        DeletionAttack(
            scope=rows[0].scope,
            thing=rows[0].thing,
            attack=rows[0].attack,
            level=rows[0].level,
            control=rows[0].control,
            per_seed=[
                Measured.of(measure(row.scored, rng=rng_of(f"{name}/{place}"), draws=DRAWS))
                for place, row in enumerate(rows)
            ],
            pooled=Measured.of(whole[name]),
            p=p[name],
            p_holm=corrected[name],
        )
        for name, rows in by_name.items()
    ]


def _exact(rows: Sequence[Retrained]) -> list[Exactness]:
    """Of every thing the sum over seeds, and the largest distances."""
    found = []
    for thing in dict.fromkeys(row.thing for row in rows):
        own = [row for row in rows if row.thing == thing]
        found.append(
            Exactness(
                thing=thing,
                compared=sum(row.compared for row in own),
                different=sum(row.different for row in own),
                distance=max(row.distance for row in own),
                change=max(row.change for row in own),
            )
        )
    return found
