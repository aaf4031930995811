"""Figures of the report as inline SVG, readable on light and on dark pages.

Ink is drawn in one reserved colour that becomes `currentColor`, so text and axes follow the
page; the data colours are Okabe and Ito's, which stay apart for colour-blind readers. Every
figure comes with a sentence that says the same in words.
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

INK = "#010203"  # replaced by currentColor, so it must not occur among the data colours
BLUE, ORANGE, GREEN, GREY = "#0072b2", "#d55e00", "#009e73", "#888888"
STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "proper",
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "font.family": "sans-serif",
    "font.size": 9.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
}


# Attributes that hold places on the canvas, whose sixth decimal nobody sees.
PLACES = re.compile(r' (?:d|x|y)="[^"]*"')


@dataclass(frozen=True)
class Figure:
    key: str
    title: str
    alt: str
    svg: str


@contextmanager
def drawing(width: float, height: float) -> Iterator[tuple[Canvas, Axes]]:
    """A canvas of so many inches with its axes, and `STYLE` until the end of the block."""
    with mpl.rc_context(STYLE):
        canvas = Canvas(figsize=(width, height), layout="constrained")
        FigureCanvasSVG(canvas)
        yield canvas, canvas.add_subplot()


def inline(canvas: Canvas, key: str, title: str, alt: str) -> Figure:
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
    text = text.replace("<svg ", '<svg aria-hidden="true" focusable="false" ', 1)
    return Figure(key=key, title=title, alt=alt, svg=text)


def _shorter(attribute: re.Match[str]) -> str:
    """Two decimals of a point, and no line breaks."""
    return re.sub(r"(\.\d\d)\d+", r"\1", attribute[0]).replace("\n", "")


def forest(contrasts: Sequence[Contrast], metric: str, *, key: str) -> Figure | None:
    """Differences between arms with their intervals; filled where zero is outside."""
    rows = [c for c in contrasts if c.metric == metric and math.isfinite(c.delta)]
    if not rows:
        return None
    with drawing(7.2, 0.9 + 0.26 * len(rows)) as (canvas, axes):
        for place, row in enumerate(reversed(rows)):
            colour = {True: GREEN, False: ORANGE, None: GREY}[row.improvement]
            axes.plot([row.low, row.high], [place, place], color=colour, linewidth=2)
            axes.plot([row.delta], [place], marker="o", color=colour, markersize=5)
        axes.axvline(0.0, color=INK, linewidth=0.8, linestyle=":")
        axes.set_yticks(range(len(rows)), [f"{r.a} − {r.b} ({r.level})" for r in reversed(rows)])
        better = "lower" if metric in LOWER_IS_BETTER else "higher"
        axes.set_xlabel(f"difference in {metric} ({better} is better)")
        said = "; ".join(
            f"{r.a} minus {r.b}, {r.level} level: {r.delta:+.3f}, from {r.low:+.3f} to {r.high:+.3f}"
            for r in rows
        )
        title = f"Differences between arms: {metric}"
        return inline(canvas, key, title, f"{title}. {said}.")


def device_deltas(
    a: str, b: str, metric: str, deltas: Mapping[str, float], *, key: str
) -> Figure | None:
    """What changed for every single device, sorted: a mean can hide devices that lose."""
    values = sorted(v for v in deltas.values() if math.isfinite(v))
    if not values:
        return None
    sign = -1 if metric in LOWER_IS_BETTER else 1
    better = sum(1 for v in values if sign * v > 0)
    worse = sum(1 for v in values if sign * v < 0)
    with drawing(7.2, 2.4) as (canvas, axes):
        colours = [GREEN if sign * v > 0 else ORANGE if sign * v < 0 else GREY for v in values]
        axes.bar(range(len(values)), values, color=colours, width=0.85)
        axes.axhline(0.0, color=INK, linewidth=0.8)
        axes.set_xticks([])
        axes.set_xlabel(f"{len(values)} devices, sorted")
        axes.set_ylabel(f"{metric}: {a} − {b}")
        title = f"Each device: {a} against {b} ({metric})"
        alt = (
            f"{title}. {better} devices gain, {worse} lose, {len(values) - better - worse} stay; "
            f"differences go from {values[0]:+.3f} to {values[-1]:+.3f}."
        )
        return inline(canvas, key, title, alt)


def _finite(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    return [point for point in points if all(map(math.isfinite, point))]


def distance_and_gain(
    points: Sequence[tuple[float, float]], gain: str, *, key: str
) -> Figure | None:
    """How far each fitted embedding moved from the mean one, and what that brought."""
    points = _finite(points)
    if not points:
        return None
    with drawing(5.4, 3.2) as (canvas, axes):
        axes.scatter([p[0] for p in points], [p[1] for p in points], color=BLUE, alpha=0.8, s=18)
        axes.axhline(0.0, color=INK, linewidth=0.8, linestyle=":")
        axes.set_xlabel("distance of the fitted embedding from the mean embedding")
        axes.set_ylabel(gain)
        moved = sum(1 for p in points if p[0] > 0)
        gained = sum(1 for p in points if p[1] > 0)
        title = "Embedding distance and gain"
        alt = (
            f"{title}. Of {len(points)} devices {moved} moved away from the mean embedding and "
            f"{gained} gained; distances go up to {max(p[0] for p in points):.2f}."
        )
        return inline(canvas, key, title, alt)


def held_back(pairs: Sequence[tuple[float, float]], *, key: str) -> Figure | None:
    """Loss on each device's own held-back items before and after fitting."""
    pairs = _finite(pairs)
    if not pairs:
        return None
    ends = [v for pair in pairs for v in pair]
    with drawing(4.2, 3.6) as (canvas, axes):
        axes.plot([min(ends), max(ends)], [min(ends), max(ends)], color=INK, linewidth=0.8)
        axes.scatter([p[0] for p in pairs], [p[1] for p in pairs], color=BLUE, alpha=0.8, s=18)
        axes.set_xlabel("held-back loss before")
        axes.set_ylabel("held-back loss after")
        lower = sum(1 for before, after in pairs if after < before)
        mean_before = sum(p[0] for p in pairs) / len(pairs)
        mean_after = sum(p[1] for p in pairs) / len(pairs)
        title = "Held-back loss before and after personalization"
        alt = (
            f"{title}. It fell on {lower} of {len(pairs)} devices, from {mean_before:.3f} to "
            f"{mean_after:.3f} nats a token in the mean."
        )
        return inline(canvas, key, title, alt)


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
        axes.set_xlabel("looks at held-back people (0: before training; large: kept)")
        axes.set_ylabel("loss, nats a token")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.legend(frameon=False, fontsize=8)
        title = "What the pooled stages learned, on people they did not train with"
        return inline(canvas, key, title, f"{title}. {'; '.join(said)}.")


