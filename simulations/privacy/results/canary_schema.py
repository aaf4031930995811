"""The schema of `canaries.json`: numbers only, of every thing that holds or is sent a person's texts."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from simulations.outcome.results import Number, Strict, read_document
from simulations.privacy.results.rates import Rate
from simulations.privacy.results.schema import Measured
from simulations.privacy.results.seeded import SeededResult
from simulations.privacy.statistics.shares import Control


class CanaryNumbers(Strict):
    """Canaries that were planted as often; of a server that is asked with own items all say what it saw.

    Exposures are in bits, by the target's probabilities and by their ratio to the public base's. `greedy`
    is the share of secrets that are answered at temperature 0, `sampled` the chance that one is among so
    many answers at temperature 1.
    """

    n: int = Field(ge=1)
    exposure: Rate
    against_public: Rate
    greedy: Rate
    sampled: Rate


class CanaryRow(Strict):
    """Canaries of one thing, planted `insertions` times; `pooled` is over all seeds.

    p is of `against_public` against guessing, 1 where it is no larger; `p_holm` corrects over the
    file, apart for negative controls; of positive ones it is p.
    """

    thing: str
    insertions: int = Field(ge=0)
    control: Control
    per_seed: list[CanaryNumbers] = Field(min_length=1)
    pooled: CanaryNumbers
    p: Number
    p_holm: Number


class RecordRow(Strict):
    """Own items of the same people: AUC of those that were there against those that were kept apart.

    `produced` is the share of the former whose answer is given word for word, or seen; `produced_apart`
    that of the latter, which are known from nowhere.
    """

    thing: str
    attack: str
    control: Control
    per_seed: list[Measured] = Field(min_length=1)
    pooled: Measured
    produced: Rate
    produced_apart: Rate
    p: Number
    p_holm: Number


class CanaryResult(SeededResult):
    """One file: all canaries of one population, base, preset, profile and design.

    `candidates` never trained; `guessing` is the mean exposure of a rank by chance, `most` the largest
    there is, in bits. `queries` is how many a person asks, in the mean.
    """

    experiment: Literal["canaries", "backdoor"] = "canaries"
    design: Literal["random", "new-token"]
    insertions: list[int] = Field(min_length=1)
    candidates: int = Field(ge=1)
    samples: int = Field(ge=1)
    queries: Number
    guessing: Number
    most: Number
    canaries: list[CanaryRow] = Field(min_length=1)
    records: list[RecordRow] = Field(min_length=1)
    sentences: list[str]

    @model_validator(mode="after")
    def _seeds_fit(self) -> CanaryResult:
        self.check_rows([*self.canaries, *self.records])
        return self

    @property
    def things(self) -> tuple[str, ...]:
        """What was asked, in order."""
        return tuple(dict.fromkeys(row.thing for row in self.canaries))

    def canary(self, thing: str, insertions: int, control: Control = "none") -> CanaryRow | None:
        """One row; a canary that was never planted is a negative control."""
        wanted = thing, insertions, control if insertions else "negative"
        found = (r for r in self.canaries if (r.thing, r.insertions, r.control) == wanted)
        return next(found, None)

    def record(self, thing: str) -> RecordRow | None:
        """Of the attacks on own items that are no control the one that found most."""
        found = [r for r in self.records if (r.thing, r.control) == (thing, "none")]
        return max(found, key=lambda row: row.pooled.auc, default=None)


def read_canaries(path: Path) -> CanaryResult:
    """Parse one file. Raises ReportError naming the file and the first bad field."""
    make = "proper-sim privacy canaries DATA --out OUT"
    return read_document(
        CanaryResult,
        path,
        missing=("no such file", f"make one: {make}"),
        faulty=("not a result of canaries of schema 1", f"make it again: {make}"),
    )
