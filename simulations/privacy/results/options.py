"""Options that several attacks have: lists of names, of seeds and of counts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from proper_model.errors import ConfigError

if TYPE_CHECKING:
    from proper_model.settings import StageSettings, Structure

Name = TypeVar("Name", bound=str)
LEAST_PEOPLE = 8  # half are pooled: of fewer nothing is told from chance


def free_folder(given: Path | None) -> Path | None:
    """A folder that is there or can be, checked while options are read: before people and bases are made.

    Raises ConfigError if it, or a part of its path, is a file.
    """
    from simulations.setup.options import check_free

    if given is not None:
        for place in (given, *given.absolute().parents):
            check_free(place, hint="give another folder")
    return given


Out = Annotated[
    Path,
    typer.Option(
        metavar="OUT", help="Folder for result, table, page and seeds.", callback=free_folder
    ),
]
Data = Annotated[
    str,
    typer.Argument(
        metavar="DATA",
        help="Folder with OPPU's or LaMP's files, a dataset (hf:NAME), or 'demo' (also demo:rate, demo:tag, "
        "demo:text).",
    ),
]
TaskOf = Annotated[str | None, typer.Option("--task", metavar="T", help="Task of a data folder.")]
BaseOf = Annotated[str | None, typer.Option("--base", metavar="B", help="Base for a data folder.")]
ColumnsOf = Annotated[
    str | None,
    typer.Option("--columns", metavar="USER=COLUMN,...", help="What a dataset's columns mean."),
]
Preset = Annotated[
    str | None, typer.Option(help="Structure of the model. (default: the usual one of the profile)")
]
ProfileOf = Annotated[
    str | None,
    typer.Option("--profile", help="Hyperparameters. (default: demo for the demo, else tiny)"),
]
People = Annotated[
    int | None,
    typer.Option(
        "--people",
        min=LEAST_PEOPLE,
        metavar="N",
        help="At most N candidates. (default: all; demo: 48)",
    ),
]
Seeds = Annotated[str, typer.Option(metavar="S,T", help="Draws of people and parts.")]
Cache = Annotated[
    Path | None,
    typer.Option(help="Folder of finished phases. (default: OUT/cache)", callback=free_folder),
]


def profile_for(data: str, profile: str | None) -> StageSettings:
    """The profile asked for, or the usual one of synthetic people and of others."""
    from proper_model.settings import load_profile
    from simulations.setup.options import DEMOS

    return load_profile(profile or ("demo" if data in DEMOS else "tiny"))


def structure_for(preset: str | None, settings: StageSettings) -> Structure:
    """The structure asked for, or what people use under a profile who name none."""
    from proper_model.settings import preset as structure_of
    from proper_model.settings import usual_preset

    return structure_of(preset or usual_preset(settings))


def names(text: str, known: Sequence[Name], option: str) -> tuple[Name, ...]:
    """Different names out of `A,B`, all of them known. Raises ConfigError."""
    found = tuple(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    unknown = sorted(set(found) - set(known))
    if unknown or not found:
        raise ConfigError(
            f"{option}: unknown {unknown}" if unknown else f"{option} names nothing",
            hint="known: " + ", ".join(known),
        )
    return tuple(known[known.index(name)] for name in found)


def numbers(text: str, option: str = "--seeds", such_as: str = "0,1,2,3,4") -> tuple[int, ...]:
    """Different numbers from 0 on out of `S,T`. Raises ConfigError."""
    try:
        found = tuple(int(part) for part in text.split(","))
    except ValueError:
        found = ()
    if not found or min(found) < 0 or len(set(found)) != len(found):
        raise ConfigError(
            f"{option} takes different numbers from 0 on", hint=f"such as {option} {such_as}"
        )
    return found


def counts(text: str, option: str, *, most: int = 64) -> tuple[int, ...]:
    """Different numbers from 1 to `most` out of `N,M`, in ascending order. Raises ConfigError."""
    try:
        found = sorted({int(part) for part in text.split(",")})
    except ValueError:
        found = []
    if not found or found[0] < 1 or found[-1] > most:
        raise ConfigError(
            f"{option} takes numbers from 1 to {most}", hint=f"such as {option} 1,4,16"
        )
    return tuple(found)
