"""The schema of every benchmark's JSON file: what ran where, and each round as it was measured.

Rates and ratios are computed from the stored rounds when they are shown.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Literal, NamedTuple, TypeVar, get_args

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationError,
    model_validator,
)

from benchmarks.gpu.document import Accelerator, Peaks, RaceSetting, Skipped
from benchmarks.kinds import SCHEMA, Agreement, Seconds
from proper_model.errors import ReportError
from proper_model.storage.files import write_atomic
from simulations.outcome.results import Hardware, first_fault


class _Strict(BaseModel):
    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, allow_inf_nan=False, populate_by_name=True
    )


class _Report(_Strict):
    """What all benchmarks say of themselves."""

    schema_: int = Field(default=SCHEMA, ge=1, le=SCHEMA, alias="schema")
    hardware: Hardware
    versions: dict[str, str]
    seed: int


class Spread(NamedTuple):
    """Median over rounds, smallest and largest: one disturbed round moves a mean."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Raises ValueError for no values."""
        return cls(statistics.median(values), min(values), max(values))


class Measured(_Strict):
    """What a contender did in each round, how quickly, and its memory.

    `memory_before_bytes` is with base and users loaded, before the first round.
    """

    users: int = Field(ge=1)
    samples: int = Field(ge=1)
    tokens: int = Field(ge=1)
    padded_tokens: int = Field(ge=1)
    logit_positions: int = Field(ge=1)
    passes: int = Field(ge=1)
    rounds: list[Seconds] = Field(min_length=1)
    memory_before_bytes: int | None
    memory_peak_bytes: int | None

    @property
    def samples_a_second(self) -> Spread:
        return Spread.of([self.samples / one.wall_s for one in self.rounds])

    def times(self, other: Measured) -> Spread:
        """How many times the other's tokens a CPU second, which other work on the machine changes
        least; round by round, since both met the same noise.
        """
        both = zip(self.rounds, other.rounds, strict=True)
        return Spread.of([self.tokens / a.cpu_s * b.cpu_s / other.tokens for a, b in both])


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
    compile: bool
    status: Literal["measured", "failed"]
    cause: str | None
    measured: Measured | None

    @model_validator(mode="after")
    def _status_fits(self) -> ContenderResult:
        if (self.status == "measured") != (self.measured is not None):
            raise ValueError("only a measured contender has figures")
        if (self.status == "measured") != (self.cause is None):
            raise ValueError("what was not measured has a cause")
        return self


class Setting(_Strict):
    """One workload and everybody who ran it. `samples` and `tokens` as in `Workload`."""

    size: str
    users: int = Field(ge=1)
    samples: int = Field(ge=1)
    tokens: int = Field(ge=1)
    lengths: Literal["fixed", "ragged", "real"]
    seed: int
    contenders: list[ContenderResult] = Field(min_length=1)

    @model_validator(mode="after")
    def _rounds_fit(self) -> Setting:
        if len({len(c.measured.rounds) for c in self.contenders if c.measured}) > 1:
            raise ValueError("contenders have different numbers of rounds")
        return self


class EngineReport(_Report):
    """One run of `python -m benchmarks.engine`.

    Attributes:
        interleaved: contenders took turns, round by round.
        load_before: the machine's load average before the run: what else was going on.
        agreement: how far from the reference's in float64 each contender's training is.
    """

    benchmark: Literal["engine"] = "engine"
    commit: str
    device: Literal["cpu"] = "cpu"
    rounds: int = Field(ge=1)
    warmup: int = Field(ge=0)
    dropout: float = Field(ge=0, lt=1)
    interleaved: Literal[True] = True
    load_before: float = Field(ge=0)
    agreement: list[Agreement]
    settings: list[Setting] = Field(min_length=1)


