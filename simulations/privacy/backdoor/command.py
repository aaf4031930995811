"""`proper-sim privacy backdoor`: options, and what is left in OUT."""

from __future__ import annotations

from typing import Annotated

import typer

from simulations.outcome.timings import progress_bars
from simulations.privacy.results.options import (
    BaseOf,
    Cache,
    Out,
    Preset,
    ProfileOf,
    Seeds,
    TaskOf,
    counts,
    names,
    numbers,
    profile_for,
)

EVERYTHING = (
    "fixed,recipe-bold,recipe-bounded,scale-bold,scale-bounded,start-bold,start-bounded,"
    "experts-bold,experts-bounded,outliers-bold,outliers-bounded"
)
MOST_ITEMS = 60


def backdoor(
    out: Out,
    data: Annotated[
        str,
        typer.Argument(
            metavar="DATA",
            help="People whose answers are texts: 'demo:text', or a folder with OPPU's or LaMP's files.",
        ),
    ] = "demo:text",
    task: TaskOf = None,
    base: BaseOf = None,
    preset: Preset = "default",
    profile: ProfileOf = None,
    seeds: Seeds = "0,1,2,3,4",
    insertions: Annotated[
        str, typer.Option(metavar="N,M", help="How often canaries stand in people's items.")
    ] = "1,4",
    candidates: Annotated[
        int, typer.Option(metavar="R", min=15, help="Secrets that never train, to be ranked among.")
    ] = 127,
    traps: Annotated[
        str, typer.Option(metavar="A,B", help="Which releases are tried; see docs/privacy.md.")
    ] = EVERYTHING,
    people: Annotated[
        int, typer.Option(metavar="N", help="At most N candidates, half of them newcomers.")
    ] = 24,
    cache: Cache = None,
) -> None:
    """Ship releases that make adapters store their items, and see what checks and thieves find.

    Finished seeds in OUT are not trained again.
    """
    from proper_model.settings import preset as structure_of
    from proper_model.storage.files import storage_errors
    from proper_model.tasks import load_task
    from simulations.privacy.backdoor.seeds import Plan, backdoor_of
    from simulations.privacy.backdoor.traps import TRAPS
    from simulations.privacy.membership.population import load_candidates
    from simulations.privacy.memorization.planting import check_task
    from simulations.privacy.memorization.seeds import prepared
    from simulations.privacy.results.backdoor_show import leave_backdoor
    from simulations.setup.options import DEMOS

    drawn, planted = numbers(seeds), counts(insertions, "--insertions")
    tried, structure = names(traps, TRAPS, "--traps"), structure_of(preset)
    if data in DEMOS:
        check_task(load_task(DEMOS[data]))
    settings = profile_for(data, profile)
    with storage_errors(out), progress_bars() as show:
        given = load_candidates(
            *(data, task, base, settings),
            bases=out / "bases",
            people=people,
            max_items=MOST_ITEMS,
            progress=show,
        )
        plan = prepared(
            given,
            structure,
            settings,
            design="random",
            seeds=drawn,
            insertions=planted,
            others=candidates,
            samples=100,
            things=("adapter",),
            bases=out / "bases",
        )
        result = backdoor_of(
            Plan(plan, tried), out=out, cache=cache or out / "cache", progress=show
        )
    leave_backdoor(result, out)
