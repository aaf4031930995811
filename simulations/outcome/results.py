"""The schema of `results.json`, schema version 1, and reading and writing it.

One file holds one run: one task, base, preset, profile and seed. It is the only file that the
report, the README table and committed results need; numbers per user stay in `details.json`
(`simulations.outcome.details`) beside it. Source: docs/method.md 4.3 (metrics), 2.3 (both levels, intervals, n).
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)

from proper_model.errors import ReportError
from proper_model.evaluation import LOWER_IS_BETTER
from proper_model.storage.files import write_atomic

SCHEMA = 1
RESULTS_FILE = "results.json"

Level = Literal["query", "user"]
Model = TypeVar("Model", bound=BaseModel)

METRICS = (
    "accuracy",
    "f1_macro",
    "mae",
    "mae_expected",
    "rmse",
    "rouge1",
    "rougeL",
    "nll",
    "parse_failure_rate",
)


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


def _nan_if_null(value: object) -> object:
    # A strict LaMP-3 answer "nan" poisons the mean (docs/method.md 4.3). JSON has no NaN, so it is null.
    return math.nan if value is None else value


def _not_infinite(value: float) -> float:
    if math.isinf(value):
        raise ValueError("must not be infinite")
    return value


Number = Annotated[float, BeforeValidator(_nan_if_null), AfterValidator(_not_infinite)]


class MetricSummary(_Strict):
    """Mean and interval over queries, then the same with every user weighing the same."""

    mean: Number
    low: Number
    high: Number
    user_mean: Number
    user_low: Number
    user_high: Number


class ArmResult(_Strict):
    n_users: int = Field(ge=1)
    n_queries: int = Field(ge=1)
    metrics: dict[str, MetricSummary]


class Contrast(_Strict):
    """`delta` is a minus b on the same users and queries, with a paired bootstrap interval."""

    a: str
    b: str
    metric: str
    level: Level
    delta: Number
    low: Number
    high: Number

    @property
    def improvement(self) -> bool | None:
        """True or False if the interval excludes zero in a's favour or disfavour, else None."""
        if not (self.low > 0 or self.high < 0):
            return None
        return (self.low > 0) != (self.metric in LOWER_IS_BETTER)


class Hardware(_Strict):
    system: str
    cpu: str
    cores: int = Field(ge=1)
    ram_bytes: int = Field(ge=1)
    gpu: str | None
    python: str
    torch: str


class Results(_Strict):
    # Literal[1] would also take `true`.
    schema_: int = Field(default=1, ge=1, le=1, strict=True, alias="schema")
    task: str
    template: str
    base: str
    preset: str
    profile: str
    seed: int
    split: str
    hardware: Hardware
    commit: str
    arms: dict[str, ArmResult]
    contrasts: list[Contrast]
    confidence: float = Field(default=0.95, gt=0, lt=1)
    parameters: dict[str, int]
    timings_s: dict[str, float]
    node_timings_s: dict[str, float] = Field(default_factory=dict)  # summed over nodes

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    @model_validator(mode="after")
    def _names_fit(self) -> Results:
        if not self.arms:
            raise ValueError("arms must not be empty")
        unknown = {m for arm in self.arms.values() for m in arm.metrics} - set(METRICS)
        if unknown:
            raise ValueError(f"unknown metrics {sorted(unknown)}")
        for contrast in self.contrasts:
            absent = {contrast.a, contrast.b} - set(self.arms)
            if absent:
                raise ValueError(f"a contrast names arms without results: {sorted(absent)}")
        return self

    def metric_names(self) -> list[str]:
        """Metrics that occur in any arm, in the fixed order of METRICS."""
        found = {m for arm in self.arms.values() for m in arm.metrics}
        return [m for m in METRICS if m in found]


def to_json(results: Results) -> str:
    """Deterministic text: fixed key order, six decimals, one trailing newline."""
    return dumps(results.model_dump(mode="json", by_alias=True))


def dumps(value: object) -> str:
    """JSON with numbers rounded to six decimals; NaN becomes null."""
    return json.dumps(_rounded(value), indent=2, ensure_ascii=False) + "\n"


def _rounded(value: object) -> object:
    if isinstance(value, float):
        return round(value, 6) if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _rounded(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(item) for item in value]
    return value


def write_results(results: Results, path: Path) -> None:
    """Write the file whole or not at all."""
    write_atomic(path, to_json(results).encode())


def read_results(path: Path) -> Results:
    """Parse one results file. Raises ReportError naming the file and the first bad field."""
    return read_as(
        Results,
        path / RESULTS_FILE if path.is_dir() else path,
        missing=("no such results file", "score a finished run: proper-sim score OUT"),
        faulty=(f"not a results file of schema {SCHEMA}", "recompute it: proper-sim score OUT"),
    )


def read_as(
    model: type[Model], path: Path, *, missing: tuple[str, str], faulty: tuple[str, str]
) -> Model:
    """Parse a JSON file of ours.

    Raises ReportError naming the file, with the words and hint of a missing or a faulty one.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ReportError(f"{path}: {missing[0]}", hint=missing[1]) from None
    except (OSError, UnicodeDecodeError) as error:
        raise ReportError(f"{path}: cannot be read ({type(error).__name__})") from error
    try:
        return model.model_validate_json(text)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        place = ".".join(str(part) for part in first["loc"]) or "file"
        raise ReportError(
            f"{path}: {faulty[0]}: {place}: {first['msg']}", hint=faulty[1]
        ) from error
