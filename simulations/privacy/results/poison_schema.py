"""The schema of `poisoning.json`: how often a trigger works, and what honest people lose."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from simulations.outcome.results import Number, Strict, read_document
from simulations.privacy.results.rates import Rate
from simulations.privacy.results.seeded import SeededResult
from simulations.privacy.statistics.shares import Control


class PoisonNumbers(Strict):
    """Of newcomers, each counted once, with 95 % intervals over them.

    `trigger` and `other` are shares of queries with that word behind them that get the attacker's answer;
    `before` is what the trigger does where nobody is malicious and all else is the same. `gain` is trigger
    less `before`, `over_other` trigger less `other`, person by person. `loss` is the mean loss of an answer
    token of ordinary queries, `loss_change` what it is more than without malicious users and defence, in
    nats; `right` the share of them that get the right answer, `right_change` the same of that.
    """

    trigger: Rate
    other: Rate
    before: Rate
    gain: Rate
    over_other: Rate
    loss: Rate
    loss_change: Rate
    right: Rate
    right_change: Rate


class PoisonRow(Strict):
    """One thing, defence and number of malicious users; `pooled` is over all seeds.

    p is two-sided, of `gain` against 0, of the negative control (nobody is malicious) of `over_other`.
    `p_holm` corrects over all that is no control, and over the negative controls apart.
    """

    thing: str
    defence: str
    malicious: int = Field(ge=0)
    control: Control
    per_seed: list[PoisonNumbers] = Field(min_length=1)
    pooled: PoisonNumbers
    p: Number
    p_holm: Number


class PoisonResult(SeededResult):
    """One file: all that was poisoned of one population, base, preset and profile.

    `people` are the newcomers who asked; `users` were pooled, and `items` is how many a malicious one gave.
    """

    experiment: Literal["poisoning"] = "poisoning"
    users: int = Field(ge=1)
    items: int = Field(ge=1)
    rows: list[PoisonRow] = Field(min_length=1)
    sentences: list[str]

    @model_validator(mode="after")
    def _seeds_fit(self) -> PoisonResult:
        self.check_rows(self.rows)
        return self


def read_poisoning(path: Path) -> PoisonResult:
    """Parse one file. Raises ReportError naming the file and the first bad field."""
    make = "proper-sim privacy poisoning DATA --out OUT"
    return read_document(
        PoisonResult,
        path,
        missing=("no such file", f"make one: {make}"),
        faulty=("not a result of poisoning of schema 1", f"make it again: {make}"),
    )
