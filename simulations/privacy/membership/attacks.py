"""One seed's membership attacks: each thing is handed to the file that attacks it.

population, experts                                       `release_attacks`
embeddings                                                `embedding_attacks`
router-cohort                                             `router_attack`
common-start                                              `start_attacks`
inferred                                                  `inferred_attacks`
adapter, adapter-embedding, adapter-dp, export, answers   `adapter_attacks`
merged                                                    `published_protocol`
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from proper_model.progress import Progress
from proper_model.settings import StageSettings, Structure
from proper_model.stages.pooled_users import calibrating_people, held_back_people
from simulations.privacy.membership.adapter_attacks import OWN_THINGS, on_adapters
from simulations.privacy.membership.attacked import RELEASE_THINGS, Attacked
from simulations.privacy.membership.embedding_attacks import on_embeddings
from simulations.privacy.membership.found import Found, Level
from simulations.privacy.membership.inferred_attacks import INFERRED, on_inferred
from simulations.privacy.membership.population import Candidates
from simulations.privacy.membership.published_protocol import on_merged
from simulations.privacy.membership.release_attacks import on_release
from simulations.privacy.membership.router_attack import on_cohort
from simulations.privacy.membership.start_attacks import START, on_start
from simulations.privacy.membership.targets import cohort_of
from simulations.privacy.results.schema import MERGED

THINGS = (*RELEASE_THINGS, "embeddings", "router-cohort", START, INFERRED, *OWN_THINGS, MERGED)
# What a release holds beside base and experts.
OF_SHARED: dict[str, Callable[[Attacked], list[Found]]] = {
    "embeddings": on_embeddings,
    "router-cohort": on_cohort,
    START: on_start,
    INFERRED: on_inferred,
}
# Of people who are members whole or not at all, an embedding is one of all their records.
LEVELS_OF: dict[str, tuple[Level, ...]] = {
    "embeddings": ("person", "fresh"),
    **dict.fromkeys((*OWN_THINGS, MERGED), ("record",)),
}


def why_not(
    thing: str, structure: Structure, settings: StageSettings, levels: Sequence[Level], people: int
) -> str | None:
    """Why attacking a thing of a preset under a profile, at these levels, finds nothing of so many candidates.

    None: it finds something.
    """
    if structure.population_only and thing in ("experts", "embeddings", START):
        return f"preset '{structure.name}' has no {thing}"
    if thing == "router-cohort" and not structure.has_lora_router:
        return f"preset '{structure.name}' has no W_l, as default and paper have"
    if thing == START and (reason := why_no_start(settings, people)):
        return reason
    if thing == INFERRED and not structure.infers_user:
        return f"preset '{structure.name}' infers no embeddings, as calibrated does"
    own = LEVELS_OF.get(thing)
    if own is not None and not set(own) & set(levels):
        return f"{thing}: --level must name {' or '.join(own)}"
    return None


def why_no_start(settings: StageSettings, people: int) -> str | None:
    """Why of so many candidates no common start is made; None: one is."""
    if not settings.calibration.start_rounds:
        return (
            f"profile '{settings.name}' looks for no common start (calibration.start_rounds is 0)"
        )
    pooled, least = people // 2, settings.group.prototype_min_users
    held = 0 if settings.privacy is not None else held_back_people(pooled, settings)
    apart = 0 if settings.privacy is not None else calibrating_people(pooled - held, settings)
    cohort = cohort_of(pooled - held - apart)
    if cohort < least:
        return f"a cohort of {cohort} makes no common start, {least} do: take more --people"
    return None


def attack(
    candidates: Candidates,
    structure: Structure,
    settings: StageSettings,
    *,
    seed: int,
    cache: Path,
    things: Sequence[str],
    levels: Sequence[Level],
    shadows: int,
    progress: Progress,
) -> list[Found]:
    """Train one seed's release and attack the things asked for. One that the preset has not gives none."""
    attacked = Attacked(
        candidates,
        structure,
        settings,
        seed=seed,
        cache=cache,
        levels=levels,
        shadows=shadows,
        progress=progress,
    )
    return [one for one in attack_all(attacked, things) if one.level in levels]


def attack_all(attacked: Attacked, things: Sequence[str]) -> list[Found]:
    """All attacks on the things; some find more levels than were asked for."""
    found: list[Found] = []
    if set(things) & set(RELEASE_THINGS):
        found += on_release(attacked, things)
    kind = attacked.structure, attacked.settings, attacked.levels, len(attacked.candidates.users)
    for thing, on_thing in OF_SHARED.items():
        if thing in things and why_not(thing, *kind) is None:
            found += on_thing(attacked)
    if "record" in attacked.levels:
        if set(things) & set(OWN_THINGS):
            found += on_adapters(attacked, things)
        if MERGED in things:
            found += on_merged(attacked)
    return found
