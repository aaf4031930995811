"""`proper-sim privacy membership`: options, and what is left in OUT."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from simulations.outcome.timings import progress_bars
from simulations.privacy.results.options import (
    BaseOf,
    Cache,
    ColumnsOf,
    Data,
    Out,
    People,
    Preset,
    ProfileOf,
    TaskOf,
    names,
    numbers,
    profile_for,
    structure_for,
)

Things = Annotated[
    str,
    typer.Option(
        metavar="A,B",
        help="What to attack: population, experts, embeddings, router-cohort, adapter, "
        "adapter-embedding, export, answers, merged; and, if named, common-start, where private LoRAs "
        "begin, inferred, what --preset calibrated infers embeddings with, and, with make accountant, "
        "adapter-dp, an adapter under privacy of items.",
    ),
]
Levels = Annotated[
    str,
    typer.Option(
        "--level",
        metavar="A,B",
        help="record, person, or fresh (a person, by items that never trained).",
    ),
]
Shadows = Annotated[
    int,
    typer.Option(
        min=0,
        metavar="N",
        help="Models that the attacker trains to compare with: 0 (no LiRA, no RMIA), 4, 6 ...",
    ),
]
EVERYTHING = (
    "population,experts,embeddings,router-cohort,adapter,adapter-embedding,export,answers,merged"
)


def membership(
    data: Data,
    out: Out,
    task: TaskOf = None,
    base: BaseOf = None,
    columns: ColumnsOf = None,
    preset: Preset = None,
    profile: ProfileOf = None,
    seeds: Annotated[str, typer.Option(metavar="S,T", help="Draws of members.")] = "0,1,2,3,4",
    things: Things = EVERYTHING,
    level: Levels = "record,person,fresh",
    people: People = None,
    max_items: Annotated[
        int, typer.Option(min=12, metavar="N", help="Newest items of a candidate, at most.")
    ] = 60,
    shadows: Shadows = 4,
    cache: Cache = None,
) -> dict[str, Any]:
    """Tell members from non-members: of a release's training people, and of an adapter's items.

    Finished seeds in OUT are not trained again.
    """
    from proper_model.storage.files import storage_errors
    from simulations.privacy.membership.attacks import THINGS
    from simulations.privacy.membership.population import Candidates, load_candidates
    from simulations.privacy.membership.seeds import LEVELS, Plan
    from simulations.privacy.membership.seeds import membership as attack
    from simulations.privacy.results.told import leave_result

    drawn, settings = numbers(seeds), profile_for(data, profile)
    attacked, levels = names(things, THINGS, "--things"), names(level, LEVELS, "--level")
    structure = structure_for(preset, settings)

    def planned(candidates: Candidates) -> Plan:
        return Plan(candidates, structure, settings, drawn, attacked, levels, shadows)

    with storage_errors(out), progress_bars() as show:
        candidates = load_candidates(
            *(data, task, base, settings, columns),
            bases=out / "bases",
            people=people,
            max_items=max_items,
            progress=show,
            check=planned,
        )
        result = attack(planned(candidates), out=out, cache=cache or out / "cache", progress=show)
    return leave_result(result, out)
