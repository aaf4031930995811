"""The schema of a benchmark's JSON, version 1: every figure with what it was measured on.

Rounds are kept, so that a reader can make other summaries; the summaries are stored as well, so
that documents can quote them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from proper_model.errors import ReportError
from proper_model.storage.files import write_atomic
from simulations.outcome.results import Hardware

SCHEMA = 1
Model = TypeVar("Model", bound=BaseModel)


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class Spread(_Strict):
    """Median over rounds, smallest and largest."""

    median: float
    low: float
    high: float

    @model_validator(mode="after")
    def _in_order(self) -> Spread:
        if not self.low <= self.median <= self.high:
            raise ValueError("expected low <= median <= high")
        return self


class RoundSeconds(_Strict):
    """Wall and CPU seconds of training all of a contender's users once, and of setting them up."""

    wall_s: float = Field(ge=0)
    cpu_s: float = Field(ge=0)
    setup_wall_s: float = Field(ge=0)
    setup_cpu_s: float = Field(ge=0)


class Ratio(_Strict):
    """Tokens a second against another contender's, round by round: above one is quicker."""

    wall: Spread
    cpu: Spread


class Measured(_Strict):
    """What a contender did in each round, and how quickly.

    Attributes:
        fill: real tokens by padded ones.
        share_of_peak: of the measured matrix-product rate in the same dtype and threads, counting
            the frozen base's useful operations only; by CPU seconds on a CPU.
        memory_before_bytes: with base and users loaded, before the first round.
        against: by label of the other contender.
    """

    users: int = Field(ge=1)
    samples: int = Field(ge=1)
    tokens: int = Field(ge=1)
    padded_tokens: int = Field(ge=1)
    logit_positions: int = Field(ge=1)
    passes: int = Field(ge=1)
    flops: int = Field(ge=1)
    rounds: list[RoundSeconds] = Field(min_length=1)
    samples_a_second: Spread
    samples_a_cpu_second: Spread
    tokens_a_second: Spread
    tokens_a_cpu_second: Spread
    setup_s_a_user: Spread
    fill: float = Field(gt=0, le=1)
    share_of_peak: float | None
    users_an_hour: float
    memory_before_bytes: int | None
    memory_peak_bytes: int | None
    against: dict[str, Ratio]


class ContenderResult(_Strict):
    """One contender at one setting; `cause` tells the exception where nothing was measured."""

    label: str
    kind: str
    what: str
    batch: int = Field(ge=1)
    threads: int = Field(ge=1)
    dtype: str
    logits: str
    attention: str | None
    tokens_per_step: int = Field(ge=1)
    backend: str
    status: Literal["measured", "not possible in training", "failed"]
    cause: str | None
    measured: Measured | None

    @model_validator(mode="after")
    def _status_fits(self) -> ContenderResult:
        if (self.status == "measured") != (self.measured is not None):
            raise ValueError("only a measured contender has figures")
        if (self.status == "measured") != (self.cause is None):
            raise ValueError("what was not measured has a cause")
        return self


class Peak(_Strict):
    """Operations a second of a block's own matrix products."""

    dtype: str
    threads: int = Field(ge=1)
    rows: int = Field(ge=1)
    flops_a_second: Spread
    flops_a_cpu_second: Spread


class Setting(_Strict):
    """One workload and everybody who ran it. `samples` and `tokens` as in `Workload`."""

    size: str
    users: int = Field(ge=1)
    samples: int = Field(ge=1)
    tokens: int = Field(ge=1)
    lengths: Literal["fixed", "lognormal", "real"]
    seed: int
    peaks: list[Peak]
    contenders: list[ContenderResult] = Field(min_length=1)


class BenchReport(_Strict):
    """One run of `python -m benchmarks.engine`.

    Attributes:
        history_tokens: what a user trains in `users_an_hour`.
        interleaved: whether contenders took turns round by round.
        load_before: the machine's load average before the run: what else was going on.
    """

    schema_: int = Field(default=SCHEMA, ge=SCHEMA, le=SCHEMA, alias="schema")
    benchmark: Literal["engine"]
    hardware: Hardware
    device: str
    commit: str
    versions: dict[str, str]
    seed: int
    rounds: int = Field(ge=1)
    warmup: int = Field(ge=0)
    dropout: float = Field(ge=0, lt=1)
    history_tokens: int = Field(ge=1)
    interleaved: bool
    load_before: float = Field(ge=0)
    settings: list[Setting] = Field(min_length=1)

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        strict=True,
        allow_inf_nan=False,
        populate_by_name=True,
    )


def write_report(report: BaseModel, path: Path) -> None:
    """Write the file whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, (report.model_dump_json(by_alias=True, indent=1) + "\n").encode())


def read_report(path: Path) -> BenchReport:
    """Parse one file of the engine's. Raises ReportError naming the file and the first bad field."""
    return read_as(BenchReport, path, "engine")


def unreadable(path: Path, error: OSError | UnicodeDecodeError) -> ReportError:
    """What to say of a file that cannot be read."""
    reason = error.strerror if isinstance(error, OSError) else "not UTF-8"
    return ReportError(
        f"{path}: cannot be read ({reason})", hint="check the path and its permissions"
    )


def read_as(model: type[Model], path: Path, kind: str) -> Model:
    """Parse one file of `benchmarks.<kind>`. Raises ReportError naming the file and the first bad field."""
    try:
        return model.model_validate_json(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise unreadable(path, error) from error
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        place = ".".join(str(part) for part in first["loc"]) or "file"
        raise ReportError(
            f"{path}: not a benchmark of schema {SCHEMA}: {place}: {first['msg']}",
            hint=f"run it again: python -m benchmarks.{kind}",
        ) from error
