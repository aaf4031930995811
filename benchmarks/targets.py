"""The CPU targets of docs/performance.md 5, and who stands for each of them in a file's settings.

Engine and rivals stand at their quickest among those that fit a row, the engine in the one backend
that it uses on a CPU.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from benchmarks.schema import BenchReport, ContenderResult, Ratio, Setting
from benchmarks.show import quickest
from benchmarks.sources import Source

ENGINE, RIVAL_DTYPE = "ours-moe", "float32"
# What `Backend.best_on` chooses on a CPU; by name, since a table needs no torch.
BACKEND = "fused"
# Enough users to share passes; what fewer gain is the growth table's to show.
USERS = 32


@dataclass(frozen=True)
class Target:
    """What a setting is to reach against the naive LoRA-MoE loop at batch 1 in float32.

    Attributes:
        tokens: of every sample; None where lengths are drawn or real.
        dtype: of the engine. Rivals stay in float32, the arithmetic they are written for.
    """

    name: str
    size: str
    lengths: str
    tokens: int | None
    dtype: str
    must: float
    aim: float

    def fits(self, setting: Setting) -> bool:
        return (
            (setting.size, setting.lengths) == (self.size, self.lengths)
            and self.tokens in (None, setting.tokens)
            and setting.users == USERS
        )


TARGETS = (
    Target("hidden 64, 32 tokens", "overhead", "fixed", 32, "float32", 7, 12),
    Target("hidden 256, 96 tokens", "small", "fixed", 96, "float32", 1.8, 2.5),
    Target("hidden 256, 96 tokens, bf16 / fp32", "small", "fixed", 96, "bfloat16", 4.5, 8),
    Target("hidden 256, log-normal lengths", "small", "lognormal", None, "float32", 2, 2.5),
    Target("hidden 256, real lengths", "small", "real", None, "float32", 2, 2.5),
)


@dataclass(frozen=True)
class Race:
    """The engine and those it is compared with in one row; None where nobody fits.

    Attributes:
        naive: the naive loop at batch 1, logits at all positions as Hugging Face's loss takes them.
        naive_answer: the same with logits at answers only, which is all that the engine computes.
        naive_alike: at its best in the engine's own dtype, where that is another.
        vmap: the other way of sharing passes, without experts; `plain` is the engine without them.
    """

    engine: ContenderResult
    naive: ContenderResult | None
    naive_answer: ContenderResult | None
    naive_best: ContenderResult | None
    naive_alike: ContenderResult | None
    peft_best: ContenderResult | None
    limit: ContenderResult | None
    vmap: ContenderResult | None
    plain: ContenderResult | None

    def ratio(self, other: ContenderResult | None) -> Ratio | None:
        """The engine's stored ratio against one of them."""
        got = self.engine.measured
        return got.against.get(other.label) if got and other else None


@dataclass(frozen=True)
class Row:
    """A setting that a target is about; `name` tells it from other rows of the same target."""

    name: str
    target: Target
    setting: Setting
    report: BenchReport
    race: Race


def race_of(setting: Setting, dtype: str) -> Race | None:
    """Who runs in a row; None if the engine did not take part in that dtype."""

    def pick(fits: Callable[[ContenderResult], bool]) -> ContenderResult | None:
        return quickest(c for c in setting.contenders if fits(c))

    # A sample a step, as the targets have it: with more, users train in fewer steps.
    own = (ENGINE, dtype, 1, BACKEND)
    engines = [c for c in setting.contenders if (c.kind, c.dtype, c.batch, c.backend) == own]
    if not engines:
        return None
    engine = quickest(engines) or engines[0]  # one that failed is said to have failed

    def rival(kind: str, computes: str = RIVAL_DTYPE) -> Callable[[ContenderResult], bool]:
        same = (kind, computes, engine.threads)
        return lambda c: (c.kind, c.dtype, c.threads) == same

    naive = rival("naive-moe")
    passes = ("limit", dtype, engine.threads, engine.batch, engine.tokens_per_step)
    return Race(
        engine=engine,
        naive=pick(lambda c: naive(c) and (c.batch, c.logits) == (1, "all")),
        naive_answer=pick(lambda c: naive(c) and (c.batch, c.logits) == (1, "answer")),
        naive_best=pick(naive),
        naive_alike=pick(rival("naive-moe", dtype)) if dtype != RIVAL_DTYPE else None,
        peft_best=pick(rival("peft-loop")),
        limit=pick(lambda c: (c.kind, c.dtype, c.threads, c.batch, c.tokens_per_step) == passes),
        vmap=pick(rival("vmap", dtype)),
        plain=pick(lambda c: rival("ours", dtype)(c) and (c.batch, c.backend) == (1, BACKEND)),
    )


def target_rows(sources: Sequence[Source]) -> list[Row]:
    """Rows in the order of the targets; only for settings that were run, on a CPU."""
    found: list[Row] = []
    for target in TARGETS:
        fitting = [
            (source, source.report, setting, race)
            for source in sources
            if isinstance(source.report, BenchReport) and source.report.device == "cpu"
            for setting in source.report.settings
            if target.fits(setting) and (race := race_of(setting, target.dtype)) is not None
        ]
        for source, report, setting, race in fitting:
            # Files may hold one target's setting with other numbers of samples.
            where = f" ({source.name}, {setting.samples} samples a user)"
            name = target.name + (where if len(fitting) > 1 else "")
            found.append(Row(name, target, setting, report, race))
    return found
