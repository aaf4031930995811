"""One seed's membership attacks: each thing is handed to the file that attacks it.

population, experts                                       `release_attacks`
embeddings                                                `embedding_attacks`
router-cohort                                             `router_attack`
adapter, adapter-embedding, adapter-dp, export, answers   `adapter_attacks`
merged                                                    `published_protocol`
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from proper_model.progress import Progress
from proper_model.settings import StageSettings, Structure
from simulations.privacy.membership.adapter_attacks import OWN_THINGS, on_adapters
from simulations.privacy.membership.attacked import RELEASE_THINGS, Attacked
from simulations.privacy.membership.embedding_attacks import on_embeddings
from simulations.privacy.membership.found import Found, Level
from simulations.privacy.membership.population import Candidates
from simulations.privacy.membership.published_protocol import on_merged
from simulations.privacy.membership.release_attacks import on_release
from simulations.privacy.membership.router_attack import on_cohort
from simulations.privacy.results.schema import MERGED

THINGS = (*RELEASE_THINGS, "embeddings", "router-cohort", *OWN_THINGS, MERGED)
# Of people who are members whole or not at all, an embedding is one of all their records.
LEVELS_OF: dict[str, tuple[Level, ...]] = {
    "embeddings": ("person", "fresh"),
    **dict.fromkeys((*OWN_THINGS, MERGED), ("record",)),
}


def why_not(thing: str, structure: Structure, levels: Sequence[Level]) -> str | None:
    """Why attacking a thing of a preset at these levels finds nothing; None: it finds something."""
    if structure.population_only and thing in ("experts", "embeddings"):
        return f"preset '{structure.name}' has no {thing}"
    if thing == "router-cohort" and not structure.has_lora_router:
        return f"preset '{structure.name}' has no W_l, as default and paper have"
    own = LEVELS_OF.get(thing)
    if own is not None and not set(own) & set(levels):
        return f"{thing}: --level must name {' or '.join(own)}"
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
    if attacked.grouped and "embeddings" in things:
        found += on_embeddings(attacked)
    if attacked.target.cohort is not None and "router-cohort" in things:
        found += on_cohort(attacked, attacked.target.cohort)
    if "record" in attacked.levels:
        if set(things) & set(OWN_THINGS):
            found += on_adapters(attacked, things)
        if MERGED in things:
            found += on_merged(attacked)
    return found
