"""The schema of `benchmarks.pipeline`'s JSON, version 1: seconds and answers of every checkout."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from simulations.outcome.results import Hardware


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Round(_Strict):
    """One run. `phases_s` and `untimed_s` make up `wall_s`; `node_phases_s` lie within phases.

    Early versions timed phases that overlap: there the sum is above `wall_s` at times, and
    `untimed_s` is negative. `cpu_s` is of all processes of the run together and holds still when
    others use the machine; `load_before` is the machine's load average: what else was going on.
    """

    wall_s: float = Field(ge=0)
    cpu_s: float = Field(ge=0)
    phases_s: dict[str, float]
    node_phases_s: dict[str, float]
    untimed_s: float
    load_before: float = Field(ge=0)


class Checkout(_Strict):
    """A version of the code. `means[arm][metric]` is over queries; `apart` the largest relative
    distance of any of them from the first checkout's.
    """

    label: str
    commit: str
    rounds: list[Round] = Field(min_length=1)
    means: dict[str, dict[str, float]]
    apart: float = Field(ge=0)


class PipelineReport(_Strict):
    """One run of `python -m benchmarks.pipeline`; `arguments` are those of every run."""

    schema_: int = Field(default=1, ge=1, le=1, alias="schema")
    benchmark: Literal["pipeline"] = "pipeline"
    hardware: Hardware
    usable_cores: int = Field(ge=1)
    versions: dict[str, str]
    seed: int
    data: str
    task: str
    arguments: list[str]
    checkouts: list[Checkout]

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)
