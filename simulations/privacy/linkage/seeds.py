"""Linkage over several seeds: every seed attacked once and kept, then summed up."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path

from proper_model.errors import ConfigError
from proper_model.progress import Progress
from proper_model.settings import StageSettings, Structure, to_mapping
from simulations.outcome import environment
from simulations.privacy.linkage.attacks import Attacker
from simulations.privacy.linkage.people import Planted, draw_parts
from simulations.privacy.linkage.releases import Lab
from simulations.privacy.linkage.sentences import sentences
from simulations.privacy.results.kept import digest_of, kept_seed
from simulations.privacy.results.rates import RateResult, rated
from simulations.privacy.statistics.shares import Tried

NOTES = (
    "who is pooled, who is attacked and which half of a person's items trains which copy is drawn by seed; "
    "the halves have no item in common",
    "group: a linear classifier, trained on four fifths of the people and asked about the others; its "
    "positive control reads the texts, its negative one has groups exchanged between people, or "
    "adapters that nobody trained",
    "the others: the most similar person by cosine, as the numbers are (guessing: 1 of all people) or after "
    "a linear map that is learned from half of the people, who are known in both (guessing: 1 of the "
    "other half); the negative control has people exchanged",
    "the two tasks of a person share the planted group and nothing else, so knowing the group is the "
    "positive control and about the most that can be found",
    "intervals draw people, each with all seeds; p is two-sided against guessing, corrected (Holm) over all "
    "attacks that are no control",
)


@dataclass(frozen=True)
class Plan:
    """What is attacked and how; `attacked` people of the planted ones, `things` that are held of them."""

    planted: Planted
    attacked: int
    structure: Structure
    settings: StageSettings
    seeds: tuple[int, ...]
    scopes: tuple[str, ...]
    things: tuple[str, ...]

    @property
    def digest(self) -> str:
        """sha256 over all that a seed's result depends on but the seed."""
        how = str(self.structure), to_mapping(self.settings), self.scopes, self.things
        return digest_of("linkage", self.planted.identity, self.attacked, *how)


def linkage_of(plan: Plan, *, out: Path, cache: Path, progress: Progress) -> RateResult:
    """Attack every seed that is not kept in OUT, and sum up all."""
    structure = plan.structure

    def make(seed: int) -> list[Tried]:
        progress(f"seed {seed}", 0, 0)
        parts = draw_parts(plan.planted, plan.attacked, seed)
        lab = Lab(plan.planted, parts, structure, plan.settings, seed, cache, progress)
        found = Attacker(lab, plan.things).run(plan.scopes)
        if all(one.control == "positive" for one in found):
            raise ConfigError(
                f"preset '{structure.name}' has nothing of {', '.join(plan.things)} to ask about"
            )
        return found

    rows = rated([kept_seed(out, seed, plan.digest, partial(make, seed)) for seed in plan.seeds])
    return RateResult(
        experiment="linkage",
        task=plan.planted.kind,
        base=Path(plan.planted.alone).name,
        preset=structure.name,
        profile=plan.settings.name,
        seeds=list(plan.seeds),
        people=plan.attacked,
        hardware=environment.hardware(),
        commit=environment.commit(),
        notes=list(NOTES),
        sentences=sentences(rows),
        attacks=rows,
    )
