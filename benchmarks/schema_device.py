"""The schema of `benchmarks.device`'s JSON, version 1: one person's adaptation on a small machine."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from simulations.outcome.results import Hardware

SCHEMA = 1


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, populate_by_name=True)


class Adaptation(_Strict):
    """One run of `proper adapt` in a process of its own; its whole peak, Python included."""

    base_weights: str
    recompute: bool
    max_memory_bytes: int | None
    seconds: list[float] = Field(min_length=1)
    peak_bytes: list[int] = Field(min_length=1)


class Foretold(_Strict):
    """The memory model's bytes for a base of a public shape.

    `training_bytes` is one user with all candidate learning rates, beside the base. `dtype` is what
    is computed in, and `loading_bytes` the most that loading takes; reports from before name the
    dtype as the weights, and say nothing of loading.
    """

    shape: str
    parameters: int
    weights: str
    dtype: str | None = None
    recompute: bool
    base_bytes: int
    loading_bytes: int | None = None
    training_bytes: int


class DeviceReport(_Strict):
    """Everything one run of `python -m benchmarks.device` found."""

    schema_: int = Field(default=SCHEMA, ge=SCHEMA, le=SCHEMA, alias="schema")
    benchmark: Literal["device"] = "device"
    hardware: Hardware
    commit: str
    versions: dict[str, str]
    seed: int
    data: str
    items: int = Field(ge=1)
    preset: str
    profile: str
    threads: int = Field(ge=1)
    adaptations: list[Adaptation]
    sample_tokens: int = Field(ge=1)
    foretold: list[Foretold]
