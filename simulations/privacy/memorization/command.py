"""`proper-sim privacy canaries`: options, and what is left in OUT."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from simulations.outcome.timings import progress_bars
from simulations.privacy.results.options import (
    BaseOf,
    Cache,
    ColumnsOf,
    Out,
    People,
    Preset,
    ProfileOf,
    TaskOf,
    counts,
    names,
    numbers,
    profile_for,
    structure_for,
)

if TYPE_CHECKING:
    from pathlib import Path

    from proper_model.progress import Progress
    from proper_model.settings import StageSettings
    from simulations.privacy.membership.population import Candidates

MOST_ITEMS = 60

Data = Annotated[
    str,
    typer.Argument(
        metavar="DATA",
        help="People whose answers are texts: 'demo:text', or a folder with OPPU's or LaMP's files.",
    ),
]
Chosen = Annotated[
    Literal["random", "new-token"],
    typer.Option(
        help="What a secret is: words that people use, or a token that stands in no text."
    ),
]
Insertions = Annotated[
    str, typer.Option(metavar="N,M", help="How often canaries stand in people's items.")
]
Others = Annotated[
    int, typer.Option(metavar="R", min=15, help="Secrets that never train, to be ranked among.")
]
Samples = Annotated[
    int, typer.Option(metavar="S", min=1, help="Answers that a sampled extraction draws.")
]
Things = Annotated[
    str,
    typer.Option(
        metavar="A,B",
        help="What is asked: adapter, release, rag-1, rag-4, pag-counted, full-history.",
    ),
]
EVERYTHING = "adapter,release,rag-1,rag-4,pag-counted,full-history"


def canaries(
    out: Out,
    data: Data = "demo:text",
    task: TaskOf = None,
    base: BaseOf = None,
    columns: ColumnsOf = None,
    preset: Preset = None,
    profile: ProfileOf = None,
    seeds: Annotated[
        str, typer.Option(metavar="S,T", help="Draws of members and canaries.")
    ] = "0,1,2,3,4",
    design: Chosen = "random",
    insertions: Insertions = "1,4,16",
    candidates: Others = 255,
    samples: Samples = 100,
    things: Things = EVERYTHING,
    people: People = None,
    cache: Cache = None,
) -> dict[str, Any]:
    """Plant secrets in people's items, and ask adapters, a release, and a server for them.

    Finished seeds in OUT are not trained again.
    """
    from proper_model.storage.files import storage_errors
    from simulations.privacy.memorization.attacks import THINGS
    from simulations.privacy.memorization.seeds import canaries_of, prepared
    from simulations.privacy.results.told import leave_result

    drawn, planted = numbers(seeds), counts(insertions, "--insertions")
    asked, settings = names(things, THINGS, "--things"), settings_of(data, profile)
    structure = structure_for(preset, settings)
    with storage_errors(out), progress_bars() as show:
        plan = prepared(
            people_of(data, task, base, settings, out / "bases", people, show, columns),
            structure,
            settings,
            design=design,
            seeds=drawn,
            insertions=planted,
            others=candidates,
            samples=samples,
            things=asked,
            bases=out / "bases",
        )
        result = canaries_of(plan, out=out, cache=cache or out / "cache", progress=show)
    return leave_result(result, out)


def settings_of(data: str, profile: str | None) -> StageSettings:
    """The profile; synthetic people whose answers hold no secret are refused before a base is made."""
    from proper_model.tasks import load_task
    from simulations.privacy.memorization.planting import check_task
    from simulations.setup.options import DEMOS

    if data in DEMOS:
        check_task(load_task(DEMOS[data]))
    return profile_for(data, profile)


def people_of(
    data: str,
    task: str | None,
    base: str | None,
    settings: StageSettings,
    bases: Path,
    people: int | None,
    show: Progress,
    columns: str | None,
) -> Candidates:
    """Candidates with at most MOST_ITEMS items each; what takes no canary is refused before a base is made."""
    from simulations.privacy.membership.population import load_candidates
    from simulations.privacy.memorization.planting import check_people

    return load_candidates(
        *(data, task, base, settings, columns),
        bases=bases,
        people=people,
        max_items=MOST_ITEMS,
        progress=show,
        check=check_people,
    )
