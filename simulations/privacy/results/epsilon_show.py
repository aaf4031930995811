"""Utility against epsilon as a table, two figures and one self-contained HTML page."""

from __future__ import annotations

import math

from client.terminal.tables import Table
from proper_model.tasks import counted
from simulations.privacy.results.epsilon_schema import Bound, EpsilonResult, EpsilonRow
from simulations.privacy.results.leaving import Shown
from simulations.privacy.results.rates_show import interval as rate
from simulations.privacy.results.show import interval
from simulations.reporting.figures import BLUE, GREEN, GREY, INK, ORANGE, Figure, drawing, inline

NONE = "–"
NEARLY = 0.8  # of the guesses: coins are not even, so not all of an even plan can be right


def title(result: EpsilonResult) -> str:
    """What was trained, in one line."""
    return (
        f"utility against epsilon: {result.task}, {result.preset}/{result.profile}, base {result.base}, "
        f"{result.candidates} candidates, about half of them pooled in a seed, {result.newcomers} newcomers, "
        f"{counted(len(result.seeds), 'seed')}"
    )


def curve_table(result: EpsilonResult) -> Table:
    """A row a way of training: what it gives, and what is found out."""
    header = (
        *("epsilon", "noise", "loss, stage 1", "loss, stage 2", "better than the public base"),
        *("share of the gain kept", "AUC of membership", "shown: people", "shown: crafted (most)"),
        "p of the gain, Holm",
    )
    rows = tuple(
        (
            row.thing,
            NONE if row.noise_multiplier is None else f"{row.noise_multiplier:.2f}",
            *(rate(found) for found in (row.pooled.stage1, row.pooled.stage2, row.pooled.gain)),
            NONE if row.noise_multiplier is None else rate(row.pooled.kept),
            interval(row.pooled.membership),
            f"{row.pooled.people.epsilon:.2f}",
            _shown(row.pooled.crafted),
            NONE if math.isnan(row.p_holm) else f"{row.p_holm:.3f}",
        )
        for row in result.rows
    )
    return Table(title(result), header, rows, labels=1)


def _shown(bound: Bound | None) -> str:
    return NONE if bound is None else f"{bound.epsilon:.2f} ({bound.ceiling:.2f})"


def failed_controls(result: EpsilonResult) -> list[str]:
    """Controls that did not do what they must, and promises that an audit refutes."""
    said = []
    if not result.positive.low > 0.5:
        said.append(
            f"an adapter that saw its people too often was not recognised ({interval(result.positive)})"
        )
    if not result.negative.low <= 0.5 <= result.negative.high:
        said.append(f"the public base is not at .5 ({interval(result.negative)})")
    for row in result.rows:
        for name, bound in (("people", row.pooled.people), ("crafted", row.pooled.crafted)):
            if row.epsilon is not None and bound is not None and bound.epsilon > row.epsilon:
                said.append(
                    f"epsilon {row.thing}: {name} show {bound.epsilon:.2f}, more than the "
                    f"{row.epsilon:.2f} that is promised: the promise is broken"
                )
        without = row.epsilon is None and row.pooled.crafted is not None
        if without and not _reached(row.pooled.crafted):
            said.append(
                f"epsilon {row.thing}: crafted users were not recognised without noise "
                f"({_shown(row.pooled.crafted)})"
            )
    return said


def _reached(bound: Bound | None) -> bool:
    """Whether nearly all guesses were right."""
    return bound is not None and bound.correct >= NEARLY * bound.guesses


def curve(result: EpsilonResult) -> Figure:
    """Loss of stages 1 and 2 for newcomers by epsilon, between the public base and no privacy."""
    rows = result.rows
    with drawing(4.8, 3.2) as (canvas, axes):
        for name, colour, aside, shape in (
            ("stage1", ORANGE, -0.08, "s"),
            ("stage2", BLUE, 0.08, "o"),
        ):
            for place, row in enumerate(rows):
                found = getattr(row.pooled, name)
                axes.plot([place + aside] * 2, [found.low, found.high], color=colour, linewidth=2)
            values = [getattr(row.pooled, name).value for row in rows]
            places = [place + aside for place in range(len(rows))]
            axes.plot(places, values, marker=shape, color=colour, markersize=4, linewidth=0.8)
        axes.axhline(result.public.value, color=GREY, linewidth=1.2, linestyle="--")
        axes.set_xticks(range(len(rows)), [row.thing for row in rows])
        axes.set_xlabel("epsilon (inf: no noise)")
        axes.set_ylabel("newcomers' loss, nats a token")
        said = "; ".join(
            f"{row.thing}: stage 1 {rate(row.pooled.stage1)}, stage 2 {rate(row.pooled.stage2)}"
            for row in rows
        )
        alt = f"Newcomers' loss by epsilon. Public base: {rate(result.public)}. {said}."
        note = (
            "Newcomers' loss in nats a token, with 95% intervals. Discs: stage 2, squares: stage 1, dashed: the "
            "public base."
        )
        return inline(
            canvas, "loss", "Utility against epsilon", f"Utility against epsilon. {alt}", note
        )


def bounds(result: EpsilonResult) -> Figure:
    """What audits show of every epsilon, below what is promised."""
    rows = result.rows
    with drawing(4.8, 3.0) as (canvas, axes):
        for place, row in enumerate(rows):
            for bound, colour, aside in (
                (row.pooled.people, BLUE, -0.1),
                (row.pooled.crafted, GREEN, 0.1),
            ):
                if bound is not None:
                    axes.bar([place + aside], [bound.epsilon], width=0.18, color=colour)
                    axes.plot([place + aside], [bound.ceiling], marker="_", color=GREY)
            if row.epsilon is not None:
                axes.plot([place - 0.25, place + 0.25], [row.epsilon] * 2, color=INK, linewidth=1.2)
        axes.set_xticks(range(len(rows)), [row.thing for row in rows])
        axes.set_xlabel("epsilon that is promised")
        axes.set_ylabel("epsilon, at least")
        said = "; ".join(_bound_words(row) for row in rows)
        title = "What audits show"
        note = (
            "Epsilon, at least. Line: promised; left bar: what people show; right bar: what crafted users show; "
            "short grey line: the most they could."
        )
        alt = f"{title}. Lower bounds of epsilon. {said}."
        return inline(canvas, "bounds", title, alt, note)


def _bound_words(row: EpsilonRow) -> str:
    crafted = row.pooled.crafted
    made = "" if crafted is None else f", crafted {_shown(crafted)}"
    return f"{row.thing}: people {_shown(row.pooled.people)}{made}"


def shown(result: EpsilonResult) -> Shown:
    """What is shown of it."""
    return Shown(
        title=title(result),
        template="epsilon.html.j2",
        tables=[curve_table(result)],
        draw=lambda: {"figure": curve(result), "bounds": bounds(result)},
        sentences=result.sentences,
        failed=failed_controls(result),
        more={
            "negative": interval(result.negative),
            "positive": interval(result.positive),
            "public": rate(result.public),
        },
    )
