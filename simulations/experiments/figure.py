"""The figure of an experiment: loss by condition."""

from __future__ import annotations

import math

import matplotlib as mpl
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure as Canvas

from simulations.experiments.schema import Experiment
from simulations.experiments.show import sets
from simulations.reporting.figures import BLUE, GREEN, GREY, INK, ORANGE, STYLE, Figure, inline

COLOURS = (BLUE, ORANGE, GREEN, GREY)
LOSS = "nll"


def loss_figure(result: Experiment) -> Figure:
    """Loss per answer token of every condition on every set, with intervals over users."""
    asked, names = sets(result), list(result.conditions)
    said = []
    with mpl.rc_context(STYLE):
        canvas = Canvas(figsize=(7.2, 0.9 + 0.24 * len(asked) * len(names)), layout="constrained")
        FigureCanvasSVG(canvas)
        axes = canvas.add_subplot()
        ticks: list[tuple[float, str]] = []
        for block, on in enumerate(reversed(asked)):
            for line, name in enumerate(reversed(names)):
                place = block * (len(names) + 0.7) + line
                loss = result.conditions[name].sets[on].metrics[LOSS]
                colour = COLOURS[names.index(name) % len(COLOURS)]
                if math.isfinite(loss.user_low):
                    axes.plot([loss.user_low, loss.user_high], [place] * 2, color=colour)
                axes.plot([loss.user_mean], [place], marker="o", color=colour, markersize=5)
                ticks.append((place, f"{on}: {name}"))
                said.append(f"{on}, {name}: {loss.user_mean:.3f}")
        axes.set_yticks([place for place, _ in ticks], [label for _, label in ticks])
        axes.set_xlabel("loss per answer token, nats (lower is better)")
        axes.tick_params(axis="y", colors=INK)
        title = f"Loss by condition: {result.experiment}, {', '.join(result.tasks)}"
        return inline(canvas, result.experiment, title, f"{title}. {'; '.join(said)}.")
