"""From devices' folders to `results.json` and `details.json`.

Every arm is scored strictly and leniently, at query and at user level, with intervals from
resampling users; arms are compared in pairs on the same users (docs/method.md 2.3, 4.3). The folds of a
rotated run are scored together: every user is a test user once, so their predictions are one set.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from proper_model.evaluation import (
    CORPUS_METRICS,
    RESAMPLES,
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
    Levels,
    MessageTotal,
    Routing,
    Significance,
    fit_numbers,
    write_details,
)
from simulations.outcome.devices import fit_report
from simulations.outcome.results import (
    RESULTS_FILE,
    ArmResult,
    Contrast,
    MetricSummary,
    Results,
    write_results,
)
from simulations.outcome.rundata import RunData, load_run
from simulations.outcome.timings import read_node_timings, read_timings
from simulations.reporting.device_routing import device_routing
from simulations.reporting.levels import by_level, read_levels
from simulations.reporting.parameters import parameter_counts
from simulations.reporting.remarks import remarks
from simulations.setup.run_folder import TRUTH_FILE

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


def score_run(
    out: Path, *, resamples: int = RESAMPLES, confidence: float = CONFIDENCE
) -> tuple[Results, Details]:
    """Score a run's folder, or all its folds, and write both files there.

    Raises ReportError if a device's predictions are missing or damaged.
    """
    data = load_run(out)
    scored = _score_arms(data, lenient=False)
    rated = significance(scored, resamples=resamples, confidence=confidence)
    results = make_results(data, out, scored, rated, resamples=resamples, confidence=confidence)
    details = make_details(data, scored, rated, resamples=resamples, confidence=confidence)
    write_results(results, out / RESULTS_FILE)
    write_details(details, out / DETAILS_FILE)
    return results, details


def make_results(
    data: RunData,
    out: Path,
    scored: Mapping[str, Scored],
    rated: Sequence[Significance],
    *,
    resamples: int,
    confidence: float,
) -> Results:
    """The content of results.json, from each arm's strict scores and their comparisons."""
    plan = data.plan
    split = f"{plan.split}, {plan.folds} folds" if len(data.plans) > 1 else _split_label(plan)
    return Results(
        task=data.task.name,
        template=data.task.template,
        base=Path(plan.base).name if Path(plan.base).is_dir() else plan.base,
        preset=plan.preset,
        profile=plan.stage_settings.name,
        seed=plan.seed,
        split=split,
        hardware=environment.trained_on(p.out for p in data.plans) or environment.hardware(),
        commit=environment.commit(),
        arms={
            arm: arm_result(table, resamples=resamples, confidence=confidence)
            for arm, table in scored.items()
        },
        contrasts=[row.contrast for row in rated],
        confidence=confidence,
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


def arm_result(scored: Scored, *, resamples: int, confidence: float) -> ArmResult:
    """One table as the results file shows it."""
    return ArmResult(
        n_users=len(set(scored.user_ids)),
        n_queries=len(scored.query_ids),
        metrics=summaries(scored, resamples=resamples, confidence=confidence),
    )


def summaries(scored: Scored, *, resamples: int, confidence: float) -> dict[str, MetricSummary]:
    """Every metric of one arm at both levels."""
    found = {}
    for metric in scored.metrics:
        row = bootstrap(scored, metric, seed=SEED, resamples=resamples, confidence=confidence)
        found[metric] = MetricSummary(
            mean=row.mean,
            low=row.low,
            high=row.high,
            user_mean=row.user_mean,
            user_low=row.user_low,
            user_high=row.user_high,
        )
    return found


def significance(
    scored: Mapping[str, Scored], *, resamples: int, confidence: float
) -> list[Significance]:
    """All pairs that were run, with Holm's correction over the pairs of one metric and level."""
    pairs = [(a, b) for a, b in PAIRS if a in scored and b in scored]
    rated: list[Significance] = []
    metrics = next(iter(scored.values())).metrics
    for metric in metrics:
        for level in LEVELS:
            if level == "user" and metric in CORPUS_METRICS:
                continue  # not defined over one user's few queries
            family = {
                (a, b): paired_bootstrap(
                    scored[a],
                    scored[b],
                    metric,
                    level=level,
                    seed=SEED,
                    resamples=resamples,
                    confidence=confidence,
                )
                for a, b in pairs
                if metric in scored[a].metrics and metric in scored[b].metrics
            }
            corrected = holm({f"{a}|{b}": row.p for (a, b), row in family.items()})
            rated += [
                Significance(
                    contrast=Contrast(
                        a=a,
                        b=b,
                        metric=metric,
                        level=level,
                        delta=row.delta,
                        low=row.low,
                        high=row.high,
                    ),
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
    *,
    resamples: int,
    confidence: float,
) -> Details:
    """The content of details.json, from each arm's strict scores and their comparisons."""
    lenient = _score_arms(data, lenient=True)
    reference = "stage1" if "stage1" in strict else next(iter(strict))
    arms = {}
    for arm, table in strict.items():
        same = arm == reference
        arms[arm] = ArmDetails(
            lenient=summaries(lenient[arm], resamples=resamples, confidence=confidence),
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
        fits=_fits(data),
        significance=list(rated),
        messages=message_totals(plan.out / "messages.jsonl" for plan in data.plans),
        routing=_routing(data),
        levels=_levels(data, strict),
        remarks=remarks(data.plans),
    )


def _levels(data: RunData, scored: Mapping[str, Scored]) -> Levels | None:
    known = read_levels(plan.out / TRUTH_FILE for plan in data.plans)
    return None if known is None else by_level(scored, known)


def _fits(data: RunData) -> dict[str, dict[str, dict[str, float | int | str]]]:
    fits: dict[str, dict[str, dict[str, float | int | str]]] = {}
    for plan in data.plans:
        prefix = f"f{plan.fold}-" if len(data.plans) > 1 else ""
        for arm in plan.state_arms:
            for entry in plan.devices:
                numbers = fit_numbers(fit_report(entry, arm))
                if numbers:
                    fits.setdefault(arm, {})[prefix + entry.device_id] = numbers
    return fits


def _routing(data: RunData) -> Routing | None:
    # Folds train their own experts, so their routing cannot share one picture.
    return device_routing(data.plan) if len(data.plans) == 1 else None


def message_totals(paths: Iterable[Path]) -> list[MessageTotal]:
    """Count and bytes by kind and direction, from the ledgers of the coordinators."""
    totals: dict[tuple[str, str], tuple[int, int]] = {}
    for path in paths:
        if not path.is_file():
            continue
        for line in path.read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            key = (str(row["kind"]), str(row["direction"]))
            count, size = totals.get(key, (0, 0))
            totals[key] = (count + 1, size + int(row["bytes"]))
    return [
        MessageTotal(kind=kind, direction=direction, count=count, bytes=size)
        for (kind, direction), (count, size) in totals.items()
    ]
