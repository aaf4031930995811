"""`proper-sim privacy epsilon`: options, and what is left in OUT."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any

import typer

from proper_model.errors import ConfigError
from proper_model.settings import preset
from simulations.outcome.timings import progress_bars
from simulations.privacy.results.options import (
    BaseOf,
    Cache,
    ColumnsOf,
    Data,
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
_OF = "(default: the profile's, else "

Epsilons = Annotated[str, typer.Option(metavar="E,F", help="What is promised; inf: no noise.")]
Everybody = Annotated[
    int,
    typer.Option("--people", min=10, metavar="N", help="Everybody: newcomers and pooled users."),
]
Newcomers = Annotated[
    int, typer.Option(min=2, metavar="N", help="Of these, who never train and are judged on.")
]
MaxItems = Annotated[
    int, typer.Option(min=12, metavar="N", help="Newest items of a person, at most.")
]
Crafted = Annotated[
    int, typer.Option(min=10, max=5000, metavar="N", help="Users with crafted gradients, a seed.")
]
# How a step is taken; what is not given is the profile's, or the default.
Delta = Annotated[float | None, typer.Option(help=f"Of every promise. {_OF}1e-5)")]
Rate = Annotated[float | None, typer.Option(help=f"That a user takes part in a step. {_OF}0.5)")]
Clip = Annotated[float | None, typer.Option(help=f"Most that a user adds to a step. {_OF}0.5)")]
Steps = Annotated[str | None, typer.Option(metavar="S,T", help=f"Of stages 1, 2. {_OF}40,40)")]
LearningRates = Annotated[
    str | None,
    typer.Option(metavar="R,S", help="Of steps of stages 1, 2. (default: the profile's)"),
]
Items = Annotated[int | None, typer.Option(help=f"Of a user in a step, at most. {_OF}8)")]
Core = Annotated[
    bool | None,
    typer.Option(
        "--core/--no-core",
        help=f"Train r x r numbers of each LoRA, or the factor B. {_OF}the core)",
    ),
]


def epsilon(
    data: Data,
    out: Out,
    task: TaskOf = None,
    base: BaseOf = None,
    columns: ColumnsOf = None,
    profile: ProfileOf = None,
    epsilons: Epsilons = "1,2,4,8,inf",
    seeds: Seeds = "0,1,2,3,4",
    people: Everybody = 144,
    newcomers: Newcomers = 24,
    max_items: MaxItems = 60,
    delta: Delta = None,
    sampling_rate: Rate = None,
    clip: Clip = None,
    steps: Steps = None,
    learning_rates: LearningRates = None,
    items_per_user: Items = None,
    core: Core = None,
    canaries: Crafted = 400,
    cache: Cache = None,
) -> dict[str, Any]:
    """What user-level privacy of stages 1 and 2 costs newcomers, and what audits show of each epsilon.

    A finite epsilon needs `make accountant`. Finished seeds of an epsilon in OUT are not trained again.
    """
    from proper_model.storage.files import storage_errors
    from simulations.privacy.epsilon.plan import Plan, plain, promises_of
    from simulations.privacy.epsilon.seeds import epsilon_of
    from simulations.privacy.membership.population import Candidates, load_candidates
    from simulations.privacy.results.told import leave_result

    drawn, asked, structure = numbers(seeds), profile_for(data, profile), preset(PRESET)
    terms = _terms(
        asked,
        delta=delta,
        sampling_rate=sampling_rate,
        clip_norm=clip,
        items_per_user=items_per_user,
        core=core,
        **_pair(steps, int, "--steps", "40,40", "steps"),
        **_pair(learning_rates, float, "--learning-rates", "0.1,0.02", "learning_rate"),
    )
    (promises, said), settings = promises_of(_epsilons(epsilons), terms, structure), plain(asked)
    kind = structure, settings, promises, terms.delta

    def planned(found: Candidates) -> Plan:
        return Plan(found, newcomers, *kind, drawn, canaries, said)

    with storage_errors(out), progress_bars() as show:
        found = load_candidates(
            *(data, task, base, settings, columns),
            bases=out / "bases",
            people=people,
            max_items=max_items,
            progress=show,
            check=planned,
        )
        result = epsilon_of(planned(found), out=out, cache=cache or out / "cache", progress=show)
    return leave_result(result, out)


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


def _terms(settings: StageSettings, **asked: Any) -> PrivacySettings:
    """How a step is taken: what is asked for, else the profile's, else a default."""
    from proper_model.settings import PrivacySettings

    terms = settings.privacy or PrivacySettings(
        delta=1e-5,
        sampling_rate=0.5,
        clip_norm=0.5,
        population_steps=40,
        group_steps=40,
        epsilon=1.0,  # stands in for what --epsilons says
        core=True,
    )
    return replace(terms, **{name: one for name, one in asked.items() if one is not None})


def _pair(
    text: str | None, kind: type[int | float], option: str, example: str, name: str
) -> dict[str, float]:
    """Of stage 1 and of stage 2, by the names of the settings. Raises ConfigError."""
    if text is None:
        return {}
    try:
        first, second = (kind(part) for part in text.split(","))
    except ValueError:
        raise ConfigError(
            f"{option} takes two numbers", hint=f"such as {option} {example}"
        ) from None
    return {f"population_{name}": first, f"group_{name}": second}
