"""`proper-sim privacy backdoor`: options, and what is left in OUT."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from simulations.outcome.timings import progress_bars
from simulations.privacy.memorization.command import (
    Data,
    Insertions,
    Others,
    people_of,
    settings_of,
)
from simulations.privacy.results.options import (
    LEAST_PEOPLE,
    BaseOf,
    Cache,
    ColumnsOf,
    Out,
    Preset,
    ProfileOf,
    Seeds,
    TaskOf,
    counts,
    names,
    numbers,
    structure_for,
)

EVERYTHING = (
    "fixed,recipe-bold,recipe-bounded,scale-bold,scale-bounded,start-bold,start-bounded,"
    "experts-bold,experts-bounded,outliers-bold,outliers-bounded"
)
SAMPLES = 100


def backdoor(
    out: Out,
    data: Data = "demo:text",
    task: TaskOf = None,
    base: BaseOf = None,
    columns: ColumnsOf = None,
    preset: Preset = None,
    profile: ProfileOf = None,
    seeds: Seeds = "0,1,2,3,4",
    insertions: Insertions = "1,4",
    candidates: Others = 127,
    traps: Annotated[
        str, typer.Option(metavar="A,B", help="Which releases are tried; see docs/privacy.md.")
    ] = EVERYTHING,
    people: Annotated[
        int,
        typer.Option(
            min=LEAST_PEOPLE, metavar="N", help="At most N candidates, half of them newcomers."
        ),
    ] = 24,
    cache: Cache = None,
) -> dict[str, Any]:
    """Ship releases that make adapters store their items, and see what checks and thieves find.

    Finished seeds in OUT are not trained again.
    """
    from proper_model.storage.files import storage_errors
    from simulations.privacy.backdoor.seeds import Plan, backdoor_of
    from simulations.privacy.backdoor.traps import TRAPS
    from simulations.privacy.memorization.seeds import prepared
    from simulations.privacy.results.told import leave_result

    drawn, planted = numbers(seeds), counts(insertions, "--insertions")
    tried, settings = names(traps, TRAPS, "--traps"), settings_of(data, profile)
    structure = structure_for(preset, settings)
    with storage_errors(out), progress_bars() as show:
        plan = prepared(
            people_of(data, task, base, settings, out / "bases", people, show, columns),
            structure,
            settings,
            design="random",
            seeds=drawn,
            insertions=planted,
            others=candidates,
            samples=SAMPLES,
            things=("adapter",),
            bases=out / "bases",
        )
        result = backdoor_of(
            Plan(plan, tried), out=out, cache=cache or out / "cache", progress=show
        )
    return leave_result(result, out)
