"""Tables of results, for a terminal or a README, and of what `validate` found. No user text.

A run's own table has a row per arm with intervals. The comparison has a row per task, metric,
preset and profile and a column per arm; files that differ only in seed share a row as their mean.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence

from client.terminal.tables import Table
from proper_model.data import GroupSummary, Lengths, ValidationReport
from proper_model.tasks import counted
from simulations.outcome.details import Details, Levels, Significance
from simulations.outcome.results import METRICS, Contrast, MetricSummary, Results
from simulations.outcome.timings import phase_name

VERDICTS = {True: "better", False: "worse", None: "not separable"}
NONE = "–"
ARM_ORDER = ("stage1", "stage2-mean", "stage2", "oppu-mlp", "stage3", "stage3-shuffled")


def ordered_arms(names: Iterable[str]) -> list[str]:
    """Arms in the order of the stages, unknown ones after them by name."""
    names = set(names)
    return [a for a in ARM_ORDER if a in names] + sorted(names - set(ARM_ORDER))


def interval(mean: float, low: float, high: float) -> str:
    """A mean with its interval."""
    return f"{mean:.3f} [{low:.3f}, {high:.3f}]"


def by_person(value: MetricSummary | None) -> str:
    """The mean of people's values where there is one, else over all answers, with its interval."""
    if value is None:
        return NONE
    if math.isfinite(value.user_mean):
        return interval(value.user_mean, value.user_low, value.user_high)
    return interval(value.mean, value.low, value.high)


def difference(row: Contrast) -> tuple[str, str, str]:
    """The cells of a difference: how large, its interval, and who is better."""
    return f"{row.delta:+.4f}", f"[{row.low:+.4f}, {row.high:+.4f}]", VERDICTS[row.improvement]


def run_table(results: Results) -> Table:
    """One row an arm, every metric with its interval over users."""
    metrics = results.metric_names()
    rows = []
    for name in ordered_arms(results.arms):
        arm = results.arms[name]
        cells = [name, str(arm.n_users), str(arm.n_queries)]
        for metric in metrics:
            got = arm.metrics.get(metric)
            cells.append(NONE if got is None else interval(got.mean, got.low, got.high))
        rows.append(tuple(cells))
    title = (
        f"{results.task}, {results.preset}/{results.profile}, base {results.base}, "
        f"split {results.split}, seed {results.seed}, "
        f"{results.confidence:.0%} intervals over users"
    )
    return Table(title, ("arm", "users", "queries", *metrics), tuple(rows))


def comparison_table(runs: Sequence[Results]) -> Table:
    """One row a task, metric, preset and profile; one column an arm; seeds averaged."""
    arms = ordered_arms(arm for run in runs for arm in run.arms)
    groups: dict[tuple[str, ...], list[Results]] = {}
    for run in runs:
        key = (run.task, run.template, run.base, run.preset, run.profile, run.split)
        groups.setdefault(key, []).append(run)
    rows = []
    for (task, _template, base, preset, profile, split), members in groups.items():
        for metric in METRICS:
            cells = [_mean_over(members, arm, metric) for arm in arms]
            if all(cell is None for cell in cells):
                continue
            users = max(arm.n_users for run in members for arm in run.arms.values())
            seeds = len({run.seed for run in members})
            rows.append(
                (
                    f"{task} ({users} users, {split})",
                    metric,
                    f"{preset}/{profile}, {base}",
                    str(seeds),
                    *(NONE if cell is None else f"{cell:.3f}" for cell in cells),
                )
            )
    return Table("Runs", ("task", "metric", "preset", "seeds", *arms), tuple(rows), labels=3)


def _mean_over(runs: Sequence[Results], arm: str, metric: str) -> float | None:
    values = [
        run.arms[arm].metrics[metric].mean
        for run in runs
        if arm in run.arms and metric in run.arms[arm].metrics
    ]
    return math.fsum(values) / len(values) if values else None


def contrast_table(results: Results, *, brief: bool = False) -> Table:
    """Differences between arms; the user level first, where all users weigh alike.

    `brief` keeps one level of each metric, the user's where it is defined, and no parse failures.
    A metric in which no two arms differ, as when no answer failed to parse, is left out.
    """
    differing = {c.metric for c in results.contrasts if c.delta != 0}
    shown = sorted(results.contrasts, key=lambda c: c.level != "user")
    shown = [c for c in shown if c.metric in differing]
    if brief:
        with_user_level = {c.metric for c in shown if c.level == "user"}
        shown = [
            c
            for c in shown
            if c.metric != "parse_failure_rate"
            and (c.level == "user" or c.metric not in with_user_level)
        ]
    rows = [(f"{row.a} − {row.b}", row.metric, row.level, *difference(row)) for row in shown]
    header = ("arms", "metric", "level", "difference", "interval", "verdict")
    return Table("Differences", header, tuple(rows), labels=3)


