"""`proper-sim privacy linkage`: options, and what is left in OUT."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from simulations.outcome.timings import progress_bars
from simulations.privacy.results.options import (
    Cache,
    Out,
    Preset,
    Seeds,
    names,
    numbers,
    structure_for,
)


def linkage(
    out: Out,
    data: Annotated[
        str,
        typer.Argument(
            metavar="DATA",
            help="Synthetic people, whose groups are known: demo, demo:rate, demo:tag, demo:text.",
        ),
    ] = "demo",
    preset: Preset = None,
    profile: Annotated[str, typer.Option(help="Hyperparameters.")] = "demo",
    seeds: Seeds = "0,1,2,3,4",
    things: Annotated[
        str,
        typer.Option(
            metavar="A,B",
            help="What is held: embedding, user-routing, routing, adapter, adapter-factors, answers.",
        ),
    ] = "embedding,user-routing,routing,adapter,adapter-factors,answers",
    ask: Annotated[
        str,
        typer.Option(
            metavar="A,B",
            help="What is asked: group, same-release, other-seed, more-people, two-tasks.",
        ),
    ] = "group,same-release,other-seed,more-people,two-tasks",
    people: Annotated[
        int, typer.Option(min=6, metavar="N", help="How many are attacked, a multiple of 3.")
    ] = 30,
    cache: Cache = None,
) -> dict[str, Any]:
    """Name people's groups, and find the same person again, from what may leave or leak.

    Finished seeds in OUT are not trained again.
    """
    from proper_model.settings import load_profile
    from proper_model.storage.files import storage_errors
    from simulations.privacy.linkage.attacks import SCOPES, THINGS
    from simulations.privacy.linkage.people import plant
    from simulations.privacy.linkage.seeds import Plan, linkage_of
    from simulations.privacy.results.told import leave_result

    drawn, settings = numbers(seeds), load_profile(profile)
    structure = structure_for(preset, settings)
    scopes, held = names(ask, SCOPES, "--ask"), names(things, THINGS, "--things")
    with storage_errors(out), progress_bars() as show:
        planted = plant(
            data,
            settings,
            attacked=people,
            two_tasks="two-tasks" in scopes,
            bases=out / "bases",
            progress=show,
        )
        plan = Plan(planted, people, structure, settings, drawn, scopes, held)
        result = linkage_of(plan, out=out, cache=cache or out / "cache", progress=show)
    return leave_result(result, out)
