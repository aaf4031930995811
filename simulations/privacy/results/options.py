"""Options that several attacks have: lists of names, of seeds and of counts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from proper_model.errors import ConfigError

Out = Annotated[Path, typer.Option(metavar="OUT", help="Folder for result, table, page and seeds.")]
Seeds = Annotated[str, typer.Option(metavar="S,T", help="Draws of people and parts.")]
Cache = Annotated[Path | None, typer.Option(help="Folder of finished phases. (default: OUT/cache)")]


def names(text: str, known: Sequence[str], option: str) -> tuple[str, ...]:
    """Different names out of `A,B`, all of them known. Raises ConfigError."""
    found = tuple(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    unknown = sorted(set(found) - set(known))
    if unknown or not found:
        raise ConfigError(
            f"{option}: unknown {unknown}" if unknown else f"{option} names nothing",
            hint="known: " + ", ".join(known),
        )
    return found


def numbers(
    text: str, option: str = "--seeds", such_as: str = "0,1,2,3,4"
) -> tuple[int, ...]:
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
