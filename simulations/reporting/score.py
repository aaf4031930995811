"""From devices' folders to `results.json` and `details.json`.

Every arm is scored strictly and leniently, at query and at user level, with intervals from
resampling users; arms are compared in pairs on the same users (docs/method.md 2.3, 4.3). The folds
of a rotated run are scored together: every user is a test user once, so their predictions are one
set.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from proper_model.evaluation import (
    CORPUS_METRICS,
    RESAMPLES,
    Difference,
    Level,
    Scored,
    bootstrap,
    holm,
    paired_bootstrap,
    score,
    share_changed,
    user_values,
)
from proper_model.federation.run_plan import RunPlan
from simulations.outcome import environment
from simulations.outcome.details import (
    DETAILS_FILE,
    ArmDetails,
    Details,
    Significance,
)
from simulations.outcome.results import (
    RESULTS_FILE,
    ArmResult,
    Contrast,
    MetricSummary,
    Results,
    write_document,
)
from simulations.outcome.rundata import RunData, load_run
from simulations.outcome.timings import read_node_timings, read_timings
from simulations.reporting.device_details import (
    by_level,
    device_routing,
    fits,
    learning_curves,
    message_totals,
    query_levels,
    remarks,
)
from simulations.reporting.parameters import parameter_counts

CONFIDENCE = 0.95
SEED = 0  # of the bootstrap, the same for every run so that files can be compared

# What each pair asks, first minus second.
PAIRS: tuple[tuple[str, str], ...] = (
    ("stage3", "stage1"),  # what the whole system brings
    ("stage3", "oppu-mlp"),  # against a private LoRA without groups
    ("stage3", "stage2"),  # what the user level adds to the group level
    ("stage2", "stage1"),  # what the group level brings
    ("stage2", "stage2-mean"),  # what fitting e_u brings
    ("oppu-mlp", "stage1"),
    ("stage3", "stage3-shuffled"),  # personalization, or just more training?
)
LEVELS: tuple[Level, ...] = ("query", "user")


@dataclass(frozen=True)
class Resampling:
    """How intervals are drawn, by resampling users: with one seed, so that files can be compared."""

    resamples: int = RESAMPLES

    def summary(self, scored: Scored, metric: str) -> MetricSummary:
        """A metric of one arm at both levels."""
        row = bootstrap(scored, metric, seed=SEED, resamples=self.resamples, confidence=CONFIDENCE)
        return MetricSummary(**{name: getattr(row, name) for name in MetricSummary.model_fields})

    def difference(self, a: Scored, b: Scored, metric: str, level: Level) -> Difference:
        """Arm a minus arm b, on the same users and queries."""
        return paired_bootstrap(
            a,
            b,
            metric,
            level=level,
            seed=SEED,
            resamples=self.resamples,
            confidence=CONFIDENCE,
        )


def score_run(out: Path, *, resamples: int = RESAMPLES) -> tuple[Results, Details]:
    """Score a run's folder, or all its folds, and write both files there.

    Raises ReportError if a device's predictions are missing or damaged.
    """
    data = load_run(out)
    scored, drawn = _score_arms(data, lenient=False), Resampling(resamples)
    rated = significance(scored, drawn)
    results = make_results(data, out, scored, rated, drawn)
    details = make_details(data, scored, rated, drawn)
    write_document(results, out / RESULTS_FILE)
    write_document(details, out / DETAILS_FILE)
    return results, details


def make_results(
    data: RunData,
    out: Path,
    scored: Mapping[str, Scored],
    rated: Sequence[Significance],
    drawn: Resampling,
) -> Results:
    """The content of results.json, from each arm's strict scores and their comparisons."""
    plan = data.plan
    split = f"{plan.split}, {plan.folds} folds" if len(data.plans) > 1 else _split_label(plan)
    return Results(
        task=data.task.name,
        template=data.task.template,
        base=Path(plan.base).name if Path(plan.base).is_dir() else plan.base,
        preset=plan.structure.name,
        profile=plan.stage_settings.name,
        seed=plan.seed,
        split=split,
        hardware=environment.trained_on(p.out for p in data.plans) or environment.hardware(),
        commit=environment.commit(),
        arms={arm: arm_result(table, drawn) for arm, table in scored.items()},
        contrasts=[row.contrast for row in rated],
        confidence=CONFIDENCE,
        parameters=parameter_counts(plan),
        timings_s=read_timings(out, data.plans),
        node_timings_s=read_node_timings(data.plans),
    )


def _split_label(plan: RunPlan) -> str:
    return plan.split if plan.folds == 1 else f"{plan.split}, fold {plan.fold} of {plan.folds}"


def _score_arms(data: RunData, *, lenient: bool) -> dict[str, Scored]:
    return {
        arm: score(data.task, data.users, rows, lenient=lenient)
        for arm, rows in data.predictions.items()
    }


def arm_result(scored: Scored, drawn: Resampling) -> ArmResult:
    """One table as the results file shows it."""
    return ArmResult(
        n_users=len(set(scored.user_ids)),
        n_queries=len(scored.query_ids),
        metrics=summaries(scored, drawn),
    )


def summaries(scored: Scored, drawn: Resampling) -> dict[str, MetricSummary]:
    """Every metric of one arm at both levels."""
    return {metric: drawn.summary(scored, metric) for metric in scored.metrics}


def significance(scored: Mapping[str, Scored], drawn: Resampling) -> list[Significance]:
    """All pairs that were run, with Holm's correction over the pairs of one metric and level."""
    pairs = [(a, b) for a, b in PAIRS if a in scored and b in scored]
    rated: list[Significance] = []
    metrics = next(iter(scored.values())).metrics
    for metric in metrics:
        for level in LEVELS:
            if level == "user" and metric in CORPUS_METRICS:
                continue  # not defined over one user's few queries
            family = {
                (a, b): drawn.difference(scored[a], scored[b], metric, level)
                for a, b in pairs
                if metric in scored[a].metrics and metric in scored[b].metrics
            }
            corrected = holm({f"{a}|{b}": row.p for (a, b), row in family.items()})
            rated += [
                Significance(
                    contrast=Contrast.of(a, b, metric, level, row),
                    p=row.p,
                    p_holm=corrected[f"{a}|{b}"],
                    all_tied=row.all_tied,
                )
                for (a, b), row in family.items()
            ]
    return rated


def make_details(
    data: RunData,
    strict: Mapping[str, Scored],
    rated: Sequence[Significance],
    drawn: Resampling,
) -> Details:
    """The content of details.json, from each arm's strict scores and their comparisons."""
    lenient = _score_arms(data, lenient=True)
    reference = "stage1" if "stage1" in strict else next(iter(strict))
    arms = {}
    for arm, table in strict.items():
        same = arm == reference
        arms[arm] = ArmDetails(
            lenient=summaries(lenient[arm], drawn),
            devices={
                metric: {
                    data.devices[user]: value for user, value in user_values(table, metric).items()
                }
                for metric in table.metrics
            },
            changed=None
            if same
            else share_changed(data.predictions[arm], data.predictions[reference]),
        )
    return Details(
        reference=reference,
        arms=arms,
        fits=fits(data),
        significance=list(rated),
        messages=message_totals(plan.out / "messages.jsonl" for plan in data.plans),
        # Folds train their own experts, so their routing cannot share one picture.
        routing=device_routing(data.plan) if len(data.plans) == 1 else None,
        levels=by_level(strict, query_levels(data.plans)),
        curves=learning_curves(data.plan) if len(data.plans) == 1 else [],
        remarks=remarks(data.plans),
    )
