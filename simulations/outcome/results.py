"""The schema of `results.json`, and how it and the files like it are read and written.

One file holds one run: one task, base, preset, profile and seed. It is the only file that the
report, the README table and committed results need; numbers per user stay in `details.json`
(`outcome.details`) beside it. Source: docs/method.md 4.3 (metrics), 2.3 (levels, intervals, n).
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Self, TypeVar

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
from proper_model.evaluation import LOWER_IS_BETTER, Difference, Level
from proper_model.storage.files import write_atomic

RESULTS_FILE = "results.json"

METRICS = (
    *("accuracy", "f1_macro", "mae", "mae_expected", "rmse", "rouge1", "rougeL", "nll"),
    "parse_failure_rate",
)


class Strict(BaseModel):
    """Content of a file of ours: nothing unknown, nothing changed after reading."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)


class Document(Strict):
    """A whole file of schema version 1."""

    # Literal[1] would also take `true`.
    schema_: int = Field(default=1, ge=1, le=1, strict=True, alias="schema")


AnyDocument = TypeVar("AnyDocument", bound=Document)


def _nan_if_null(value: object) -> object:
    # A LaMP-3 answer "nan", read strictly, makes the mean NaN (docs/method.md 4.3), which JSON has
    # not: null.
    return math.nan if value is None else value


def _not_infinite(value: float) -> float:
    if math.isinf(value):
        raise ValueError("must not be infinite")
    return value


Number = Annotated[float, BeforeValidator(_nan_if_null), AfterValidator(_not_infinite)]


class MetricSummary(Strict):
    """Mean and interval over queries, then the same with every user weighing the same."""

    mean: Number
    low: Number
    high: Number
    user_mean: Number
    user_low: Number
    user_high: Number


class ArmResult(Strict):
    n_users: int = Field(ge=1)
    n_queries: int = Field(ge=1)
    metrics: dict[str, MetricSummary]


def improvement(metric: str, low: float, high: float) -> bool | None:
    """True or False if a difference's interval excludes zero for the better or worse, else None."""
    if not (low > 0 or high < 0):
        return None
    return (low > 0) != (metric in LOWER_IS_BETTER)


class Contrast(Strict):
    """`delta` is a minus b on the same users and queries, with a paired bootstrap interval."""

    a: str
    b: str
    metric: str
    level: Level
    delta: Number
    low: Number
    high: Number

    @classmethod
    def of(cls, a: str, b: str, metric: str, level: Level, row: Difference, **more: str) -> Self:
        """What a bootstrap found for arm a minus arm b; `more` are fields of a child class."""
        found = {"delta": row.delta, "low": row.low, "high": row.high}
        return cls(a=a, b=b, metric=metric, level=level, **found, **more)

    @property
    def improvement(self) -> bool | None:
        """True or False if the interval excludes zero in a's favour or disfavour, else None."""
        return improvement(self.metric, self.low, self.high)


class Hardware(Strict):
    system: str
    cpu: str
    cores: int = Field(ge=1)
    ram_bytes: int = Field(ge=1)
    gpu: str | None
    python: str
    torch: str


class Results(Document):
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


def write_document(content: Document, path: Path) -> None:
    """Write a file whole or not at all: fixed key order, six decimals, NaN as null."""
    rounded = _rounded(content.model_dump(mode="json", by_alias=True))
    text = json.dumps(rounded, indent=2, ensure_ascii=False) + "\n"
    write_atomic(path, text.encode())


def _rounded(value: object) -> object:
    if isinstance(value, float):
        return round(value, 6) if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _rounded(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(item) for item in value]
    return value


def read_results(path: Path) -> Results:
    """Parse one results file. Raises ReportError naming the file and the first bad field."""
    return read_document(
        Results,
        path / RESULTS_FILE if path.is_dir() else path,
        missing=("no such results file", "score a finished run: proper-sim score OUT"),
        faulty=("not a results file of schema 1", "recompute it: proper-sim score OUT"),
    )


def read_document(
    kind: type[AnyDocument], path: Path, *, missing: tuple[str, str], faulty: tuple[str, str]
) -> AnyDocument:
    """Parse a file of ours.

    Raises ReportError naming the file, with the words and hint of a missing or a faulty one.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ReportError(f"{path}: {missing[0]}", hint=missing[1]) from None
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8"
        raise ReportError(
            f"{path}: cannot be read ({reason})", hint="give a result file, which ends in .json"
        ) from error
    try:
        return kind.model_validate_json(text)
    except ValidationError as error:
        raise ReportError(f"{path}: {faulty[0]}: {first_fault(error)}", hint=faulty[1]) from error


def experiment_in(path: Path) -> object:
    """What a file says that it holds; None where it says nothing, or what is wrong is for its reader to say."""
    try:
        return json.loads(path.read_bytes()).get("experiment")
    except (OSError, ValueError, AttributeError, RecursionError):
        return None


def first_fault(error: ValidationError) -> str:
    """Place and kind of the first thing that is wrong, without quoting it."""
    first = error.errors(include_input=False, include_url=False)[0]
    place = ".".join(str(part) for part in first["loc"]) or "file"
    return f"{place}: {first['msg']}"
