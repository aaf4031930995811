"""The schema of an experiment's result file, schema version 1, and reading and writing it.

One file holds one experiment: what was compared (`conditions`), on which questions (`sets`), with
intervals over users, and what it cost. Numbers only: no text of a person, no path of a machine.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from proper_model.storage.files import write_atomic
from simulations.outcome.results import ArmResult, Contrast, Hardware, dumps, read_as

SCHEMA = 1


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Costs(_Strict):
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


class Condition(_Strict):
    """One of the things compared: scores by set of questions, and what it cost by itself."""

    sets: dict[str, ArmResult] = Field(min_length=1)
    costs: Costs | None = None


class SetContrast(Contrast):
    """A difference of two conditions on one set of questions."""

    on: str


class Experiment(_Strict):
    """One result file. `facts` are counts and shares; `notes` say what a reader must know."""

    # Literal[1] would also take `true`.
    schema_: int = Field(default=1, ge=1, le=1, strict=True, alias="schema")
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

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    @model_validator(mode="after")
    def _names_fit(self) -> Experiment:
        for contrast in self.contrasts:
            for name in (contrast.a, contrast.b):
                if name not in self.conditions or contrast.on not in self.conditions[name].sets:
                    raise ValueError(f"a contrast names '{name}' on '{contrast.on}': no such score")
        return self


def write_experiment(experiment: Experiment, path: Path) -> None:
    """Write the file whole or not at all."""
    write_atomic(path, dumps(experiment.model_dump(mode="json", by_alias=True)).encode())


def read_experiment(path: Path) -> Experiment:
    """Parse one file. Raises ReportError naming the file and the first bad field."""
    make = "proper-sim exp drift or exp multitask"
    return read_as(
        Experiment,
        path,
        missing=("no such file", f"make one: {make}"),
        faulty=(f"not an experiment of schema {SCHEMA}", f"make it again: {make}"),
    )
