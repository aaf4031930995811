"""The schema of what `proper-sim privacy deletion` leaves: numbers only, people are places in a list."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from simulations.outcome.results import Number, Strict, read_document
from simulations.privacy.results.schema import Measured
from simulations.privacy.results.seeded import SeededResult
from simulations.privacy.statistics.shares import Control


class DeletionAttack(Strict):
    """One attack on what there was before deletion, after it, or on both; `pooled` is over all seeds.

    Members are whoever withdrew, or items that were forgotten. p is two-sided against an AUC of .5;
    `p_holm` corrects over all attacks of the file that are no control.
    """

    scope: Literal["before", "after", "both"]
    thing: str
    attack: str
    level: Literal["person", "record"]
    control: Control
    per_seed: list[Measured] = Field(min_length=1)
    pooled: Measured
    p: Number
    p_holm: Number


def strongest(rows: Sequence[DeletionAttack], scope: str) -> DeletionAttack:
    """Of the attacks in a scope the one that found most."""
    return max((row for row in rows if row.scope == scope), key=lambda row: row.pooled.auc)


class Exactness(Strict):
    """Deletion against exact retraining, over all seeds; see `deletion.found.Retrained`."""

    thing: str
    compared: int = Field(ge=1)
    different: int = Field(ge=0)
    distance: Number
    change: Number


class Remains(Strict):
    """How often marks of whoever was deleted stand in a place; see `deletion.found.Remaining`."""

    run: Literal["pooled", "device"]
    place: str
    what: str
    before: int = Field(ge=0)
    after: int = Field(ge=0)
    unread: int = Field(ge=0)


class DeletionResult(SeededResult):
    """One file; `sentences` are for a record of processing."""

    experiment: Literal["deletion"] = "deletion"
    sentences: list[str]
    attacks: list[DeletionAttack]
    exact: list[Exactness]
    remains: list[Remains]

    @model_validator(mode="after")
    def _seeds_fit(self) -> DeletionResult:
        self.check_rows(self.attacks)
        return self


def read_deletion(path: Path) -> DeletionResult:
    """Parse one file. Raises ReportError naming the file and the first bad field."""
    make = "proper-sim privacy deletion --out OUT"
    return read_document(
        DeletionResult,
        path,
        missing=("no such file", f"make one: {make}"),
        faulty=("not a result of deletion of schema 1", f"make it again: {make}"),
    )
