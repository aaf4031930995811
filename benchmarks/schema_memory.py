"""The schema of `benchmarks.memory`'s JSON, version 1: what was predicted and what was measured."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from simulations.outcome.results import Hardware

SCHEMA = 1


class MemoryPeak(BaseModel):
    """One setting: what was predicted and what was measured, in bytes beyond the base."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    size: str
    users: int = Field(ge=1)
    tokens_per_step: int = Field(ge=1)
    recompute: bool
    dtype: str
    slot_bytes: int
    token_bytes: int
    predicted_bytes: int
    measured_bytes: int
    base_bytes: int

    @property
    def deviation(self) -> float | None:
        """How far the predicted peak is above the measured one, as a share of the latter.

        None where training stayed within what the process already held: nothing was measured.
        """
        if self.measured_bytes <= 0:
            return None
        return self.predicted_bytes / self.measured_bytes - 1


class MemoryReport(BaseModel):
    """Everything one run of `python -m benchmarks.memory` found."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, populate_by_name=True)

    schema_: int = Field(default=SCHEMA, ge=SCHEMA, le=SCHEMA, alias="schema")
    benchmark: Literal["memory"] = "memory"
    hardware: Hardware
    commit: str
    versions: dict[str, str]
    seed: int
    sample_tokens: int = Field(ge=1)
    peaks: list[MemoryPeak] = Field(min_length=1)
