"""What every attack's file says that was trained under several seeds."""

from __future__ import annotations

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
