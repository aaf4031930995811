"""`proper-sim privacy epsilon`: options, and what is left in OUT."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from proper_model.errors import ConfigError
from simulations.outcome.timings import progress_bars
from simulations.privacy.results.options import (
    BaseOf,
    Cache,
    Out,
    ProfileOf,
    Seeds,
    TaskOf,
    numbers,
    profile_for,
)

if TYPE_CHECKING:
    from proper_model.settings import PrivacySettings, StageSettings

PRESET = "calibrated"  # the only one that privacy covers whole (docs/method.md 1.12)


def epsilon(
    data: Annotated[
        str,
        typer.Argument(
            metavar="DATA",
            help="Folder with OPPU's or LaMP's files, or 'demo' (also demo:rate, demo:text).",
            show_default=False,
        ),
    ],
    out: Out,
    task: TaskOf = None,
    base: BaseOf = None,
    profile: ProfileOf = None,
    epsilons: Annotated[
        str, typer.Option(metavar="E,F", help="What is promised; inf: no noise.")
    ] = "1,2,4,8,inf",
    seeds: Seeds = "0,1,2,3,4",
    people: Annotated[
        int, typer.Option(min=10, metavar="N", help="Everybody: newcomers and pooled users.")
    ] = 144,
    newcomers: Annotated[
        int, typer.Option(min=2, metavar="N", help="Of these, who never train and are judged on.")
    ] = 24,
    max_items: Annotated[
        int, typer.Option(min=12, metavar="N", help="Newest items of a person, at most.")
    ] = 60,
    delta: Annotated[float | None, typer.Option(help="(default: the profile's, else 1e-5)")] = None,
    sampling_rate: Annotated[
        float | None,
        typer.Option(help="That a user takes part in a step. (default: the profile's, else 0.5)"),
    ] = None,
    clip: Annotated[
        float | None,
        typer.Option(help="Most that a user adds to a step. (default: the profile's, else 0.5)"),
    ] = None,
    steps: Annotated[
        str | None,
        typer.Option(metavar="S,T", help="Of stages 1, 2. (default: the profile's, else 40,40)"),
    ] = None,
    items_per_user: Annotated[
        int | None,
        typer.Option(help="Of a user in a step, at most. (default: the profile's, else 8)"),
    ] = None,
    canaries: Annotated[
        int, typer.Option(min=10, max=5000, metavar="N", help="Crafted users a seed.")
    ] = 400,
    cache: Cache = None,
) -> None:
    """What user-level privacy of stages 1 and 2 costs newcomers, and what audits show of each epsilon.

    Every finite epsilon needs the accountant: `make accountant`. Finished seeds of an epsilon in OUT are not
    trained again.
    """
    from proper_model.settings import preset
    from simulations.privacy.epsilon.plan import Plan, plain, promises_of
    from simulations.privacy.epsilon.seeds import epsilon_of
    from simulations.privacy.membership.population import load_candidates
    from simulations.privacy.results.epsilon_show import leave_epsilon

    drawn, settings, structure = numbers(seeds), profile_for(data, profile), preset(PRESET)
    terms = _terms(settings, delta, sampling_rate, clip, steps, items_per_user)
    promises, accountant = promises_of(_epsilons(epsilons), terms, structure)
    with progress_bars() as show:
        candidates = load_candidates(
            data,
            task,
            base,
            plain(settings),
            bases=out / "bases",
            people=people,
            max_items=max_items,
            progress=show,
        )
        plan = Plan(
            candidates,
            newcomers,
            structure,
            plain(settings),
            promises,
            terms.delta,
            drawn,
            canaries,
            accountant,
        )
        result = epsilon_of(plan, out=out, cache=cache or out / "cache", progress=show)
    leave_epsilon(result, out)


def _epsilons(text: str) -> list[float]:
    """Different positive numbers, or inf, in ascending order. Raises ConfigError."""
    try:
        found = sorted({float(part) for part in text.split(",")})
    except ValueError:
        found = []
    if not found or not all(value > 0 for value in found):
        raise ConfigError(
            "--epsilons takes numbers above 0, or inf", hint="such as --epsilons 1,8,inf"
        )
    return found


def _terms(
    settings: StageSettings,
    delta: float | None,
    sampling_rate: float | None,
    clip: float | None,
    steps: str | None,
    items_per_user: int | None,
) -> PrivacySettings:
    """How a step is taken: what is asked for, else the profile's, else a default."""
    from dataclasses import replace

    from proper_model.settings import PrivacySettings

    terms = settings.privacy or PrivacySettings(
        delta=1e-5,
        sampling_rate=0.5,
        clip_norm=0.5,
        population_steps=40,
        group_steps=40,
        epsilon=1.0,  # stands in for what --epsilons says
    )
    first, second = _steps(steps) if steps else (terms.population_steps, terms.group_steps)
    return replace(
        terms,
        delta=terms.delta if delta is None else delta,
        sampling_rate=terms.sampling_rate if sampling_rate is None else sampling_rate,
        clip_norm=terms.clip_norm if clip is None else clip,
        population_steps=first,
        group_steps=second,
        items_per_user=terms.items_per_user if items_per_user is None else items_per_user,
    )


def _steps(text: str) -> tuple[int, int]:
    try:
        first, second = (int(part) for part in text.split(","))
    except ValueError:
        raise ConfigError("--steps takes two numbers", hint="such as --steps 40,40") from None
    return first, second
