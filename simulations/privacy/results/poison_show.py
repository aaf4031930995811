"""A result of poisoning as a table, a figure and one self-contained HTML page."""

from __future__ import annotations

import math

from client.terminal.tables import Table
from proper_model.tasks import counted
from simulations.privacy.results.chart import Line, chart
from simulations.privacy.results.leaving import Shown
from simulations.privacy.results.poison_schema import PoisonResult, PoisonRow
from simulations.privacy.results.rates import Rate
from simulations.privacy.results.rates_show import interval
from simulations.privacy.results.sentences import SIGNIFICANT
from simulations.reporting.figures import Figure


def title(result: PoisonResult) -> str:
    """What was poisoned, in one line."""
    return (
        f"poisoning: {result.task}, {result.preset}/{result.profile}, base {result.base}, "
        f"{result.users} pooled users, {result.people} newcomers, {counted(len(result.seeds), 'seed')}"
    )


def poison_table(result: PoisonResult) -> Table:
    """A row a thing, defence and number of malicious users, controls among them."""
    header = (
        *("thing", "malicious", "defence", "trigger", "before", "other word", "gain"),
        *("loss, change", "right, change", "p, Holm"),
    )
    rows = tuple(
        (
            *(row.thing, _who(row), row.defence, interval(row.pooled.trigger)),
            *(f"{row.pooled.before.value:.3f}", interval(row.pooled.other)),
            *(_change(row.pooled.gain), _change(row.pooled.loss_change)),
            *(
                _change(row.pooled.right_change),
                "–" if math.isnan(row.p_holm) else f"{row.p_holm:.3f}",
            ),
        )
        for row in result.rows
    )
    return Table(title(result), header, rows, labels=3)


def _who(row: PoisonRow) -> str:
    return "in everybody's" if row.control == "positive" else str(row.malicious)


def _change(found: Rate) -> str:
    return f"{found.value:+.3f} [{found.low:+.3f}, {found.high:+.3f}]"


def failed_controls(result: PoisonResult) -> list[str]:
    """Controls that did not do what they must; what stands beside them proves nothing.

    W_l alone has no positive control: that it cannot plant an answer may be the finding.
    """
    said = []
    for row in result.rows:
        found = row.pooled
        worked = found.gain.value > 0 and row.p < SIGNIFICANT
        if row.control == "positive" and row.thing != "router" and not worked:
            said.append(
                f"{label(row)}: the trigger did not work ({interval(found.trigger)}, "
                f"{found.before.value:.3f} before)"
            )
        if row.control == "negative" and found.over_other.value > 0 and row.p_holm < SIGNIFICANT:
            said.append(
                f"{label(row)}: the trigger is answered, though nobody planted it "
                f"({_change(found.over_other)} over another word)"
            )
    return said


def label(row: PoisonRow) -> str:
    """A row by name."""
    return f"{row.thing}, {_who(row)}, {row.defence}"


def figure(result: PoisonResult) -> Figure:
    """How often the trigger works in every row, beside what it did before."""
    return chart(
        [
            Line(label(row), row.control, row.pooled.trigger, row.pooled.before.value)
            for row in result.rows
        ],
        key="poisoning",
        title="Poisoning",
        measure="share of questions with the trigger that get the attacker's answer",
        limits=(-0.02, 1.02),
        beside="before",
    )


def shown(result: PoisonResult) -> Shown:
    """What is shown of it."""
    return Shown(
        title=title(result),
        template="poisoning.html.j2",
        tables=[poison_table(result)],
        draw=lambda: {"figure": figure(result)},
        sentences=result.sentences,
        failed=failed_controls(result),
    )
