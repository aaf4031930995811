"""One HTML file from one or several results files, in which nothing is fetched or executed.

Numbers come from `results.json` and, where it lies beside, `details.json`. User text enters only
through an `Example`, which the caller makes for synthetic people, or for real ones on the reader's
own request (`--show-examples`).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape

from client.look import stylesheet
from client.terminal.tables import Table
from proper_model.evaluation import LOWER_IS_BETTER, Prediction
from proper_model.storage.files import write_atomic
from proper_model.tasks import Task, User
from simulations.outcome.details import DETAILS_FILE, Details, read_details
from simulations.outcome.results import RESULTS_FILE, Results, read_results
from simulations.reporting import figures
from simulations.reporting.charts import intervals
from simulations.reporting.figures import Figure
from simulations.reporting.headline import Headline, asked_metric, headline, mean_rows
from simulations.reporting.tables import (
    comparison_table,
    contrast_table,
    corrected_table,
    lenient_table,
    level_table,
    ordered_arms,
    run_table,
)

TEMPLATES = Path(__file__).resolve().parent / "templates"
LEVELS = {"stage1": "population", "stage2": "group", "stage3": "user"}
SYNTHETIC_NOTE = "This person is synthetic: the text was generated and belongs to nobody."
REAL_NOTE = "Shown on request: this is text of a person in the data."
GAIN_PAIRS = (("stage3", "stage1"), ("stage3", "oppu-mlp"), ("stage2", "stage2-mean"))


@dataclass(frozen=True)
class Step:
    level: str
    arm: str
    output: str
    right: bool


@dataclass(frozen=True)
class Example:
    prompt: str
    gold: str
    steps: tuple[Step, ...]
    note: str = ""


@dataclass(frozen=True)
class Section:
    """One run in the report, in the order it is read in."""

    results: Results
    anchor: str
    headline: Headline | None
    arms: tuple[Figure, ...]  # the main comparison: means of arms, differences
    people: tuple[Figure, ...]  # gains of every person, `people_asked` of them in the asked metric
    people_asked: int
    routing: Figure | None
    learning: tuple[Figure, ...]
    costs: tuple[Figure, ...]
    tables: tuple[Table, ...]
    all_differences: Table
    lenient: Table | None  # this and the next with details only
    corrected: Table | None
    details: Details | None
    example: Example | None

    @property
    def name(self) -> str:
        """Which run it is."""
        r = self.results
        return f"{r.task}, {r.preset}/{r.profile}, seed {r.seed}"

    @property
    def contents(self) -> list[tuple[str, str]]:
        """Anchor and heading of what there is."""
        present = (
            ("arms", "Arms side by side", self.arms),
            ("people", "Person by person", self.people),
            ("routing", "Which experts answer whom", self.routing),
            ("example", "One question, level by level", self.example),
            ("tables", "Tables", self.tables),
            ("learning", "What was learned from others", self.learning),
            ("costs", "Time and messages", self.costs),
            ("settings", "Parameters and settings", True),
        )
        return [(f"{self.anchor}-{key}", title) for key, title, there in present if there]


def write_report(
    sources: Sequence[Path], target: Path, *, examples: Sequence[Example | None] = ()
) -> None:
    """Read results files (or run folders) and write one HTML page.

    `examples[i]` is shown with `sources[i]`. Raises ReportError for a source that is no results
    file.
    """
    sections = []
    for index, source in enumerate(sources):
        path = source / RESULTS_FILE if source.is_dir() else source
        example = examples[index] if index < len(examples) else None
        details = read_details(path.parent / DETAILS_FILE) if path.name == RESULTS_FILE else None
        sections.append(section(read_results(path), details, example, anchor=f"run{index}"))
    target.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(target, render(sections).encode())


def section(
    results: Results, details: Details | None, example: Example | None, *, anchor: str
) -> Section:
    """Tables and figures of one run."""
    tables = [run_table(results), contrast_table(results, brief=True)]
    if details is not None and details.levels is not None:
        tables.append(level_table(details.levels))
    routing = None
    if details is not None and details.routing is not None:
        routing = figures.routing_heatmap(details.routing, key=f"{anchor}-experts")
    people = _drawn([] if details is None else people_figures(results, details, anchor))
    significance = None if details is None else details.significance
    return Section(
        results=results,
        anchor=anchor,
        headline=headline(results, details, key=f"{anchor}-first"),
        arms=_drawn(arm_figures(results, anchor)),
        people=people,
        people_asked=sum(figure.key.endswith(f"-{asked_metric(results)}") for figure in people),
        routing=routing,
        learning=_drawn([] if details is None else learning_figures(details, anchor)),
        costs=_drawn(cost_figures(results, details, anchor)),
        tables=tuple(table for table in tables if table.rows),
        all_differences=contrast_table(results),
        lenient=None if details is None else lenient_table(details),
        corrected=None
        if significance is None
        else corrected_table(significance, results.confidence),
        details=details,
        example=example,
    )


def _drawn(found: Iterable[Figure | None]) -> tuple[Figure, ...]:
    return tuple(figure for figure in found if figure is not None)


def arm_figures(results: Results, anchor: str) -> list[Figure | None]:
    """What every arm comes to, then the differences, in the metric that people ask for and in loss."""
    metrics = [asked_metric(results) or results.metric_names()[0]]
    metrics += [m for m in ("nll",) if m in results.metric_names() and m not in metrics]
    n = max(arm.n_users for arm in results.arms.values())
    note = f"{results.confidence:.0%} intervals over {n} people, who all weigh the same; unit: "
    drawn: list[Figure | None] = []
    for metric in metrics:
        rows = mean_rows(results, metric, ordered_arms(results.arms), "stage3")
        if rows:
            lower = "lower" if metric in LOWER_IS_BETTER else "higher"
            said = "; ".join(f"{row.label}: {row.marks[0].said}" for row in rows)
            chart = intervals(rows, f"{metric} ({lower} is better)")
            title, key = f"What each arm comes to: {metric}", f"{anchor}-means-{metric}"
            drawn.append(figures.charted(key, title, said, chart, f"{note}{metric}."))
        own = [c for c in results.contrasts if c.metric == metric]
        by_person = [c for c in own if c.level == "user"] or own
        key = f"{anchor}-forest-{metric}"
        drawn.append(figures.forest(by_person, metric, key=key, note=f"{note}{metric}."))
    return drawn


def people_figures(results: Results, details: Details, anchor: str) -> list[Figure | None]:
    """What changed for every person, in the metric that people ask for and in loss."""
    asked = (asked_metric(results), primary_metric(results))
    return [
        figures.device_deltas(
            a,
            b,
            metric,
            device_differences(details, a, b, metric),
            key=f"{anchor}-{a}-{b}-{metric}",
        )
        for metric in dict.fromkeys(one for one in asked if one is not None)
        for a, b in GAIN_PAIRS
    ]


def learning_figures(details: Details, anchor: str) -> list[Figure | None]:
    """Curves of the pooled phases, and what fitting brought on held-back items."""
    gains = device_differences(details, "stage2", "stage2-mean", "nll")
    fits = details.fits.get("stage3", {})
    points = [
        (float(fit["embedding_distance"]), -gains[device])
        for device, fit in fits.items()
        if device in gains and isinstance(fit.get("embedding_distance"), float | int)
    ]
    pairs = [
        (float(fit["embedding_loss_before"]), float(fit["lora_loss_after"]))
        for fit in fits.values()
        if isinstance(fit.get("embedding_loss_before"), float | int)
        and isinstance(fit.get("lora_loss_after"), float | int)
    ]
    gain = "nll saved by the fitted embedding"
    return [
        figures.learning_curves(details.curves, key=f"{anchor}-learned"),
        figures.held_back(pairs, key=f"{anchor}-held"),
        figures.distance_and_gain(points, gain, key=f"{anchor}-distance"),
    ]


def cost_figures(results: Results, details: Details | None, anchor: str) -> list[Figure | None]:
    """Seconds by phase and by step of nodes, bytes by message."""
    drawn = [
        figures.bars(seconds, key=f"{anchor}-{name}", title=title, axis="seconds", unit="s")
        for title, seconds, name in (
            ("Time by phase", results.timings_s, "time"),
            ("Time of nodes by step, summed", results.node_timings_s, "nodes"),
        )
    ]
    if details is not None:
        drawn.append(figures.messages(details.messages, key=f"{anchor}-messages"))
    return drawn


def primary_metric(results: Results) -> str:
    """A loss if there is one: with few users it shows differences that counts of answers miss."""
    present = results.metric_names()
    for metric in ("mae_expected", "nll"):
        if metric in present:
            return metric
    return present[0]


def device_differences(details: Details, a: str, b: str, metric: str) -> dict[str, float]:
    """Arm a minus arm b on every device that both have, for one metric."""
    if a not in details.arms or b not in details.arms:
        return {}
    left = details.arms[a].devices.get(metric, {})
    right = details.arms[b].devices.get(metric, {})
    return {device: left[device] - right[device] for device in left if device in right}


def choose_example(
    task: Task, users: Sequence[User], predictions: Mapping[str, Sequence[Prediction]], *, note: str
) -> Example | None:
    """The query that shows the levels best: right only for the user, different on the way.

    Ties go to the first query in the users' order, so the choice is the same every time.
    Returns None unless both the first and the last level were run.
    """
    arms = [arm for arm in LEVELS if arm in predictions]
    if "stage1" not in arms or "stage3" not in arms:
        return None
    by_id = {arm: {(p.user_id, p.query_id): p for p in predictions[arm]} for arm in arms}
    best: tuple[tuple[int, int, float], Example] | None = None
    for user in users:
        for query in user.queries:
            asked = (user.user_id, query.id)
            found = [by_id[arm][asked] for arm in arms if asked in by_id[arm]]
            if len(found) < len(arms):
                continue
            steps = tuple(
                Step(LEVELS[arm], arm, p.output.strip(), p.output.strip() == query.gold.strip())
                for arm, p in zip(arms, found, strict=True)
            )
            gained = int(steps[-1].right) - int(steps[0].right)
            distinct = len({step.output for step in steps})
            rank = (gained, distinct, found[0].nll - found[-1].nll)
            if best is None or rank > best[0]:
                prompt = task.query_example(query).prompt
                best = (rank, Example(prompt, query.gold, steps, note))
    return None if best is None else best[1]


def render(sections: Sequence[Section]) -> str:
    """The page as text."""
    runs = [part.results for part in sections]
    return (
        page_environment(TEMPLATES)
        .get_template("report.html.j2")
        .render(
            sections=sections,
            comparison=comparison_table(runs) if len(runs) > 1 else None,
            lower_is_better=sorted(LOWER_IS_BETTER),
        )
    )


def page_environment(*folders: Path) -> Environment:
    """Templates of these folders; everything they are given is escaped, nothing may be missing."""
    environment = Environment(
        loader=FileSystemLoader(folders),
        autoescape=select_autoescape(default=True, default_for_string=True),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["number"] = _number
    environment.globals["stylesheet"] = stylesheet()
    return environment


def _number(value: float) -> str:
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.4f}" if math.isfinite(value) else "not a number"