def routing_heatmap(routing: Routing, *, key: str) -> Figure | None:
    """Weight of each expert on each device: one row a device, one group of columns a router."""
    rows = [row for row in routing.weights if row]
    if not rows:
        return None
    experts = routing.experts
    routers = len(rows[0]) // experts
    # Devices that route alike stand together: sorted by favourite expert in each router in turn.
    rows = sorted(
        rows,
        key=lambda row: [
            max(range(experts), key=lambda i: row[start + i])
            for start in range(0, len(row), experts)
        ],
    )
    with drawing(7.2 if routers > 1 else 4.6, min(6.0, 1.2 + 0.08 * len(rows))) as (canvas, axes):
        mesh = axes.pcolormesh(rows, cmap="cividis", vmin=0.0, vmax=1.0)
        for border in range(experts, routers * experts, experts):
            axes.axvline(border, color=INK, linewidth=0.4)
        axes.set_xticks([])
        axes.set_yticks([])
        axes.set_xlabel(f"{experts} experts in each of {routers} routers")
        axes.set_ylabel(f"{len(rows)} devices")
        bar = canvas.colorbar(mesh, ax=axes, label="softmax(W_e e_u)")
        bar.outline.set_visible(False)
        distinct = len({tuple(round(value, 1) for value in row) for row in rows})
        title = "Expert routing by device, user half"
        mean_top = sum(
            max(row[start : start + experts])
            for row in rows
            for start in range(0, len(row), experts)
        ) / (len(rows) * routers)
        alt = (
            f"{title}. {len(rows)} devices in {distinct} different patterns (to one decimal); the "
            f"favourite expert of a router holds {mean_top:.2f} of the weight in the mean, where "
            f"an even mixture would hold {1 / experts:.2f}."
        )
        return inline(canvas, key, title, alt)


def bars(
    values: Mapping[str, float], *, key: str, title: str, axis: str, unit: str, log: bool = False
) -> Figure | None:
    """Plain horizontal bars in the given order; `log` for values of different magnitude."""
    if not values:
        return None
    with drawing(6.4, 0.8 + 0.28 * len(values)) as (canvas, axes):
        names = list(values)[::-1]
        axes.barh(range(len(names)), [values[n] for n in names], color=BLUE, height=0.7)
        axes.set_yticks(range(len(names)), names)
        axes.set_xlabel(axis)
        if log:
            axes.set_xscale("log")
        said = "; ".join(f"{name}: {value:,.6g} {unit}" for name, value in values.items())
        return inline(canvas, key, title, f"{title}. {said}.")


def messages(totals: Sequence[MessageTotal], *, key: str) -> Figure | None:
    """Bytes that crossed the network, by kind of message and direction."""
    values = {f"{t.kind} ({t.direction}, {t.count}×)": t.bytes / 1024 for t in totals}
    return bars(values, key=key, title="Messages", axis="KiB in all", unit="KiB", log=True)
