"""From a benchmark's scores to its result file: rows, comparisons, gains by history length, curves."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from proper_model.evaluation import CORPUS_METRICS, Scored, user_values
from proper_model.settings import Stage2People, uncalibrated
from simulations.experiments.benchmark_plan import Plan, Variant
from simulations.experiments.benchmark_schema import (
    BenchmarkResult,
    Curve,
    LengthPoint,
    Routing,
    Row,
    Texts,
)
from simulations.experiments.benchmark_schema import Variant as VariantFacts
from simulations.experiments.comparing import UNUSED, compare
from simulations.experiments.schema import Costs
from simulations.outcome import environment
from simulations.reporting.score import CONFIDENCE, Resampling, summaries

if TYPE_CHECKING:
    from simulations.experiments.benchmark import Measured

CURVES = ("population", "group", "router")
GROUPS_OF_PEOPLE = 4  # where histories have more lengths than that, quartiles
FEW_PEOPLE = 10
# Of each kind of task what people ask for, then what sees most.
MAIN = ("mae_expected", "accuracy", "mae", "rougeL")
LOSS = "nll"


def main_metrics(metrics: Sequence[str]) -> tuple[str, ...]:
    """The task's main metric and the loss, as far as there are."""
    main = next((metric for metric in MAIN if metric in metrics), None)
    return tuple(metric for metric in (main, LOSS) if metric is not None and metric in metrics)


def as_result(
    measured: Measured,
    *,
    routing: Sequence[Routing] = (),
    texts: Texts | None = None,
    notes: Sequence[str] = (),
) -> BenchmarkResult:
    """The content of the result file."""
    plan, source, drawn = measured.plan, measured.source, Resampling()
    first = next(iter(measured.rows.values()))
    base = Path(source.base)
    pairs = [pair for pair in plan.pairs if set(pair) <= set(measured.rows)]
    commits = {done.commit for _, _, cells in measured.arms.values() for done in cells}
    return BenchmarkResult(
        experiment=plan.experiment,
        task=source.task.name,
        template=source.task.template,
        base=base.name if base.is_dir() else source.base,
        profile=source.settings.name,
        split=source.people,
        seeds=list(plan.seeds),
        folds=plan.variants[0].options.folds,
        users=len(measured.users),
        queries=len(first.query_ids) // len(plan.seeds),
        hardware=environment.hardware(),
        commit=", ".join(sorted(commits)),
        configuration=measured.configuration,
        confidence=CONFIDENCE,
        variants={variant.name: _variant(measured, variant) for variant in plan.variants},
        rows={
            name: Row(
                arm=arm,
                variant=variant.name,
                metrics=summaries(measured.rows[name], drawn),
                training=_sum([done.training for done in cells]),
                answering=_sum([done.answering for done in cells]),
            )
            for name, (arm, variant, cells) in measured.arms.items()
        },
        comparisons=compare(measured.rows, pairs, drawn, seeds=len(plan.seeds)),
        people={name: people_values(table) for name, table in measured.rows.items()},
        items=[len(user.history) for user in measured.users],
        lengths=[*_cut(measured, drawn), *_own_lengths(measured, pairs, drawn)],
        curves=[curve for variant in plan.variants for curve in _curves(measured, variant)],
        routing=list(routing),
        texts=texts,
        notes=[
            *_standing_notes(plan, len(measured.users)),
            *plan.notes,
            *(f"left out: {name}, since {why}" for name, why in measured.left_out.items()),
            *notes,
        ],
    )


def people_values(table: Scored) -> dict[str, list[float]]:
    """Every person's value by metric, in the order of the people."""
    return {
        metric: list(user_values(table, metric).values())
        for metric in table.metrics
        if metric not in CORPUS_METRICS | UNUSED
    }


def _seen(plan: Plan) -> str:
    """Which variants' stage 2 has seen the histories of the people who are asked, as an exception."""
    everybody = Stage2People.EVERYBODY.value
    seen = [one.name for one in plan.variants if one.options.stage2_users == everybody]
    if not seen:
        return ""
    where = "" if len(seen) == len(plan.variants) else f" of {', '.join(map(repr, seen))}"
    return f", except that stage 2{where} has seen their histories"


def _standing_notes(plan: Plan, people: int) -> list[str]:
    notes = [
        f"people are those whom no pooled stage has seen{_seen(plan)}; where the paper's authors released "
        "code, its stage 2 most probably trains on the test users' own histories, which is the easier "
        "setting"
    ]
    if people < FEW_PEOPLE:
        notes.append(
            f"only {people} people: resampling so few makes differences look surer than they are, so no "
            "interval, p-value or verdict here says anything of others; --folds asks more people"
        )
    said = (uncalibrated(variant.structure, variant.settings) for variant in plan.variants)
    notes += dict.fromkeys(note for note in said if note is not None)
    if plan.experiment != "fig6-efficiency":
        notes.append("minutes of pooled phases are this run's: one found in the cache took none")
    if len(plan.seeds) > 1:
        notes.append(
            "a row is the mean over seeds of training, about the same people; its interval is over "
            "people, whose values are means over seeds; RMSE and macro F1 are over all seeds' answers"
        )
    if plan.lengths:
        notes.append(
            "cut histories keep their newest items; somebody with fewer items keeps all of them"
        )
    return notes


