"""What a benchmark's page draws, from its result file: gains, lengths, curves, routing, texts, costs.

Each figure says the same in a sentence, as those of the report do.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes

from proper_model.evaluation import LOWER_IS_BETTER
from simulations.experiments.benchmark_schema import (
    BenchmarkResult,
    Curve,
    LengthPoint,
    Routing,
    Texts,
)
from simulations.experiments.benchmark_summary import main_metrics
from simulations.experiments.benchmark_tables import metrics_of
from simulations.experiments.comparing import THRESHOLD, gains, shares
from simulations.reporting import figures
from simulations.reporting.charts import People
from simulations.reporting.figures import Figure

COLOURS = (
    *(figures.BLUE, figures.ORANGE, figures.GREEN, "#cc79a7", "#e69f00", "#56b4e9"),
    *("#7f5f00", figures.GREY),
)
MARKS = "osD^vP*X"
MOST_DISTRIBUTIONS = 6
DENSITY_POINTS = 160


def draw(result: BenchmarkResult, key: str) -> list[Figure]:
    """Every figure that the file has numbers for."""
    metrics = main_metrics(metrics_of(result))
    people = f"{result.confidence:.0%} intervals over {result.users} people; unit: "
    drawn: list[Figure | None] = [
        figures.forest(
            [c for c in result.comparisons if c.metric == m],
            m,
            key=f"{key}-forest-{m}",
            note=f"{people}{m}.",
        )
        for m in metrics
    ]
    drawn += _distributions(result, metrics[-1], key)
    for metric in metrics:
        for cut in (True, False):
            points = [p for p in result.lengths if p.cut == cut and p.metric == metric]
            drawn.append(lengths(points, metric, key=f"{key}-lengths-{metric}-{cut}"))
    drawn += [routing_density(own, key=f"{key}-routing{n}") for n, own in enumerate(result.routing)]
    drawn += [embeddings(own, key=f"{key}-tsne{n}") for n, own in enumerate(result.routing)]
    drawn.append(texts(result.texts, key=f"{key}-texts") if result.texts else None)
    for phase in dict.fromkeys(curve.phase for curve in result.curves):
        own = [curve for curve in result.curves if curve.phase == phase]
        drawn.append(learning_curves(own, key=f"{key}-curve-{phase}"))
    drawn += _costs(result, key)
    return [figure for figure in drawn if figure is not None]


def _distributions(result: BenchmarkResult, metric: str, key: str) -> list[Figure | None]:
    """Gains of every person, of comparisons whose first is a stage of PROPER."""
    pairs = [(c.a, c.b) for c in result.comparisons if c.metric == metric]
    pairs = [pair for pair in dict.fromkeys(pairs) if result.rows[pair[0]].arm == "stage3"]
    return [
        distribution(
            people(result, a, metric), people(result, b, metric), a, b, metric, f"{key}-gain{n}"
        )
        for n, (a, b) in enumerate(pairs[:MOST_DISTRIBUTIONS])
    ]


def people(result: BenchmarkResult, row: str, metric: str) -> dict[str, float]:
    """Every person's value, by place in the list."""
    return {str(n): value for n, value in enumerate(result.people[row].get(metric, ()))}


def distribution(
    a: Mapping[str, float], b: Mapping[str, float], first: str, second: str, metric: str, key: str
) -> Figure | None:
    """The gain of every single person, sorted: a mean can hide people who lose."""
    found = gains(a, b, metric) if a.keys() == b.keys() else []
    values = sorted((gain + 0.0 for gain in found), reverse=True)  # no -0.000
    if not values or not all(map(math.isfinite, values)):
        return None
    who = shares(values)
    named = f"Gain of every person: {first} over {second} ({metric}, above 0 is better)"
    said = (
        f"{who.helped:.0%} of {len(values)} people are helped, {who.hurt:.0%} are hurt, by more than "
        f"{THRESHOLD}; gains go from {values[-1]:+.3f} to {values[0]:+.3f}, mean {np.mean(values):+.3f}"
    )
    note = f"One bar a person, {len(values)} people, the greatest gain first; unit: {metric}."
    chart = People(tuple(values), f"gain in {metric}")
    return figures.charted(key, named, said, chart, note)


