"""`proper-sim privacy canaries`: options, and what is left in OUT."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from simulations.outcome.timings import progress_bars

MOST_ITEMS = 60


def canaries(
    out: Annotated[
        Path, typer.Option(metavar="OUT", help="Folder for result, table, page and seeds.")
    ],
    data: Annotated[
        str,
        typer.Argument(
            metavar="DATA",
            help="People whose answers are texts: 'demo:text', or a folder with OPPU's or LaMP's files.",
        ),
    ] = "demo:text",
    task: Annotated[str | None, typer.Option(metavar="T", help="Task of a data folder.")] = None,
    base: Annotated[str | None, typer.Option(metavar="B", help="Base for a data folder.")] = None,
    preset: Annotated[str, typer.Option(help="Structure of the model.")] = "default",
    profile: Annotated[
        str | None, typer.Option(help="Hyperparameters. (default: demo for the demo, else tiny)")
    ] = None,
    seeds: Annotated[
        str, typer.Option(metavar="S,T", help="Draws of members and canaries.")
    ] = "0,1,2,3,4",
    design: Annotated[
        Literal["random", "new-token"],
        typer.Option(
            help="What a secret is: words that people use, or a token that stands in no text."
        ),
    ] = "random",
    insertions: Annotated[
        str, typer.Option(metavar="N,M", help="How often canaries stand in people's items.")
    ] = "1,4,16",
    candidates: Annotated[
        int, typer.Option(metavar="R", min=15, help="Secrets that never train, to be ranked among.")
    ] = 255,
    samples: Annotated[
        int, typer.Option(metavar="S", min=1, help="Answers that a sampled extraction draws.")
    ] = 100,
    things: Annotated[
        str,
        typer.Option(
            metavar="A,B",
            help="What is asked: adapter, release, rag-1, rag-4, pag-counted, full-history.",
        ),
    ] = "adapter,release,rag-1,rag-4,pag-counted,full-history",
    people: Annotated[
        int | None, typer.Option(metavar="N", help="At most N candidates. (default: all; demo: 48)")
    ] = None,
    cache: Annotated[
        Path | None, typer.Option(help="Folder of finished phases. (default: OUT/cache)")
    ] = None,
) -> None:
    """Plant secrets in people's items, and ask adapters, a release, and a server for them.

    Finished seeds in OUT are not trained again.
    """
    from proper_model.settings import load_profile
    from proper_model.settings import preset as structure_of
    from proper_model.storage.files import storage_errors
    from proper_model.tasks import load_task
    from simulations.privacy.membership.population import load_candidates
    from simulations.privacy.memorization.attacks import THINGS
    from simulations.privacy.memorization.planting import check_task
    from simulations.privacy.memorization.seeds import canaries_of, prepared
    from simulations.privacy.results.canary_show import leave
    from simulations.privacy.results.options import counts, names, numbers
    from simulations.setup.options import DEMOS

    drawn, planted = numbers(seeds), counts(insertions, "--insertions")
    asked = names(things, THINGS, "--things")
    if data in DEMOS:  # before a base is made for it
        check_task(load_task(DEMOS[data]))
    settings = load_profile(profile or ("demo" if data in DEMOS else "tiny"))
    structure = structure_of(preset)
    with storage_errors(out), progress_bars() as show:
        found = load_candidates(
            *(data, task, base, settings),
            bases=out / "bases",
            people=people,
            max_items=MOST_ITEMS,
            progress=show,
        )
        plan = prepared(
            *(found, structure, settings),
            design=design,
            seeds=drawn,
            insertions=planted,
            others=candidates,
            samples=samples,
            things=asked,
            bases=out / "bases",
        )
        result = canaries_of(plan, out=out, cache=cache or out / "cache", progress=show)
    leave(result, out)