class MemoryPeak(_Strict):
    """One setting: what was predicted and what was measured, in bytes beyond the base."""

    size: str
    users: int = Field(ge=1)
    tokens_per_step: int = Field(ge=1)
    recompute: bool
    dtype: str
    slot_bytes: int
    token_bytes: int
    predicted_bytes: int
    measured_bytes: int
    base_bytes: int

    @property
    def deviation(self) -> float | None:
        """How far the predicted peak is above the measured one, as a share of the latter.

        None where training stayed within what the process already held: nothing was measured.
        """
        if self.measured_bytes <= 0:
            return None
        return self.predicted_bytes / self.measured_bytes - 1


class MemoryReport(_Report):
    """Everything one run of `python -m benchmarks.memory` found."""

    benchmark: Literal["memory"] = "memory"
    commit: str
    sample_tokens: int = Field(ge=1)
    peaks: list[MemoryPeak] = Field(min_length=1)


class Adaptation(_Strict):
    """One run of `proper adapt` in a process of its own; its whole peak, Python included."""

    base_weights: str
    recompute: bool
    max_memory_bytes: None = None
    seconds: list[float] = Field(min_length=1)
    peak_bytes: list[int] = Field(min_length=1)


class Predicted(_Strict):
    """The memory model's bytes for a base of a public shape.

    `training_bytes` is one user with all candidate learning rates, beside the base. `dtype` is what
    is computed in, and `loading_bytes` the most that loading takes.
    """

    shape: str
    parameters: int
    weights: str
    dtype: str
    recompute: bool
    base_bytes: int
    loading_bytes: int
    training_bytes: int


class Part(_Strict):
    """What a part of a process took."""

    cpu_s: float = Field(ge=0)
    wall_s: float = Field(ge=0)


class PersonRun(_Strict):
    """One person from start to end.

    Attributes:
        tokens: of all items together.
        parts: of `proper adapt`, which add up to the whole (`benchmarks.measuring.adapt_split`).
        generate_s: wall-clock seconds from the start of `proper generate` to its first token.
        serve_s: the same of a request to `proper serve`, once it has answered.
    """

    base: str
    data: str
    items: int = Field(ge=1)
    tokens: int = Field(ge=1)
    parts: dict[str, Part]
    peak_bytes: int = Field(ge=1)
    generate_s: float = Field(ge=0)
    serve_s: float = Field(ge=0)


class DeviceReport(_Report):
    """Everything one run of `python -m benchmarks.device` found."""

    benchmark: Literal["device"] = "device"
    commit: str
    data: str
    items: int = Field(ge=1)
    preset: str
    profile: str
    threads: int = Field(ge=1)
    adaptations: list[Adaptation] = Field(min_length=1)
    sample_tokens: int = Field(ge=1)
    predicted: list[Predicted] = Field(alias="foretold")
    persons: list[PersonRun]


class WholeRun(_Strict):
    """One run. `phases_s` and `untimed_s` make up `wall_s`; `node_phases_s` lie within phases.

    Early versions timed phases that overlap: there the sum is above `wall_s` at times, and
    `untimed_s` is negative. `cpu_s` is of all processes of the run together.
    """

    wall_s: float = Field(ge=0)
    cpu_s: float = Field(ge=0)
    phases_s: dict[str, float]
    node_phases_s: dict[str, float]
    untimed_s: float
    load_before: float = Field(ge=0)


class Checkout(_Strict):
    """A version of the code. `means[arm][metric]` is over queries; `apart` the largest relative
    distance of any of them from the first checkout's.
    """

    label: str
    commit: str
    rounds: list[WholeRun] = Field(min_length=1)
    means: dict[str, dict[str, float]]
    apart: float = Field(ge=0)


class PipelineReport(_Report):
    """One run of `python -m benchmarks.pipeline`; `arguments` are those of every run."""

    benchmark: Literal["pipeline"] = "pipeline"
    usable_cores: int = Field(ge=1)
    data: str
    task: str
    arguments: list[str]
    checkouts: list[Checkout] = Field(min_length=1)