def lengths(points: Sequence[LengthPoint], metric: str, *, key: str) -> Figure | None:
    """Differences by number of items, a line a comparison; a crossing is where lines meet."""
    pairs = list(dict.fromkeys((point.a, point.b) for point in points))
    counts = sorted({point.items for point in points})
    if len(counts) < 2:
        return None
    kind = "cut to the newest items" if points[0].cut else "of people's own length"
    said = []
    with figures.drawing(4.8, 3.8) as (canvas, axes):
        for place, (a, b) in enumerate(pairs):
            own = sorted((p for p in points if (p.a, p.b) == (a, b)), key=lambda p: p.items)
            where = [p.items * 1.03 ** (place - len(pairs) / 2) for p in own]
            colour = COLOURS[place % len(COLOURS)]
            axes.plot(
                where,
                [p.delta for p in own],
                color=colour,
                marker=MARKS[place % len(MARKS)],
                markersize=5,
                label=f"{a} − {b}",
            )
            _upright(axes, where, [p.low for p in own], [p.high for p in own], colour)
            values = ", ".join(f"{p.delta:+.3f} with {p.items}" for p in own)
            said.append(f"{a} minus {b}: {values}")
        axes.axhline(0.0, color=figures.INK, linewidth=0.8, linestyle=":")
        axes.set_xscale("log")
        axes.set_xticks(counts, [str(count) for count in counts])
        axes.minorticks_off()
        axes.set_xlabel("items in the history")
        lower = metric in LOWER_IS_BETTER
        axes.set_ylabel(f"difference in {metric} ({'lower' if lower else 'higher'} is better)")
        axes.legend(frameon=False, fontsize=9)
        named = f"{metric} by length of the history, histories {kind}"
        note = f"Differences with 95% intervals over people; unit: {metric}."
        return figures.inline(canvas, key, named, f"{named}. {'; '.join(said)}.", note)


def _upright(
    axes: Axes,
    where: Sequence[float],
    lows: Sequence[float],
    highs: Sequence[float],
    colour: str,
) -> None:
    """Intervals as one path, which a gap parts: an element each would be most of a page's bytes."""
    gap = [math.nan] * len(where)
    across = [x for three in zip(where, where, gap, strict=True) for x in three]
    up = [y for three in zip(lows, highs, gap, strict=True) for y in three]
    axes.plot(across, up, color=colour, linewidth=1)


def learning_curves(curves: Sequence[Curve], *, key: str) -> Figure | None:
    """Held-back loss at every look, with standard errors where they were taken."""
    said, drawn = [], 0
    with figures.drawing(4.8, 3.2) as (canvas, axes):
        for place, curve in enumerate(curves):
            losses = [v for v in curve.held_back if math.isfinite(v)]
            if len(losses) < 2 or len(losses) < len(curve.held_back):
                continue
            drawn += 1
            colour = COLOURS[place % len(COLOURS)]
            looks = list(range(len(losses)))
            axes.plot(looks, losses, color=colour, marker="o", markersize=4, label=curve.variant)
            known = list(zip(looks, losses, curve.standard_error, strict=False))
            lows, highs = ([v + sign * e for _, v, e in known] for sign in (-1, 1))
            _upright(axes, [x for x, _, _ in known], lows, highs, colour)
            axes.plot(
                [curve.kept], [losses[min(curve.kept, len(losses) - 1)]], "o", markersize=9,
                markerfacecolor="none", color=colour,
            )  # fmt: skip
            said.append(
                f"{curve.variant}: "
                + ", ".join(f"{v:.4f}" for v in losses)
                + f"; {curve.kept} kept"
            )
        if not drawn:
            return None
        axes.set_xticks(range(max(len(curve.held_back) for curve in curves)))
        axes.set_xlabel("look at held-back people (0: before training; ring: kept)")
        axes.set_ylabel("loss, nats a token")
        axes.legend(frameon=False, fontsize=9)
        named = f"Learning curve of phase {curves[0].phase}"
        note = "Loss of people who were held back, nats a token, with standard errors where taken."
        return figures.inline(canvas, key, named, f"{named}. {'. '.join(said)}.", note)


def routing_density(own: Routing, *, key: str) -> Figure | None:
    """How mean weights spread over people, a density an expert (the paper's figure 4)."""
    weights = np.array(own.weights)
    if weights.ndim != 2 or len(weights) < 2:
        return None
    low, high = float(weights.min()), float(weights.max())
    at = np.linspace(max(0.0, low - 0.1), min(1.0, high + 0.1), DENSITY_POINTS)
    with figures.drawing(4.8, 3.2) as (canvas, axes):
        for expert in range(weights.shape[1]):
            colour = COLOURS[expert % len(COLOURS)]
            axes.plot(at, density(weights[:, expert], at), color=colour, label=f"expert {expert}")
        axes.set_xlabel("mean weight of a person")
        axes.set_ylabel("density over people")
        axes.set_yticks([])
        axes.legend(frameon=False, fontsize=9)
        spread = ", ".join(
            f"expert {n}: {w.mean():.2f} ± {w.std():.2f}" for n, w in enumerate(weights.T)
        )
        named = f"Expert weights over people: {own.variant}, router {own.router}"
        alt = f"{named}. Mean and spread over {len(weights)} people, {spread}."
        note = f"{len(weights)} people; weights from 0 to 1, no unit."
        return figures.inline(canvas, key, named, alt, note)


