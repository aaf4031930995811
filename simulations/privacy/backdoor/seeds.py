"""Trap releases over several seeds: adapters over each trained and asked once and kept, then summed up."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from proper_model.errors import ConfigError
from proper_model.progress import Progress
from simulations.privacy.backdoor.sentences import sentences
from simulations.privacy.backdoor.traps import BOLD, BOUNDS, TRAPS, trap
from simulations.privacy.backdoor.verdicts import Verdict, verdict_of
from simulations.privacy.memorization import seeds as canaries
from simulations.privacy.memorization.attacks import CanaryAttacker
from simulations.privacy.results.backdoor_schema import BackdoorResult, Judged
from simulations.privacy.results.kept import digest_of, kept_rows

HONEST = "honest"
VERSION = 1
NOTES = (
    "one honest release a seed, half of the candidates pooled; every trap is made of it, and newcomers, whose items "
    "have canaries, train an adapter over each as a device does it",
    "bold: the trap as it would be; bounded: as strong as the checks for traps let pass; fixed: a calibration that no "
    "own items judge, at the recipe's own rate, which all other traps have too",
    "exposure is by the ratio to the public base's probability; membership of own items against those kept apart",
    "the positive control is an adapter over the honest release that saw its items far too often; negative controls "
    "are adapters that nobody trained over each release, and canaries that were planted nowhere",
    "refused: by the checks of files (names, shapes, numbers, bounds of the recipe), and by those for traps",
    "intervals draw people, each with all seeds; p is two-sided, corrected (Holm) over all that are no control, "
    "and over all negative controls",
)
Row = canaries.Row | Verdict


@dataclass(frozen=True)
class Plan:
    """What is planted (`canaries`, whose things are not used), and which traps are tried beside the honest release."""

    canaries: canaries.Plan
    traps: tuple[str, ...]

    def __post_init__(self) -> None:
        unknown = sorted(set(self.traps) - set(TRAPS))
        if unknown or not self.traps:
            raise ConfigError(f"no such traps: {unknown}", hint="known: " + ", ".join(TRAPS))
        if self.canaries.setup.structure.population_only:
            raise ConfigError("stage 1 alone has no experts and no stage 3 to make a trap of")

    @property
    def digest(self) -> str:
        """sha256 over all that a seed's result depends on but the seed."""
        return digest_of("backdoor", VERSION, self.canaries.digest, self.traps, BOLD, BOUNDS)


def backdoor_of(plan: Plan, *, out: Path, cache: Path, progress: Progress) -> BackdoorResult:
    """Train and ask every seed that is not kept in OUT, and sum up all."""

    def make(seed: int) -> list[Row]:
        progress(f"seed {seed}", 0, 0)
        attacker = CanaryAttacker(plan.canaries.setup, seed=seed, cache=cache, progress=progress)
        attacker.adapters(HONEST, attacker.release, overfit=True)
        found: list[Row] = [verdict_of(HONEST, attacker.release)]
        for name in plan.traps:
            progress(f"trap {name}", 0, 0)
            made = trap(attacker.release, name)
            found.append(verdict_of(name, made))
            attacker.adapters(name, made, overfit=False)
        return [*found, *attacker.found.canaries, *attacker.found.records]

    kept = [
        kept_rows(out, seed, plan.digest, partial(make, seed), write=_content, read=_row)
        for seed in plan.canaries.seeds
    ]
    return summarized(plan, kept)


def summarized(plan: Plan, seeds: Sequence[Sequence[Row]]) -> BackdoorResult:
    """Numbers of canaries and items as `proper-sim privacy canaries` has them, and what checks saw."""
    rows = [[one for one in found if not isinstance(one, Verdict)] for found in seeds]
    verdicts = [one for found in seeds for one in found if isinstance(one, Verdict)]
    numbers = canaries.summarized(plan.canaries, rows)
    result = BackdoorResult(
        **numbers.model_dump(exclude={"experiment", "notes", "sentences"}),
        experiment="backdoor",
        notes=list(NOTES),
        sentences=[],
        judged=[judged(name, verdicts) for name in (HONEST, *plan.traps)],
    )
    return result.model_copy(update={"sentences": sentences(result, HONEST)})


def judged(name: str, verdicts: Sequence[Verdict]) -> Judged:
    """What checks said of one thing over all seeds; of refusals the first."""
    own = [one for one in verdicts if one.thing == name]
    files, traps = (
        [said for one in own if (said := getattr(one, of))] for of in ("files", "traps")
    )
    return Judged(
        thing=name,
        seeds=len(own),
        refused_as_files=len(files),
        refused_as_trap=len(traps),
        why=next(iter((*files, *traps)), ""),
    )


def _content(one: Row) -> dict[str, Any]:
    if isinstance(one, Verdict):
        return {"verdict": one.thing, "files": one.files, "traps": one.traps}
    return canaries.row_content(one)


def _row(row: Mapping[str, Any]) -> Row:
    if "verdict" in row:
        return Verdict(str(row["verdict"]), str(row["files"]), str(row["traps"]))
    return canaries.row_of(row)
