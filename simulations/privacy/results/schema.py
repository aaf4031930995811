"""The schema of what `proper-sim privacy` leaves: numbers only, people are places in a list."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from simulations.outcome.results import Number, Strict, read_document
from simulations.privacy.results.seeded import SeededResult
from simulations.privacy.statistics.measures import Advantage
from simulations.privacy.statistics.shares import Control

# An adapter of several people's items, on which a published protocol is judged, and the protocols.
MERGED = "merged"
PUBLISHED, RANDOMISED = "published", "randomised"


class Measured(Strict):
    """An attack's success, with 95 % intervals over people; see `measures.Advantage`."""

    auc: Number
    low: Number
    high: Number
    n_members: int = Field(ge=1)
    n_non_members: int = Field(ge=1)
    n_owners: int = Field(ge=1)
    tpr_at_1: Number | None
    tpr_low: Number | None
    tpr_high: Number | None
    worst_decile: Number
    worst_decile_low: Number
    worst_decile_high: Number
    worst_decile_control: Number

    @classmethod
    def of(cls, advantage: Advantage) -> Measured:
        """The file's form of what was measured."""
        return cls(**asdict(advantage))


class Attack(Strict):
    """One attack on one thing; `pooled` is over all seeds, people being drawn with all their seeds.

    p is two-sided against an AUC of .5, from the interval's width; `p_holm` corrects over all attacks of
    the file that are no control, but for those on `merged`, which judge a protocol.
    """

    thing: str
    attack: str
    level: Literal["record", "person", "fresh"]
    control: Control
    per_seed: list[Measured] = Field(min_length=1)
    pooled: Measured
    p: Number
    p_holm: Number
    sentence: str


class PrivacyResult(SeededResult):
    """One file: all membership attacks on one population, base, preset and profile."""

    experiment: Literal["membership"] = "membership"
    records: int = Field(ge=1)
    shared_items: Number
    attacks: list[Attack] = Field(min_length=1)

    @model_validator(mode="after")
    def _seeds_fit(self) -> PrivacyResult:
        self.check_rows(self.attacks)
        return self


def read_privacy(path: Path) -> PrivacyResult:
    """Parse one file. Raises ReportError naming the file and the first bad field."""
    make = "proper-sim privacy membership DATA --out OUT"
    return read_document(
        PrivacyResult,
        path,
        missing=("no such file", f"make one: {make}"),
        faulty=("not a privacy result of schema 1", f"make it again: {make}"),
    )
