"""The schema of `epsilon.json`: numbers only, a row a promise, and what audits show of each."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from simulations.outcome.results import Number, Strict, read_document
from simulations.privacy.results.rates import Rate
from simulations.privacy.results.schema import Measured
from simulations.privacy.results.seeded import SeededResult


class Bound(Strict):
    """A lower bound of epsilon from one-run audits; see `one_run_audit.OneRunBound`.

    `ceiling` is what as many canaries could have shown at most.
    """

    epsilon: float = Field(ge=0)
    ceiling: float = Field(ge=0)
    guesses: int = Field(ge=1)
    correct: int = Field(ge=0)
    canaries: int = Field(ge=1)


class EpsilonNumbers(Strict):
    """What one way of training gives newcomers, and what is found out about those who trained.

    Losses are in nats a token, means over newcomers; `gain` is the public base's loss less stage 2's, and
    `kept` its share of the gain of training without clipping. `people` is by a person's own
    texts, `crafted` by gradients of users who are made to be seen; None: nothing was clipped.
    """

    stage1: Rate
    stage2: Rate
    gain: Rate
    kept: Rate
    membership: Measured
    people: Bound
    crafted: Bound | None


class EpsilonRow(Strict):
    """One way of training; `pooled` is over all seeds, people being drawn with all their seeds.

    `thing` is the epsilon that was asked for, `inf` (no noise) or `unclipped`; `epsilon` is what the
    accountant says, None where nothing is promised. p is of `gain` against 0.
    """

    thing: str
    epsilon: float | None = Field(ge=0)
    noise_multiplier: float | None = Field(ge=0)
    per_seed: list[EpsilonNumbers] = Field(min_length=1)
    pooled: EpsilonNumbers
    p: Number
    p_holm: Number


class Terms(Strict):
    """How a step is taken under every promise; see `PrivacySettings`."""

    delta: float = Field(gt=0, lt=1)
    sampling_rate: float = Field(gt=0, le=1)
    clip_norm: float = Field(gt=0)
    population_steps: int = Field(ge=1)
    group_steps: int = Field(ge=1)
    population_learning_rate: float | None = None
    group_learning_rate: float | None = None
    items_per_user: int = Field(ge=1)
    freeze_a: bool
    core: bool


class EpsilonResult(SeededResult):
    """One file: the curve of one population, base, preset and profile.

    `candidates` have a place in training, and each takes part by a fair coin; `newcomers` never do. `public`
    is the public base's loss on newcomers. `negative` is the attack on the public base, which nobody
    trained; `positive` on an adapter that saw its people far too often.
    """

    experiment: Literal["epsilon"] = "epsilon"
    candidates: int = Field(ge=1)
    newcomers: int = Field(ge=1)
    terms: Terms
    accountant: str
    public: Rate
    negative: Measured
    positive: Measured
    rows: list[EpsilonRow] = Field(min_length=1)
    sentences: list[str]

    @model_validator(mode="after")
    def _seeds_fit(self) -> EpsilonResult:
        self.check_rows(self.rows)
        return self


def read_epsilon(path: Path) -> EpsilonResult:
    """Parse one file. Raises ReportError naming the file and the first bad field."""
    make = "proper-sim privacy epsilon DATA --out OUT"
    return read_document(
        EpsilonResult,
        path,
        missing=("no such file", f"make one: {make}"),
        faulty=("not a result of utility against epsilon of schema 1", f"make it again: {make}"),
    )
