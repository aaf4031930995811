"""A deletion result as tables, a figure and one self-contained HTML page."""

from __future__ import annotations

import math

from client.terminal.tables import Table
from proper_model.tasks import counted
from simulations.privacy.results.deletion_schema import DeletionAttack, DeletionResult
from simulations.privacy.results.leaving import Shown
from simulations.privacy.results.show import auc_figure, failed_of, interval
from simulations.reporting.figures import Figure


def title(result: DeletionResult) -> str:
    """What was deleted from, in one line."""
    return (
        f"deletion: {result.task}, {result.preset}/{result.profile}, base {result.base}, "
        f"{result.people} people, {counted(len(result.seeds), 'seed')}"
    )


def attack_table(result: DeletionResult) -> Table:
    """A row an attack, its controls beside it."""
    header = ("deletion", "thing", "level", "attack", "AUC", "positive control")
    rows = tuple(
        (
            *(row.scope, row.thing, row.level, row.attack, interval(row.pooled)),
            *(_control(result, row, kind) for kind in ("positive", "negative")),
            f"{row.pooled.worst_decile:.3f} ({row.pooled.worst_decile_control:.3f})",
            "–" if math.isnan(row.p_holm) else f"{row.p_holm:.3f}",
        )
        for row in result.attacks
        if row.control == "none"
    )
    more = ("negative control", "worst decile (others)", "p, Holm")
    return Table(title(result), (*header, *more), rows, labels=4)


def exact_table(result: DeletionResult) -> Table:
    """How far what was deleted from is away from what never had the data."""
    rows = tuple(
        (
            row.thing,
            str(row.compared),
            str(row.different),
            *(f"{number:.3g}" for number in (row.distance, row.change)),
        )
        for row in result.exact
    )
    header = ("thing", "compared", "differ in any bit", "largest difference", "deletion changed")
    return Table("against exact retraining", header, rows, labels=1)


def remains_table(result: DeletionResult) -> Table:
    """Where marks of whoever was deleted stand."""
    rows = tuple(
        (row.run, row.place, row.what, str(row.before), str(row.after), str(row.unread))
        for row in result.remains
        if row.before or row.after or row.unread
    )
    header = ("run", "place", "what", "before", "after", "not looked at to its end")
    return Table("what remains", header, rows, labels=3)


def _control(result: DeletionResult, row: DeletionAttack, kind: str) -> str:
    """The control of the same attack, or of any other one on the same thing."""
    of = [
        one
        for one in result.attacks
        if (one.control, one.scope, one.thing) == (kind, row.scope, row.thing)
    ]
    same = [one for one in of if one.attack == row.attack] or of
    return interval(same[0].pooled) if same else "–"


def named(result: DeletionResult) -> list[tuple[str, DeletionAttack]]:
    """Attacks beside what they are called."""
    return [(f"{row.scope}: {row.thing}, {row.attack}", row) for row in result.attacks]


def failed_controls(result: DeletionResult) -> list[str]:
    """Controls that did not do what they must, and a look that saw no mark even before deletion."""
    said = failed_of(named(result))
    for run in dict.fromkeys(row.run for row in result.remains):
        if not any(row.before for row in result.remains if row.run == run):
            said.append(
                f"{run}: no mark was found before deletion, so finding none after says nothing"
            )
    return said


def figure(result: DeletionResult) -> Figure:
    """AUC of every attack, before and after."""
    return auc_figure(named(result), "Deletion", "whoever was deleted")


def tables(result: DeletionResult) -> list[Table]:
    """All that have a row."""
    every = (attack_table(result), exact_table(result), remains_table(result))
    return [table for table in every if table.rows]


def shown(result: DeletionResult) -> Shown:
    """What is shown of it."""
    return Shown(
        title=title(result),
        template="deletion.html.j2",
        tables=tables(result),
        draw=lambda: {"figure": figure(result) if result.attacks else None},
        sentences=result.sentences,
        failed=failed_controls(result),
    )
