"""Figures of the report as inline SVG, readable on light and on dark pages.

What has names or people is a chart of `charts`, whose text is the page's; curves and clouds are drawn by
matplotlib. Their ink is one reserved colour that becomes `currentColor`, and their data colours, Okabe and
Ito's, become those of `templates/report.css.j2`, which has them for light and dark. Every figure comes
with a sentence that says the same in words.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure as Canvas
from matplotlib.ticker import MaxNLocator

from proper_model.evaluation import LOWER_IS_BETTER
from simulations.outcome.details import MessageTotal, PhaseCurve, Routing
from simulations.outcome.results import Contrast
from simulations.reporting.charts import (
    Bars,
    Chart,
    Heat,
    Mark,
    People,
    Row,
    intervals,
    standalone,
)

INK = "#010203"  # replaced by currentColor, so it must not occur among the data colours
BLUE, ORANGE, GREEN, GREY = "#0072b2", "#d55e00", "#009e73", "#888888"
# By name in the style sheet; a figure in a file of its own has the colour behind the name.
SERIES = {
    BLUE: "--series-1",
    ORANGE: "--series-2",
    GREEN: "--series-3",
    "#cc79a7": "--series-4",
    "#e69f00": "--series-5",
    "#56b4e9": "--series-6",
    "#7f5f00": "--series-7",
    GREY: "--series-8",
}
TONES = {True: "gain", False: "loss", None: "open"}
VERDICTS = {True: "better", False: "worse", None: "cannot be told"}
MOST_PEOPLE, MOST_ROUTERS = 60, 12  # of a picture of routing
STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "proper",
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "font.family": "sans-serif",
    "font.size": 10.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
}


# Attributes that hold places on the canvas, whose sixth decimal nobody sees.
PLACES = re.compile(r' (?:d|x|y)="[^"]*"')
NAMED_COLOUR = re.compile(r"var\(--[\w-]+, (#\w+)\)")


@dataclass(frozen=True)
class Figure:
    """`alt` says it in words; `note` names units and how many; without a chart, `svg` is shown."""

    key: str
    title: str
    alt: str
    svg: str
    note: str = ""
    chart: Chart | None = None

    @property
    def words(self) -> str:
        """What `alt` says beyond the title."""
        return self.alt.removeprefix(f"{self.title}. ")

    def file(self) -> str:
        """The SVG of a file of its own, black on nothing; empty where there is none."""
        return NAMED_COLOUR.sub(r"\1", self.svg.replace("currentColor", "black"))


@contextmanager
def drawing(width: float, height: float) -> Iterator[tuple[Canvas, Axes]]:
    """A canvas of so many inches with its axes, and `STYLE` until the end of the block."""
    with mpl.rc_context(STYLE):
        canvas = Canvas(figsize=(width, height), layout="constrained")
        FigureCanvasSVG(canvas)
        yield canvas, canvas.add_subplot()


def inline(canvas: Canvas, key: str, title: str, alt: str, note: str = "") -> Figure:
    """A canvas as SVG for the inside of a page; `STYLE` must hold since it was made."""
    buffer = io.StringIO()
    canvas.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :].replace(INK, "currentColor")
    # Ids must be unique in the page that holds several figures.
    text = re.sub(r'\bid="', f'id="{key}-', text)
    text = text.replace("url(#", f"url(#{key}-").replace('xlink:href="#', f'xlink:href="#{key}-')
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = PLACES.sub(_shorter, re.sub(r">\s+<", "><", text))
    text = re.sub(r"font-family: [^;\"]*", "font-family: sans-serif", text)
    text = re.sub(r'<g id="[^"]*"', "<g", text)  # nothing points at them
    text = re.sub(r' transform="rotate\(-0 [^"]*"', "", text)  # which turns nothing
    text = re.sub(r'style="[^"]*"', lambda found: found[0].replace("; ", ";"), text)
    for colour, name in SERIES.items():
        text = text.replace(colour, f"var({name}, {colour})")
    text = text.replace("<svg ", '<svg aria-hidden="true" focusable="false" ', 1)
    return Figure(key=key, title=title, alt=alt, svg=text, note=note)


def _shorter(attribute: re.Match[str]) -> str:
    """Two decimals of a point, and no line breaks."""
    return re.sub(r"(\.\d\d)\d+", r"\1", attribute[0]).replace("\n", "")


def charted(key: str, title: str, said: str, chart: Chart, note: str = "") -> Figure:
    """A chart as a figure, and in words; all but routing is a picture of its own too."""
    return Figure(key, title, f"{title}. {said}.", standalone(chart), note, chart)


def forest(
    contrasts: Sequence[Contrast], metric: str, *, key: str, note: str = ""
) -> Figure | None:
    """Differences between arms with their intervals; filled where zero is outside."""
    rows = [c for c in contrasts if c.metric == metric and math.isfinite(c.delta)]
    if not rows:
        return None
    levels = {r.level for r in rows}

    def name(row: Contrast) -> str:
        return f"{row.a} − {row.b}" + (f" ({row.level})" if len(levels) > 1 else "")

    drawn = [
        Row(name(r), (Mark(r.delta, r.low, r.high, _difference(r), TONES[r.improvement]),))
        for r in rows
    ]
    better = "lower" if metric in LOWER_IS_BETTER else "higher"
    axis = f"difference in {metric} ({better} is better)"
    said = "; ".join(
        f"{r.a} minus {r.b}, {r.level} level: {r.delta:+.3f}, from {r.low:+.3f} to {r.high:+.3f}"
        for r in rows
    )
    chart = intervals(drawn, axis, zero=0.0)
    return charted(key, f"Differences between arms: {metric}", said, chart, note)


def _difference(row: Contrast) -> str:
    said = f"{row.delta:+.3f} [{row.low:+.3f}, {row.high:+.3f}]"
    return f"{said}, {VERDICTS[row.improvement]}"


def device_deltas(
    a: str, b: str, metric: str, deltas: Mapping[str, float], *, key: str
) -> Figure | None:
    """What changed for every single person, sorted: a mean can hide people who lose."""
    sign = -1 if metric in LOWER_IS_BETTER else 1
    gains = sorted((sign * v + 0.0 for v in deltas.values() if math.isfinite(v)), reverse=True)
    if not gains:
        return None
    fewer = ", the sign turned so that up is better" if sign < 0 else ""
    chart = People(tuple(gains), f"gain in {metric}{fewer}")
    better, same, worse = chart.counts
    said = (
        f"Of {len(gains)} people {better} are better served, {worse} worse, {same} the same; gains go "
        f"from {gains[-1]:+.3f} to {gains[0]:+.3f}"
    )
    note = f"One bar a person, {len(gains)} people, the greatest gain first; unit: {metric}."
    return charted(key, f"Each person: {a} against {b} ({metric})", said, chart, note)


def _finite(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    return [point for point in points if all(map(math.isfinite, point))]


def distance_and_gain(
    points: Sequence[tuple[float, float]], gain: str, *, key: str
) -> Figure | None:
    """How far each fitted embedding moved from the mean one, and what that brought."""
    points = _finite(points)
    if not points:
        return None
    with drawing(4.6, 3.2) as (canvas, axes):
        axes.scatter([p[0] for p in points], [p[1] for p in points], color=BLUE, alpha=0.8, s=18)
        axes.axhline(0.0, color=INK, linewidth=0.8, linestyle=":")
        axes.set_xlabel("distance of the fitted from the mean embedding")
        axes.set_ylabel(gain)
        moved = sum(1 for p in points if p[0] > 0)
        gained = sum(1 for p in points if p[1] > 0)
        title = "Embedding distance and gain"
        alt = (
            f"{title}. Of {len(points)} people {moved} moved away from the mean embedding and "
            f"{gained} gained; distances go up to {max(p[0] for p in points):.2f}."
        )
        note = f"One dot a person, {len(points)} people; up: loss in nats a token, across: no unit."
        return inline(canvas, key, title, alt, note)


def held_back(pairs: Sequence[tuple[float, float]], *, key: str) -> Figure | None:
    """Loss on each device's own held-back items before and after fitting."""
    pairs = _finite(pairs)
    if not pairs:
        return None
    ends = [v for pair in pairs for v in pair]
    with drawing(4.6, 3.6) as (canvas, axes):
        axes.plot([min(ends), max(ends)], [min(ends), max(ends)], color=INK, linewidth=0.8)
        axes.scatter([p[0] for p in pairs], [p[1] for p in pairs], color=BLUE, alpha=0.8, s=18)
        axes.set_xlabel("held-back loss before")
        axes.set_ylabel("held-back loss after")
        lower = sum(1 for before, after in pairs if after < before)
        mean_before = sum(p[0] for p in pairs) / len(pairs)
        mean_after = sum(p[1] for p in pairs) / len(pairs)
        title = "Held-back loss before and after personalization"
        alt = (
            f"{title}. It fell for {lower} of {len(pairs)} people, from {mean_before:.3f} to "
            f"{mean_after:.3f} nats a token in the mean."
        )
        note = f"One dot a person, {len(pairs)} people; nats a token, below the line it fell."
        return inline(canvas, key, title, alt, note)