def corrected_table(significance: Sequence[Significance], confidence: float) -> Table:
    """Differences that survive Holm's correction over one metric and level, surest first."""
    found = sorted(
        (row for row in significance if row.p_holm < 1 - confidence), key=lambda row: row.p_holm
    )
    rows = [
        (f"{c.a} − {c.b}", c.metric, c.level, f"{c.delta:+.4f}", f"{row.p_holm:.4f}")
        for row in found
        for c in [row.contrast]
    ]
    title = f"{len(found)} of {len(significance)} differences"
    return Table(title, ("arms", "metric", "level", "difference", "p"), tuple(rows), labels=3)


def lenient_table(details: Details) -> Table:
    """Metrics of answers that are read leniently, and the share that differs from the reference arm."""
    rows = [
        (
            *(name, metric, interval(value.mean, value.low, value.high)),
            NONE if arm.changed is None else f"{arm.changed:.3f}",
        )
        for name, arm in details.arms.items()
        for metric, value in arm.lenient.items()
    ]
    title = f"Lenient metrics, and answers that differ from {details.reference}"
    return Table(title, ("arm", "metric", "mean", "changed answers"), tuple(rows), labels=2)


def level_table(levels: Levels) -> Table:
    """Synthetic people: each arm on the queries that population, group or user decide."""
    names = list(dict.fromkeys(name for values in levels.arms.values() for name in values))
    rows = []
    for arm in ordered_arms(levels.arms):
        means = levels.arms[arm]
        rows.append((arm, *(f"{means[name]:.3f}" if name in means else NONE for name in names)))
    title = f"What decides the answer ({levels.metric})"
    return Table(title, ("arm", *names), tuple(rows))


def phase_table(runs: Sequence[Results], names: Sequence[str]) -> Table:
    """Seconds by phase, one column a run; below them, those of nodes, which lie within phases.

    Nodes play at the same time, so theirs add up to more than the phases they lie in.
    """
    rows = []
    for mark, seconds in (
        ("", [run.timings_s for run in runs]),
        ("nodes, ", [run.node_timings_s for run in runs]),
    ):
        for phase in dict.fromkeys(name for column in seconds for name in column):
            cells = (f"{column[phase]:.1f}" if phase in column else NONE for column in seconds)
            rows.append((mark + phase_name(phase), *cells))
        if not mark:
            rows.append(
                ("all phases", *(f"{math.fsum(column.values()):.1f}" for column in seconds))
            )
    return Table("Seconds by phase", ("phase", *names), tuple(rows))


def summary_table(found: ValidationReport) -> Table:
    """Pooled and test users side by side."""
    groups = (found.pooled, found.test)
    rows: list[tuple[str, ...]] = [
        ("users", *(str(g.users) for g in groups)),
        ("history items", *(str(g.items) for g in groups)),
        ("queries", *(str(g.queries) for g in groups)),
        ("items a user", *(_spread(g.items_a_user) for g in groups)),
        ("queries a user", *(_spread(g.queries_a_user) for g in groups)),
        ("words a question", *(_spread(g.question_words) for g in groups)),
        ("words an answer", *(_spread(g.answer_words) for g in groups)),
    ]
    rows += [
        (f"label '{label}'", *(_label(g, label) for g in groups))
        for label in found.pooled.gold_labels
    ]
    title = (
        f"{found.name}: {found.form} files, task {found.task}, template {found.template}, "
        f"{counted(found.errors, 'error')}, {counted(found.warnings, 'warning')}"
    )
    return Table(title, ("", "pooled", "test"), tuple(rows))


def problem_lines(found: ValidationReport) -> Iterator[str]:
    """One line a problem, repeated or not: severity, file, record, field, what is wrong."""
    for group in found.groups:
        yield f"{group.severity}: {group}"
    left = found.errors + found.warnings - sum(group.count for group in found.groups)
    if left > 0:
        yield f"... and {left} more"


def _label(group: GroupSummary, label: str) -> str:
    return f"{group.gold_labels.get(label, 0)} + {group.history_labels.get(label, 0)} in history"


def _spread(lengths: Lengths) -> str:
    return f"{lengths.low} / {lengths.median} / {lengths.high}"