def _variant(measured: Measured, variant: Variant) -> VariantFacts:
    """Sizes of the first release, and mean seconds of all."""
    facts = measured.facts(variant)
    phases = dict.fromkeys(name for one in facts for name in one.seconds)
    return VariantFacts(
        preset=variant.structure.name,
        changed=list(variant.changed),
        parameters=dict(facts[0].parameters),
        seconds={
            name: math.fsum(one.seconds.get(name, 0.0) for one in facts) / len(facts)
            for name in phases
        },
    )


def _curves(measured: Measured, variant: Variant) -> list[Curve]:
    """Held-back losses of the first release's phases, with standard errors where they were noted."""
    notes = measured.facts(variant)[0].notes
    return [
        Curve(
            variant=variant.name,
            phase=phase,
            held_back=list(found["held_back"]),
            standard_error=list(found.get("held_back_se", ())),
            kept=int(found.get("best_epoch", 0)),
        )
        for phase in CURVES
        if (found := notes.get(phase)) and found.get("held_back")
    ]


def _sum(costs: Sequence[Costs | None]) -> Costs | None:
    known = [cost for cost in costs if cost is not None]
    if len(known) < len(costs) or not known:
        return None
    total = known[0]
    for cost in known[1:]:
        total += cost
    return total


def _cut(measured: Measured, drawn: Resampling) -> list[LengthPoint]:
    """Gains over stage 1, and of stage 3 over the private LoRA, by number of items."""
    found = []
    for items, tables in measured.lengths.items():
        for a, b in length_pairs(measured.plan, tables):
            found += _points(tables[a], tables[b], a, b, items, drawn, cut=True)
    return found


def length_pairs(plan: Plan, tables: Mapping[str, Scored]) -> list[tuple[str, str]]:
    """Which rows are compared at every length: all with stage 1, stage 3 with `oppu-mlp`."""
    pairs = []
    for variant in plan.variants:
        first = plan.variants[0]
        rows = {
            arm: plan.row(arm, variant if arm in variant.arms else first)
            for arm in ("stage1", "stage2", "oppu-mlp", "stage3")
        }
        pairs += [(rows[arm], rows["stage1"]) for arm in ("stage2", "oppu-mlp", "stage3")]
        pairs.append((rows["stage3"], rows["oppu-mlp"]))
    return [pair for pair in dict.fromkeys(pairs) if set(pair) <= set(tables)]


def _own_lengths(
    measured: Measured, pairs: Sequence[tuple[str, str]], drawn: Resampling
) -> list[LengthPoint]:
    """The same comparisons among people who have about as many items of their own."""
    items = {user.user_id: len(user.history) for user in measured.users}
    found = []
    wanted = [pair for pair in length_pairs(measured.plan, measured.rows) if pair in pairs]
    for low, high in bands(sorted(items.values())):
        people = {user for user, count in items.items() if low <= count <= high}
        if len(people) < 2:
            continue
        typical = int(np.median([items[user] for user in people]))
        for a, b in wanted:
            first, second = (only(measured.rows[row], people) for row in (a, b))
            found += _points(first, second, a, b, typical, drawn, cut=False)
    return found


def bands(counts: Sequence[int]) -> list[tuple[int, int]]:
    """Ranges of history lengths, both ends in: every length by itself, or quarters of the people."""
    lengths = sorted(set(counts))
    if len(lengths) <= GROUPS_OF_PEOPLE:
        return [(length, length) for length in lengths]
    edges = [counts[(len(counts) * k) // GROUPS_OF_PEOPLE] for k in range(1, GROUPS_OF_PEOPLE)]
    starts = sorted({lengths[0], *edges})
    ends = [start - 1 for start in starts[1:]] + [lengths[-1]]
    return list(zip(starts, ends, strict=True))


def only(table: Scored, people: set[str]) -> Scored:
    """The rows of some people."""
    kept = [place for place, user in enumerate(table.user_ids) if user in people]

    def chosen(values: Sequence[Any]) -> tuple[Any, ...]:
        return tuple(values[place] for place in kept)

    return replace(
        table,
        user_ids=chosen(table.user_ids),
        query_ids=chosen(table.query_ids),
        values={name: chosen(values) for name, values in table.values.items()},
        gold=chosen(table.gold) if table.gold else (),
        predicted=chosen(table.predicted) if table.predicted else (),
    )


def _points(
    a: Scored, b: Scored, first: str, second: str, items: int, drawn: Resampling, *, cut: bool
) -> list[LengthPoint]:
    found = []
    for metric in main_metrics([metric for metric in a.metrics if metric in b.metrics]):
        row = drawn.difference(a, b, metric, "user")
        found.append(
            LengthPoint(
                items=items,
                cut=cut,
                people=row.n_users,
                a=first,
                b=second,
                metric=metric,
                delta=row.delta,
                low=row.low,
                high=row.high,
            )
        )
    return found