class GpuReport(_Report):
    """One run of `python -m benchmarks.gpu`, whose classes say what is in its parts.

    Attributes:
        variants: of the engine, and what each is.
        seconds: the budget of the run, and elapsed_s: what it took.
    """

    benchmark: Literal["gpu"] = "gpu"
    accelerator: Accelerator | None
    commit: str
    device: str
    dtype: str
    variants: dict[str, str]
    seconds: float = Field(gt=0)
    elapsed_s: float = Field(ge=0)
    peaks: Peaks
    agreement: list[Agreement]
    settings: list[RaceSetting]
    skipped: list[Skipped]


Report = EngineReport | MemoryReport | DeviceReport | PipelineReport | GpuReport
_FILE: TypeAdapter[Report] = TypeAdapter(Annotated[Report, Field(discriminator="benchmark")])
WITH_TABLES = tuple(one.model_fields["benchmark"].default for one in get_args(Report))


class Line(BaseModel):
    """One command, the seconds that it took, and the lines it said, on stdout and stderr."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    command: str
    seconds: float
    said: tuple[str, ...]


class Transcript(BaseModel):
    """The first minutes: commands in order, and where they ran."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    schema_version: Literal[1] = 1
    benchmark: Literal["first_minutes"] = "first_minutes"
    hardware: Hardware
    commit: str
    lines: tuple[Line, ...]


FIRST = "first_minutes"
Found = TypeVar("Found")
KNOWN = "expected what one of these wrote: " + ", ".join(
    f"python -m benchmarks.{kind}" for kind in WITH_TABLES
)


class Source(NamedTuple):
    """One file and what is in it."""

    name: str
    report: Report


def read_sources(paths: Iterable[Path]) -> list[Source]:
    """Read files of any benchmark. Raises ReportError as `read_report` does."""
    return [Source(path.name, read_report(path)) for path in paths]


def read_report(path: Path) -> Report:
    """Read one file by what it says it is. Raises ReportError naming the file and its first fault."""
    kind, text = _read(path)
    if kind not in WITH_TABLES:
        hint = f"python -m benchmarks.{FIRST} show prints it" if kind == FIRST else KNOWN
        raise ReportError(f"{path}: its 'benchmark' is none of those with tables", hint=hint)
    return _validated(_FILE, kind, text, path)


def read_transcript(path: Path) -> Transcript:
    """Read what `python -m benchmarks.first_minutes measure` wrote. Raises ReportError as `read_report`."""
    kind, text = _read(path)
    if kind != FIRST:
        hint = f"expected what python -m benchmarks.{FIRST} measure writes"
        raise ReportError(f"{path}: its 'benchmark' is not '{FIRST}'", hint=hint)
    return _validated(TypeAdapter(Transcript), kind, text, path)


def _read(path: Path) -> tuple[str, str]:
    """What a JSON file says it is of, nothing where it does not say, and the whole of it."""
    try:
        text = path.read_text(encoding="utf-8")
        document = json.loads(text)
    except OSError as error:
        raise ReportError(
            f"{path}: cannot be read ({error.strerror})", hint="check the path and its permissions"
        ) from error
    except json.JSONDecodeError as error:
        raise ReportError(
            f"{path}: not JSON, or cut short: {error.msg}, line {error.lineno}", hint=KNOWN
        ) from error
    except (ValueError, RecursionError) as error:  # other bytes than UTF-8; nested without end
        raise ReportError(f"{path}: not JSON ({type(error).__name__})", hint=KNOWN) from error
    kind = document.get("benchmark") if isinstance(document, dict) else None
    return kind if isinstance(kind, str) else "", text


def _validated(schema: TypeAdapter[Found], kind: str, text: str, path: Path) -> Found:
    try:
        return schema.validate_json(text)
    except ValidationError as error:
        raise ReportError(
            f"{path}: not what benchmarks.{kind} writes: {first_fault(error)}",
            hint=f"run it again: python -m benchmarks.{kind}",
        ) from error


def write_report(report: Report, path: Path) -> None:
    """Write the file whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, (report.model_dump_json(by_alias=True, indent=1) + "\n").encode())
