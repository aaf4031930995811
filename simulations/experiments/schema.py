"""The schema of an experiment's result file, and reading it.

One file holds one experiment: what was compared (`conditions`), on which questions (`sets`), with
intervals over users, and what it cost. Numbers only: no text of a person, no path of a machine.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from simulations.outcome.results import (
    ArmResult,
    Contrast,
    Document,
    Hardware,
    Strict,
    read_document,
)


class Costs(Strict):
    """Summed over all users. Trained tokens went forward and backward, judged ones forward only."""

    trained_tokens: int = Field(ge=0)
    judged_tokens: int = Field(ge=0)
    seconds: float = Field(ge=0)
    cpu_seconds: float = Field(ge=0)

    def __add__(self, other: Costs) -> Costs:
        return Costs(
            trained_tokens=self.trained_tokens + other.trained_tokens,
            judged_tokens=self.judged_tokens + other.judged_tokens,
            seconds=self.seconds + other.seconds,
            cpu_seconds=self.cpu_seconds + other.cpu_seconds,
        )


class Condition(Strict):
    """One of the things compared: scores by set of questions, and what it cost by itself."""

    sets: dict[str, ArmResult] = Field(min_length=1)
    costs: Costs | None = None


class SetContrast(Contrast):
    """A difference of two conditions on one set of questions."""

    on: str


class Experiment(Document):
    """One result file. `facts` are counts and shares; `notes` say what a reader must know."""

    experiment: Literal["drift", "multitask"]
    tasks: list[str] = Field(min_length=1)
    templates: list[str] = Field(min_length=1)
    base: str
    preset: str
    profile: str
    seed: int
    split: str
    users: int = Field(ge=1)
    hardware: Hardware
    commit: str
    confidence: float = Field(gt=0, lt=1)
    conditions: dict[str, Condition] = Field(min_length=1)
    contrasts: list[SetContrast]
    facts: dict[str, float | int]
    notes: list[str]

    @model_validator(mode="after")
    def _names_fit(self) -> Experiment:
        for contrast in self.contrasts:
            for name in (contrast.a, contrast.b):
                if name not in self.conditions or contrast.on not in self.conditions[name].sets:
                    raise ValueError(f"a contrast names '{name}' on '{contrast.on}': no such score")
        return self


def read_experiment(path: Path) -> Experiment:
    """Parse one file. Raises ReportError naming the file and the first bad field."""
    make = "proper-sim exp table1, or another of proper-sim exp --help"
    return read_document(
        Experiment,
        path,
        missing=("no such file", f"make one: {make}"),
        faulty=("not an experiment of schema 1", f"make it again: {make}"),
    )
