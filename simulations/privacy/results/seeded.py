"""What every attack's file says that was trained under several seeds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from pydantic import Field

from simulations.outcome.results import Document, Hardware


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


def base_name(base: str) -> str:
    """A folder's name without its place; a name of the hub as it is."""
    return Path(base).name if Path(base).is_dir() else base
