"""`proper-sim privacy deletion`: options, and what is left in OUT."""

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
    Seeds,
    TaskOf,
    names,
    numbers,
    profile_for,
    structure_for,
)

EVERYTHING = "population,experts,embeddings,adapter,remains"


def deletion(
    out: Out,
    data: Data = "demo",
    task: TaskOf = None,
    base: BaseOf = None,
    columns: ColumnsOf = None,
    preset: Preset = None,
    profile: ProfileOf = None,
    seeds: Seeds = "0,1,2,3,4",
    things: Annotated[
        str,
        typer.Option(
            metavar="A,B",
            help="What to look at: population, experts, embeddings (people withdraw), adapter "
            "(items are forgotten), remains (in folders).",
        ),
    ] = EVERYTHING,
    people: People = None,
    max_items: Annotated[
        int, typer.Option(min=12, metavar="N", help="Newest items of a candidate, at most.")
    ] = 60,
    cache: Cache = None,
) -> dict[str, Any]:
    """Let people withdraw and devices forget, and measure what is left against exact retraining.

    Finished seeds in OUT are not trained again.
    """
    from proper_model.storage.files import storage_errors
    from simulations.privacy.deletion.seeds import THINGS, Plan, deletion_of
    from simulations.privacy.membership.population import Candidates, load_candidates
    from simulations.privacy.results.told import leave_result

    drawn, settings = numbers(seeds), profile_for(data, profile)
    asked, structure = names(things, THINGS, "--things"), structure_for(preset, settings)

    def planned(candidates: Candidates) -> Plan:
        return Plan(candidates, structure, settings, drawn, asked)

    with storage_errors(out), progress_bars() as show:
        candidates = load_candidates(
            *(data, task, base, settings, columns),
            bases=out / "bases",
            people=people,
            max_items=max_items,
            progress=show,
            check=planned,
        )
        result = deletion_of(
            planned(candidates), out=out, cache=cache or out / "cache", progress=show
        )
    return leave_result(result, out)
