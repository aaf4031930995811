"""The schema of `backdoor.json`: what adapters over trap releases give away, and what checks saw of them."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from simulations.outcome.results import Strict, read_document
from simulations.privacy.results.canary_schema import CanaryResult


class Judged(Strict):
    """In how many seeds a device's checks refuse one release, and with what words the first time."""

    thing: str
    seeds: int = Field(ge=1)
    refused_as_files: int = Field(ge=0)
    refused_as_trap: int = Field(ge=0)
    why: str

    @property
    def refused(self) -> int:
        """In how many seeds, by either kind of checks."""
        return max(self.refused_as_files, self.refused_as_trap)


class BackdoorResult(CanaryResult):
    """One file: things are releases, asked through newcomers' leaked adapters; see `CanaryResult`."""

    experiment: Literal["canaries", "backdoor"] = "backdoor"
    judged: list[Judged] = Field(min_length=1)


def read_backdoor(path: Path) -> BackdoorResult:
    """Parse one file. Raises ReportError naming the file and the first bad field."""
    make = "proper-sim privacy backdoor DATA --out OUT"
    return read_document(
        BackdoorResult,
        path,
        missing=("no such file", f"make one: {make}"),
        faulty=("not a result of backdoor of schema 1", f"make it again: {make}"),
    )