def learning_curves(curves: Sequence[PhaseCurve], *, key: str) -> Figure | None:
    """Loss of people who were held back while the pooled phases trained, with standard errors."""
    drawn = [curve for curve in curves if len(curve.held_back) > 1]
    if not drawn:
        return None
    said = []
    with drawing(4.6, 3.2) as (canvas, axes):
        for curve, colour in zip(drawn, (GREY, BLUE, ORANGE), strict=False):
            looks = range(len(curve.held_back))
            axes.errorbar(
                looks,
                curve.held_back,
                yerr=curve.standard_error,
                color=colour,
                marker="o",
                markersize=3,
                linewidth=1.2,
                label=curve.phase,
            )
            axes.plot(curve.kept, curve.held_back[curve.kept], "o", color=colour, markersize=8)
            best = curve.held_back[curve.kept]
            said.append(
                f"{curve.phase}: {curve.held_back[0]:.4f} before, {best:.4f} at look {curve.kept}, which "
                f"was kept (standard error of the difference {curve.standard_error[curve.kept]:.4f}, "
                f"{curve.people} people)"
            )
        axes.set_xlabel("look (0: before training; large: kept)")
        axes.set_ylabel("loss, nats a token")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.legend(frameon=False, fontsize=9)
        title = "What the pooled stages learned, on people they did not train with"
        most = max(curve.people for curve in drawn)
        note = f"Loss in nats a token with standard errors, of at most {most} people who were held back."
        return inline(canvas, key, title, f"{title}. {'; '.join(said)}.", note)


