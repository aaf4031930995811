"""The schema of what `exp table1`, `table2`, `table3` and the figures' commands leave.

One file holds one benchmark on one data set: rows with intervals over people, paired comparisons,
per-person gains, learning curves, sizes and times, and what figures draw. Numbers only: people are
places in a list, and no text of anybody is in it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal, get_args

from pydantic import Field, model_validator

from simulations.experiments.schema import Costs, Experiment, read_experiment
from simulations.outcome.results import (
    Contrast,
    Document,
    Hardware,
    MetricSummary,
    Number,
    Strict,
    experiment_in,
    read_document,
)

Name = Literal["table1", "table2", "table3", "fig3", "fig45", "fig6-efficiency", "fig6-experts"]


class Row(Strict):
    """One method. `training` and `answering` are sums over people, seeds and folds.

    `arm` is what was run, `variant` the structure it was run over.
    """

    arm: str
    variant: str
    metrics: dict[str, MetricSummary]
    training: Costs | None = None
    answering: Costs | None = None


class Comparison(Contrast):
    """a minus b; the interval, and p before and after Holm's correction over the table.

    `helped` and `hurt` are shares of people, `detectable` the smallest difference that would be
    found in four of five samples, `by_seed` the difference at every seed of training where there are
    several.
    """

    p: Number
    p_holm: Number
    people: int = Field(ge=1)
    helped: Number
    hurt: Number
    detectable: Number
    by_seed: list[Number] = Field(default_factory=list)


class Curve(Strict):
    """Held-back loss of one pooled phase at every look, the first before training."""

    variant: str
    phase: str
    held_back: list[Number]
    standard_error: list[Number] = Field(default_factory=list)
    kept: int = 0


class Variant(Strict):
    """One structure: numbers it trains or ships by part, seconds of its pooled phases."""

    preset: str
    changed: list[str] = Field(default_factory=list)
    parameters: dict[str, int]
    seconds: dict[str, float]


class LengthPoint(Strict):
    """a minus b among people of whom so many items are known: cut to the newest, or their own."""

    items: int = Field(ge=0)
    cut: bool
    people: int = Field(ge=1)
    a: str
    b: str
    metric: str
    delta: Number
    low: Number
    high: Number


class Routing(Strict):
    """Mean weights of every person `[experts]` in the router where people differ most.

    `points` are a t-SNE of the people's embeddings, `clusters` those of their weights; both may be
    empty.
    """

    variant: str
    router: str
    weights: list[list[Number]]
    points: list[tuple[float, float]] = Field(default_factory=list)
    clusters: list[int] = Field(default_factory=list)


class Texts(Strict):
    """One person's texts as points: what they are (`training`, `test`, or an arm) and where."""

    kinds: list[str]
    points: list[tuple[float, float]]
    distances: dict[str, Number]  # of an arm's answers from the person's own, in the mean


class BenchmarkResult(Document):
    """One result file; `people[row][metric]` holds every person's value, in one order."""

    experiment: Name
    task: str
    template: str
    base: str
    profile: str
    split: str
    seeds: list[int] = Field(min_length=1)
    folds: int = Field(ge=1)
    users: int = Field(ge=1)
    queries: int = Field(ge=1)
    hardware: Hardware
    commit: str
    configuration: str
    confidence: float = Field(gt=0, lt=1)
    variants: dict[str, Variant]
    rows: dict[str, Row] = Field(min_length=1)
    comparisons: list[Comparison]
    people: dict[str, dict[str, list[Number]]]
    items: list[int]
    lengths: list[LengthPoint] = Field(default_factory=list)
    curves: list[Curve] = Field(default_factory=list)
    routing: list[Routing] = Field(default_factory=list)
    texts: Texts | None = None
    notes: list[str]

    @model_validator(mode="after")
    def _names_fit(self) -> BenchmarkResult:
        for row in self.comparisons:
            if not {row.a, row.b} <= set(self.rows):
                raise ValueError(f"a comparison of '{row.a}' with '{row.b}': no such rows")
        for name in {row.variant for row in self.rows.values()} - set(self.variants):
            raise ValueError(f"a row over '{name}': no such variant")
        return self

    def metric_names(self) -> list[str]:
        """Metrics that any row has, in the first row's order."""
        return list(dict.fromkeys(m for row in self.rows.values() for m in row.metrics))


def read_result(path: Path) -> Experiment | BenchmarkResult:
    """An experiment or a benchmark, whichever the file says. Raises ReportError as they do."""
    known = experiment_in(path) in get_args(Name)
    return read_benchmark(path) if known else read_experiment(path)


def read_benchmark(path: Path) -> BenchmarkResult:
    """Parse one file. Raises ReportError naming the file and the first bad field."""
    make = "proper-sim exp table1 DATA --out OUT"
    return read_document(
        BenchmarkResult,
        path,
        missing=("no such file", f"make one: {make}"),
        faulty=(
            "not a benchmark of schema 1",
            f"make it again: {make}; of another kind: proper-sim exp table, of a run: proper-sim table",
        ),
    )
