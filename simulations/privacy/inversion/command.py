"""`proper-sim privacy inversion`: options, and what is left in OUT."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated, Any

import typer

from proper_model.errors import ConfigError
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

if TYPE_CHECKING:
    from simulations.privacy.statistics.inverting import Defence


def inversion(
    out: Out,
    data: Annotated[
        str,
        typer.Argument(
            metavar="DATA", help="Synthetic people: demo, demo:rate, demo:tag, demo:text."
        ),
    ] = "demo",
    preset: Preset = None,
    profile: Annotated[str, typer.Option(help="Hyperparameters.")] = "demo",
    seeds: Seeds = "0,1,2,3,4",
    uploads: Annotated[
        str, typer.Option(metavar="A,B", help="What would be sent: router, lora, lora-update.")
    ] = "router,lora,lora-update",
    batch: Annotated[
        str, typer.Option(metavar="M,N", help="How many texts an upload is of.")
    ] = "1,4",
    noise: Annotated[
        str,
        typer.Option(
            metavar="Z,Y",
            help="Noise multipliers, beside no defence at all; 0: clipping alone.",
        ),
    ] = "0,0.1,1",
    people: Annotated[
        int, typer.Option(min=6, metavar="N", help="How many participants, a multiple of 3.")
    ] = 30,
    steps: Annotated[
        int, typer.Option(metavar="N", help="Steps of gradient matching; 0: without it.")
    ] = 150,
    cache: Cache = None,
) -> dict[str, Any]:
    """Rebuild texts from gradients that a participant would upload. Nothing uploads them today.

    Finished seeds in OUT are not trained again.
    """
    from proper_model.settings import load_profile
    from proper_model.storage.files import storage_errors
    from simulations.privacy.inversion.attacks import UPLOADS
    from simulations.privacy.inversion.seeds import Plan, check_options, inversion_of
    from simulations.privacy.linkage.people import plant
    from simulations.privacy.results.told import leave_result

    drawn, settings = numbers(seeds), load_profile(profile)
    structure = structure_for(preset, settings)
    sent, sizes = names(uploads, UPLOADS, "--uploads"), numbers(batch, "--batch", "1,4")
    defences = _defences(noise)
    check_options(structure, sent, sizes, steps)
    with storage_errors(out), progress_bars() as show:
        planted = plant(
            data, settings, attacked=people, two_tasks=False, bases=out / "bases", progress=show
        )
        plan = Plan(planted, people, structure, settings, drawn, sent, defences, sizes, steps)
        result = inversion_of(plan, out=out, cache=cache or out / "cache", progress=show)
    return leave_result(result, out)


def _defences(noise: str) -> tuple[Defence, ...]:
    """None, and clipping with each of the noise multipliers. Raises ConfigError."""
    from simulations.privacy.statistics.inverting import Defence

    try:
        found = [float(part) for part in noise.split(",") if part.strip()]
    except ValueError:
        found = [-1.0]
    if any(not math.isfinite(z) or z < 0 for z in found):
        raise ConfigError("--noise takes numbers from 0 on", hint="such as --noise 0,0.1,1")
    return (Defence(), *(Defence(clips=True, noise=z) for z in dict.fromkeys(found)))
