"""From rounds to figures: rates, ratios, fill, share of peak, users an hour."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.contenders.measure import Seconds, summary
from benchmarks.contenders.sizes import Shape
from benchmarks.contenders.specs import FORWARD_ONLY, KINDS, Spec
from benchmarks.measuring.worker import Ready, Refused, Round
from benchmarks.results.schema import (
    ContenderResult,
    Measured,
    Peak,
    Ratio,
    RoundSeconds,
    Spread,
)

# Who others are compared with; a ratio of training to inference would mean nothing.
BASELINES = ("naive-moe", "peft-loop", "trainer", "vmap", "limit")
FORWARD_BASELINES = ("peft-mixed-forward",)


@dataclass
class Run:
    """All rounds of one contender; `last` is what it answered when it was refused."""

    spec: Spec
    ready: Ready | None
    rounds: list[Round]
    refused: Refused | None

    @property
    def measured(self) -> bool:
        return self.refused is None and bool(self.rounds)


def spread(values: Sequence[float]) -> Spread:
    """Median, smallest and largest."""
    median, low, high = summary(values)
    return Spread(median=median, low=low, high=high)


def peak_of(run: Run) -> Peak:
    """The matrix-product rate from a run of that kind."""
    spec = run.spec
    return Peak(
        dtype=spec.dtype,
        threads=spec.threads,
        rows=spec.tokens_per_step,
        flops_a_second=spread([r.operations / r.training.wall for r in run.rounds]),
        flops_a_cpu_second=spread([r.operations / r.training.cpu for r in run.rounds]),
    )


def contender_result(
    run: Run,
    runs: Sequence[Run],
    peaks: Sequence[Peak],
    shape: Shape,
    *,
    on_cpu: bool,
    history_tokens: int,
) -> ContenderResult:
    """One contender's entry; `runs` are all of the setting's, for its ratios."""
    spec, refused = run.spec, run.refused
    status = "measured"
    if refused is not None:
        status = "not possible in training" if refused.impossible else "failed"
    return ContenderResult.model_validate(
        {
            "label": spec.label,
            "what": KINDS[spec.kind],
            **dataclasses.asdict(spec),
            "attention": run.ready.attention if run.ready else spec.attention,
            "status": status,
            "cause": refused.cause if refused else None,
            "measured": _measured(run, runs, peaks, shape, on_cpu, history_tokens)
            if refused is None
            else None,
        }
    )


def _measured(
    run: Run,
    runs: Sequence[Run],
    peaks: Sequence[Peak],
    shape: Shape,
    on_cpu: bool,
    history_tokens: int,
) -> Measured:
    assert run.ready is not None
    counts, users = run.rounds[0].counts, run.ready.users
    assert all(r.counts == counts for r in run.rounds), "a round did other work than the one before"
    flops = useful_flops(run, shape)
    known = [r.peak_bytes for r in run.rounds if r.peak_bytes is not None]
    tokens = spread([counts.tokens / r.training.wall for r in run.rounds])
    return Measured(
        users=users,
        **dataclasses.asdict(counts),
        flops=flops,
        rounds=[
            RoundSeconds(
                wall_s=r.training.wall,
                cpu_s=r.training.cpu,
                setup_wall_s=r.setup.wall,
                setup_cpu_s=r.setup.cpu,
            )
            for r in run.rounds
        ],
        samples_a_second=spread([counts.samples / r.training.wall for r in run.rounds]),
        samples_a_cpu_second=spread([counts.samples / r.training.cpu for r in run.rounds]),
        tokens_a_second=tokens,
        tokens_a_cpu_second=spread([counts.tokens / r.training.cpu for r in run.rounds]),
        setup_s_a_user=spread([r.setup.wall / users for r in run.rounds]),
        fill=counts.tokens / counts.padded_tokens,
        share_of_peak=_share(run, flops, peaks, on_cpu=on_cpu),
        users_an_hour=3600 * tokens.median / history_tokens,
        memory_before_bytes=run.ready.memory_bytes,
        memory_peak_bytes=max(known) if known else None,
        against=_ratios(run, runs),
    )


def useful_flops(run: Run, shape: Shape) -> int:
    """Operations the frozen base needs for a round's real tokens; half of it without a backward."""
    counts = run.rounds[0].counts
    flops = shape.training_flops(counts.tokens, counts.logit_positions)
    return flops // 2 if run.spec.kind in FORWARD_ONLY else flops


def _share(run: Run, flops: int, peaks: Sequence[Peak], *, on_cpu: bool) -> float | None:
    for peak in peaks:
        if (peak.dtype, peak.threads) == (run.spec.dtype, run.spec.threads):
            if on_cpu:
                rate = summary([flops / r.training.cpu for r in run.rounds])[0]
                return rate / peak.flops_a_cpu_second.median
            rate = summary([flops / r.training.wall for r in run.rounds])[0]
            return rate / peak.flops_a_second.median
    return None


def _ratios(run: Run, runs: Sequence[Run]) -> dict[str, Ratio]:
    kinds = FORWARD_BASELINES if run.spec.kind in FORWARD_ONLY else BASELINES
    return {
        other.spec.label: ratio(run, other)
        for other in runs
        if other is not run and other.spec.kind in kinds and other.measured
    }


def ratio(run: Run, other: Run) -> Ratio:
    """How many times as many tokens a second, round by round: both met the same disturbances."""

    def times(mine: Seconds, theirs: Seconds, clock: str) -> float:
        ours = run.rounds[0].counts.tokens / getattr(mine, clock)
        return float(ours * getattr(theirs, clock) / other.rounds[0].counts.tokens)

    pairs = [(a.training, b.training) for a, b in zip(run.rounds, other.rounds, strict=True)]
    return Ratio(
        wall=spread([times(a, b, "wall") for a, b in pairs]),
        cpu=spread([times(a, b, "cpu") for a, b in pairs]),
    )