def routing_heatmap(routing: Routing, *, key: str) -> Figure | None:
    """Weight of each expert for each person: one row a person, one block of columns a router."""
    rows = [row for row in routing.weights if row]
    if not rows:
        return None
    experts = routing.experts
    starts = range(0, len(rows[0]), experts)
    # People who are routed alike stand together: sorted by favourite expert in each router in turn.
    rows = sorted(
        rows, key=lambda row: [max(range(experts), key=lambda i: row[s + i]) for s in starts]
    )
    distinct = len({tuple(round(value, 1) for value in row) for row in rows})
    mean_top = sum(max(row[s : s + experts]) for row in rows for s in starts) / (
        len(rows) * len(starts)
    )
    said = (
        f"{len(rows)} people in {distinct} different patterns (to one decimal); the favourite expert of a "
        f"router holds {mean_top:.2f} of the weight in the mean, where an even mixture would hold "
        f"{1 / experts:.2f}"
    )
    shown, places = _spread(len(rows), MOST_PEOPLE), _spread(len(starts), MOST_ROUTERS)
    kept = tuple(
        tuple(v for p in places for v in rows[n][starts[p] : starts[p] + experts]) for n in shown
    )
    left = "" if len(kept) == len(rows) else f" {len(kept)} of {len(rows)} people are drawn."
    left += (
        "" if len(places) == len(starts) else f" {len(places)} of {len(starts)} places are drawn."
    )
    note = (
        f"A row is a person, a block one of {len(places)} places in the model where {experts} experts "
        f"are mixed, a cell one expert's share: softmax(W_e e_u), user half, no unit.{left}"
    )
    return charted(key, "Shares of the experts, person by person", said, Heat(kept, experts), note)


def _spread(count: int, most: int) -> list[int]:
    """At most so many of `count` places, evenly over all of them."""
    if count <= most:
        return list(range(count))
    return [n * (count - 1) // (most - 1) for n in range(most)]


def bars(
    values: Mapping[str, float], *, key: str, title: str, axis: str, unit: str, log: bool = False
) -> Figure | None:
    """Plain horizontal bars in the given order; `log` for values of different magnitude."""
    if not values:
        return None
    said = "; ".join(f"{name}: {value:,.6g} {unit}" for name, value in values.items())
    rows = tuple((name, value, _rounded(value)) for name, value in values.items())
    scale = "; each ten times as much is a step of the same length" if log else ""
    return charted(key, title, said, Bars(rows, axis, log), f"Unit: {axis}{scale}.")


def _rounded(value: float) -> str:
    """Three digits of a number, or all before the point."""
    return f"{value:,.{0 if value >= 100 else 1 if value >= 10 else 2}f}"


def messages(totals: Sequence[MessageTotal], *, key: str) -> Figure | None:
    """Bytes that crossed the network, by kind of message and direction."""
    values = {f"{t.kind} ({t.direction}, {t.count}×)": t.bytes / 1024 for t in totals}
    return bars(values, key=key, title="Messages", axis="KiB in all", unit="KiB", log=True)
