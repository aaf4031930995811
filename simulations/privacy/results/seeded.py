"""What every attack's file says that was trained under several seeds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from pydantic import Field

from simulations.outcome import environment
from simulations.outcome.results import Document, Hardware

if TYPE_CHECKING:
    from proper_model.settings import StageSettings, Structure
    from simulations.privacy.membership.population import Candidates


class SeededResult(Document):
    """Task, base, preset and profile, the seeds, how many people, and what computed it when."""

    task: str
    base: str
    preset: str
    profile: str
    seeds: list[int] = Field(min_length=1)
    people: int = Field(ge=1)
    hardware: Hardware
    commit: str
    confidence: float = Field(default=0.95, gt=0, lt=1)
    notes: list[str]

    def check_rows(self, rows: Sequence[SeededRow]) -> None:
        """Raise ValueError unless every row has a measurement a seed, and p fits its correction."""
        for row in rows:
            if len(row.per_seed) != len(self.seeds):
                raise ValueError(f"{row.thing}: one measurement a seed expected")
            if math.isfinite(row.p) and not 0 <= row.p <= row.p_holm <= 1:
                raise ValueError(f"{row.thing}: p and its correction contradict each other")


class SeededRow(Protocol):
    """What all attacks' rows have."""

    @property
    def thing(self) -> str:
        """What is attacked."""

    @property
    def per_seed(self) -> Sequence[Any]:
        """One measurement a seed."""

    @property
    def p(self) -> float:
        """Over all seeds."""

    @property
    def p_holm(self) -> float:
        """The same after the file's correction."""


def facts_of(
    candidates: Candidates,
    structure: Structure,
    settings: StageSettings,
    seeds: Sequence[int],
    notes: Sequence[str],
) -> dict[str, Any]:
    """What a result's file says beside its rows, of people who were read or made."""
    return {
        "task": candidates.task.name,
        "base": base_name(candidates.base),
        "preset": structure.name,
        "profile": settings.name,
        "seeds": list(seeds),
        "people": len(candidates.users),
        "hardware": environment.hardware(),
        "commit": environment.commit(),
        "notes": list(notes),
    }


def base_name(base: str) -> str:
    """A folder's name without its place; a name of the hub as it is."""
    return Path(base).name if Path(base).is_dir() else base
