"""An experiment on planted people over several seeds: every seed made once and kept, then summed up."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from proper_model.progress import Progress
from proper_model.settings import StageSettings, Structure, to_mapping
from simulations.outcome import environment
from simulations.privacy.linkage.people import Planted, draw_parts
from simulations.privacy.linkage.releases import Lab
from simulations.privacy.results.kept import digest_of, kept_seed
from simulations.privacy.results.rates import Experiment, Rated, RateResult, rated
from simulations.privacy.statistics.shares import Tried


@dataclass(frozen=True)
class PlantedPlan:
    """Who is attacked (`attacked` of the planted people), over what structure and settings, and how often."""

    planted: Planted
    attacked: int
    structure: Structure
    settings: StageSettings
    seeds: tuple[int, ...]

    def digest_with(self, experiment: Experiment, *asked: object) -> str:
        """sha256 over all that a seed's result depends on but the seed; `asked` is the experiment's own."""
        how = str(self.structure), to_mapping(self.settings)
        return digest_of(experiment, self.planted.identity, self.attacked, *how, *asked)


def result_of(
    plan: PlantedPlan,
    experiment: Experiment,
    digest: str,
    attack: Callable[[Lab], list[Tried]],
    *,
    notes: Sequence[str],
    sentences: Callable[[Sequence[Rated]], list[str]],
    out: Path,
    cache: Path,
    progress: Progress,
) -> RateResult:
    """Attack every seed that is not kept in OUT, and sum up all."""

    def make(seed: int) -> list[Tried]:
        progress(f"seed {seed}", 0, 0)
        parts = draw_parts(plan.planted, plan.attacked, seed)
        return attack(
            Lab(plan.planted, parts, plan.structure, plan.settings, seed, cache, progress)
        )

    rows = rated([kept_seed(out, seed, digest, partial(make, seed)) for seed in plan.seeds])
    return RateResult(
        experiment=experiment,
        task=plan.planted.kind,
        base=Path(plan.planted.alone).name,
        preset=plan.structure.name,
        profile=plan.settings.name,
        seeds=list(plan.seeds),
        people=plan.attacked,
        hardware=environment.hardware(),
        commit=environment.commit(),
        notes=list(notes),
        sentences=sentences(rows),
        attacks=rows,
    )