def density(values: np.ndarray, at: np.ndarray) -> np.ndarray:
    """Gaussian kernel density with Silverman's width, at least a hundredth."""
    iqr = float(np.subtract(*np.percentile(values, [75, 25])))
    spread = min(float(values.std()), iqr / 1.34) if iqr > 0 else float(values.std())
    width = max(0.9 * spread * len(values) ** -0.2, 0.01)
    kernel = np.exp(-0.5 * ((at[:, None] - values[None]) / width) ** 2)
    return np.asarray(kernel.sum(1) / (len(values) * width * math.sqrt(2 * math.pi)))


def embeddings(own: Routing, *, key: str) -> Figure | None:
    """A t-SNE of people's embeddings, coloured by clusters of their weights (the paper's figure 5)."""
    if not own.points:
        return None
    groups = sorted(set(own.clusters))
    with figures.drawing(4.6, 4.0) as (canvas, axes):
        for group in groups:
            members = [p for p, c in zip(own.points, own.clusters, strict=True) if c == group]
            axes.scatter(
                [p[0] for p in members],
                [p[1] for p in members],
                color=COLOURS[group % len(COLOURS)],
                marker=MARKS[group % len(MARKS)],
                s=22,
                label=f"cluster {group}",
            )
        axes.set_xticks([])
        axes.set_yticks([])
        axes.legend(frameon=False, fontsize=9)
        sizes = ", ".join(str(own.clusters.count(group)) for group in groups)
        named = f"Embeddings of people, t-SNE: {own.variant}"
        alt = (
            f"{named}. {len(own.points)} people, coloured by {len(groups)} clusters of their mean "
            f"weights with {sizes} members; distances in such a picture mean little."
        )
        note = f"A mark is a person, {len(own.points)} people; no unit."
        return figures.inline(canvas, key, named, alt, note)


def texts(own: Texts, *, key: str) -> Figure | None:
    """One person's texts: what was trained on, asked, and answered by each stage (figure 3)."""
    kinds = list(dict.fromkeys(own.kinds))
    with figures.drawing(4.8, 4.4) as (canvas, axes):
        for place, kind in enumerate(kinds):
            members = [p for p, k in zip(own.points, own.kinds, strict=True) if k == kind]
            axes.scatter(
                [p[0] for p in members],
                [p[1] for p in members],
                color=COLOURS[place % len(COLOURS)],
                marker=MARKS[place % len(MARKS)],
                s=22,
                label=kind,
            )
        axes.set_xticks([])
        axes.set_yticks([])
        axes.legend(frameon=False, fontsize=9)
        far = "; ".join(f"{arm} {value:.3f}" for arm, value in own.distances.items())
        named = "One person's texts, t-SNE of the base's mean hidden states"
        alt = f"{named}. {len(own.points)} texts. Mean cosine distance to the person's own: {far}."
        note = f"A mark is a text, {len(own.points)} texts; no unit."
        return figures.inline(canvas, key, named, alt, note)


def _costs(result: BenchmarkResult, key: str) -> list[Figure | None]:
    """Parameters of the first variant, minutes of its phases, seconds a person by method."""
    variant = next(iter(result.variants.values()))
    seconds = {
        name: sum(cost.seconds for cost in (row.training, row.answering) if cost is not None)
        / (result.users * len(result.seeds))
        for name, row in result.rows.items()
        if row.answering is not None
    }
    drawn = (
        (
            "Parameters by part",
            {k: float(v) for k, v in variant.parameters.items() if v},
            "numbers",
        ),
        ("Pooled phases", {k: v / 60 for k, v in variant.seconds.items()}, "minutes"),
        (
            "Learning and answering, by person",
            {k: v for k, v in seconds.items() if v > 0},
            "seconds",
        ),
    )
    return [
        figures.bars(values, key=f"{key}-cost{n}", title=named, axis=unit, unit=unit, log=n == 0)
        for n, (named, values, unit) in enumerate(drawn)
    ]
