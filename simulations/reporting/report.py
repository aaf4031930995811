"""One HTML file from one or several results files, in which nothing is fetched or executed.

Numbers come from `results.json` and, where it lies beside, `details.json`. User text enters only
through an `Example`, which the caller makes for synthetic people, or for real ones on the reader's
own request (`--show-examples`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape

from client.terminal.tables import Table
from proper_model.evaluation import LOWER_IS_BETTER, Prediction
from proper_model.storage.files import write_atomic
from proper_model.tasks import Task, User
from simulations.outcome.details import DETAILS_FILE, Details, read_details
from simulations.outcome.results import RESULTS_FILE, Results, read_results
from simulations.reporting import figures
from simulations.reporting.figures import Figure
from simulations.reporting.tables import (
    comparison_table,
    contrast_table,
    corrected_table,
    level_table,
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
    """One run in the report."""

    results: Results
    anchor: str
    tables: tuple[Table, ...]
    figures: tuple[Figure, ...]
    details: Details | None
    corrected: Table | None  # with details only
    example: Example | None


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
    tables = [run_table(results), contrast_table(results)]
    if details is not None and details.levels is not None:
        tables.insert(0, level_table(details.levels))
    drawn = [
        figures.forest(results.contrasts, metric, key=f"{anchor}-forest-{metric}")
        for metric in results.metric_names()
        if metric != "parse_failure_rate"
    ]
    if details is not None:
        drawn += _detail_figures(results, details, anchor)
    for title, seconds, name in (
        ("Time by phase", results.timings_s, "time"),
        ("Time of nodes by step, summed", results.node_timings_s, "nodes"),
    ):
        drawn.append(
            figures.bars(seconds, key=f"{anchor}-{name}", title=title, axis="seconds", unit="s")
        )
    kept = tuple(figure for figure in drawn if figure is not None)
    corrected = None
    if details is not None:
        corrected = corrected_table(details.significance, results.confidence)
    return Section(results, anchor, tuple(tables), kept, details, corrected, example)


def _detail_figures(results: Results, details: Details, anchor: str) -> list[Figure | None]:
    drawn: list[Figure | None] = []
    metric = primary_metric(results)
    for a, b in GAIN_PAIRS:
        deltas = device_differences(details, a, b, metric)
        drawn.append(figures.device_deltas(a, b, metric, deltas, key=f"{anchor}-{a}-{b}"))
    gains = device_differences(details, "stage2", "stage2-mean", "nll")
    fits = details.fits.get("stage3", {})
    points = [
        (float(fit["embedding_distance"]), -gains[device])
        for device, fit in fits.items()
        if device in gains and isinstance(fit.get("embedding_distance"), float | int)
    ]
    drawn.append(
        figures.distance_and_gain(
            points, "nll saved by the fitted embedding", key=f"{anchor}-distance"
        )
    )
    pairs = [
        (float(fit["embedding_loss_before"]), float(fit["lora_loss_after"]))
        for fit in fits.values()
        if isinstance(fit.get("embedding_loss_before"), float | int)
        and isinstance(fit.get("lora_loss_after"), float | int)
    ]
    drawn.append(figures.held_back(pairs, key=f"{anchor}-held"))
    drawn.append(figures.learning_curves(details.curves, key=f"{anchor}-learning"))
    if details.routing is not None:
        drawn.append(figures.routing_heatmap(details.routing, key=f"{anchor}-routing"))
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
    return environment


def _number(value: float) -> str:
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.4f}" if math.isfinite(value) else "not a number"
