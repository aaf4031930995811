"""`proper-sim privacy poisoning`: options, and what is left in OUT."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from simulations.outcome.timings import progress_bars
from simulations.privacy.results.options import (
    LEAST_PEOPLE,
    BaseOf,
    Cache,
    ColumnsOf,
    Data,
    Out,
    Preset,
    ProfileOf,
    Seeds,
    TaskOf,
    counts,
    names,
    numbers,
    profile_for,
    structure_for,
)

NEWCOMERS = 12

Malicious = Annotated[
    str,
    typer.Option(metavar="N,M", help="How many pooled users mean harm, at most half of --pooled."),
]
Pooled = Annotated[int, typer.Option(metavar="N", min=4, help="How many are pooled.")]
AtMost = Annotated[
    int | None,
    typer.Option(
        "--people",
        min=LEAST_PEOPLE,
        metavar="N",
        help=f"At most N people. (default: {NEWCOMERS} newcomers)",
    ),
]
MaxItems = Annotated[
    int, typer.Option(metavar="N", min=12, help="Newest items of an honest person.")
]
Things = Annotated[
    str | None,
    typer.Option(
        metavar="A,B",
        help="What is poisoned: population, experts, router. (default: what the preset has)",
    ),
]
Defences = Annotated[
    str, typer.Option(metavar="A,B", help="What is tried: none, items, clip, trim, both.")
]


def poisoning(
    out: Out,
    data: Data = "demo",
    task: TaskOf = None,
    base: BaseOf = None,
    columns: ColumnsOf = None,
    preset: Preset = None,
    profile: ProfileOf = None,
    seeds: Seeds = "0,1,2,3,4",
    malicious: Malicious = "1,5",
    pooled: Pooled = 50,
    people: AtMost = None,
    max_items: MaxItems = 12,
    things: Things = None,
    defences: Defences = "none,items,clip,trim",
    cache: Cache = None,
) -> dict[str, Any]:
    """Put a trigger into some pooled users' items, and see whom it answers after training.

    Finished seeds in OUT are not trained again.
    """
    from proper_model.storage.files import storage_errors
    from simulations.privacy.membership.population import Candidates, load_candidates
    from simulations.privacy.poisoning.attacks import THINGS
    from simulations.privacy.poisoning.defences import DEFENCES
    from simulations.privacy.poisoning.seeds import Plan, poisoning_of
    from simulations.privacy.results.told import leave_result

    drawn, bad = numbers(seeds), counts(malicious, "--malicious", most=1000)
    tried = names(defences, tuple(DEFENCES), "--defences")
    settings = profile_for(data, profile)
    structure = structure_for(preset, settings)
    usual = THINGS if structure.has_lora_router else THINGS[:-1]  # without the router
    asked = names(things or ",".join(usual), THINGS, "--things")

    def planned(candidates: Candidates) -> Plan:
        return Plan(candidates, structure, settings, drawn, asked, tried, bad, pooled)

    with storage_errors(out), progress_bars() as show:
        candidates = load_candidates(
            *(data, task, base, settings, columns),
            bases=out / "bases",
            people=pooled + NEWCOMERS if people is None else people,
            max_items=max_items,
            progress=show,
            check=planned,
        )
        result = poisoning_of(
            planned(candidates), out=out, cache=cache or out / "cache", progress=show
        )
    return leave_result(result, out)
