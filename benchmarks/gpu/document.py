"""What a run writes: plain data, which `benchmarks.results` reads with a check of every field.

Rates are computed from rounds when they are asked for; no rate is stored. Needs neither torch nor
pydantic: the machine that measures has no pydantic, and who reads has no use for torch.
"""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field
from typing import Literal

from benchmarks.kinds import STRICT, Seconds

TOKENS_A_USER = 48_000  # a history, by which people an hour are counted
Status = Literal["measured", "failed", "skipped"]


@dataclass(frozen=True)
class Accelerator:
    """A GPU and the software next to it; what is not told is None."""

    __pydantic_config__ = STRICT

    name: str
    memory_bytes: int
    capability: str
    driver: str | None
    cuda: str | None


@dataclass(frozen=True)
class Peaks:
    """What the device reaches at best, several times each.

    Attributes:
        side: of the square matrices whose product was timed, in the dtype of the run.
        flops_a_second: of that product.
        bytes_a_second: of a copy on the device; every byte is read and written, and counts twice.
    """

    __pydantic_config__ = STRICT

    side: int
    flops_a_second: list[float]
    bytes_a_second: list[float]

    @property
    def flops(self) -> float:
        return statistics.median(self.flops_a_second)

    @property
    def bytes(self) -> float:
        return statistics.median(self.bytes_a_second)


@dataclass
class Entry:
    """One contender at one setting.

    Attributes:
        kind: as `benchmarks.kinds`; variant: of the engine, or None.
        batch: samples of a user in one optimizer step.
        compiled: whether the base's blocks were compiled.
        cause: why it was not measured.
        users: how many it trained. Those who train one after another train a few.
        tokens, padded_tokens, answers, passes: of one round: real tokens, those that went through
            the base, positions that need logits, passes through the base.
        flops: of one round, as `flops.useful` counts them.
        first_s: seconds of the round before those that count, compiling included.
        memory_before_bytes, memory_peak_bytes: allocated before a round, and at most in any.
        memory_predicted_bytes: what the memory model says of the peak beyond what was before.
    """

    __pydantic_config__ = STRICT

    label: str
    kind: str
    variant: str | None
    batch: int
    compiled: bool
    status: Status = "skipped"
    cause: str | None = "its turn did not come"
    users: int = 0
    samples: int = 0
    tokens: int = 0
    padded_tokens: int = 0
    answers: int = 0
    passes: int = 0
    flops: int = 0
    first_s: float | None = None
    rounds: list[Seconds] = field(default_factory=list)
    memory_before_bytes: int | None = None
    memory_peak_bytes: int | None = None
    memory_predicted_bytes: int | None = None

    def __post_init__(self) -> None:
        if (self.status == "measured") != bool(self.rounds) or bool(self.rounds) != (
            self.cause is None
        ):
            raise ValueError("measured is who has rounds; who has none has a cause")
        if self.rounds and min(self.tokens, self.samples, self.passes, self.flops) < 1:
            raise ValueError("rounds without work")

    def a_second(self, count: int) -> list[float]:
        """Of what there is `count` a round, how many a second, in every round."""
        return [count / one.wall_s for one in self.rounds]

    @property
    def tokens_a_second(self) -> float:
        return statistics.median(self.a_second(self.tokens))

    def times(self, other: Entry) -> list[float]:
        """How many times the other's tokens a second, in the last rounds that both have.

        The engine has one more, from before its rivals were compiled.
        """
        both = min(len(self.rounds), len(other.rounds))
        mine, its = (one.a_second(one.tokens)[-both:] for one in (self, other))
        return [a / b for a, b in zip(mine, its, strict=True)] if both else []

    @property
    def taken_bytes(self) -> int | None:
        """The peak beyond what was there before."""
        if self.memory_peak_bytes is None or self.memory_before_bytes is None:
            return None
        return self.memory_peak_bytes - self.memory_before_bytes


@dataclass
class RaceSetting:
    """One workload over one base, and everybody who ran it.

    Attributes:
        samples: of every user; tokens: of every sample, or its median.
        tokens_per_step: most tokens of a shared pass, as the memory model allows.
        base_bytes: of the base's weights.
    """

    __pydantic_config__ = STRICT

    size: str
    users: int
    samples: int
    tokens: int
    lengths: Literal["fixed", "ragged"]
    dropout: float
    tokens_per_step: int
    base_bytes: int
    entries: list[Entry] = field(default_factory=list)


@dataclass(frozen=True)
class Skipped:
    """A setting that was not run, and why."""

    __pydantic_config__ = STRICT

    size: str
    users: int
    lengths: str
    reason: str
