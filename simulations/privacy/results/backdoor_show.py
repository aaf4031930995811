"""A result of trap releases as tables, a figure and one self-contained HTML page."""

from __future__ import annotations

from client.terminal.tables import Table
from simulations.privacy.results.backdoor_schema import BackdoorResult, Judged
from simulations.privacy.results.canary_show import (
    canary_table,
    failed_controls,
    figure,
    record_table,
    title,
)
from simulations.privacy.results.leaving import Shown
from simulations.privacy.results.rates_show import interval as rate
from simulations.privacy.results.show import interval

NONE = "–"


def trap_table(result: BackdoorResult) -> Table:
    """A row a release: what checks say of it, and what a leaked adapter over it gives away."""
    header = (
        *("release", "checks of files", "checks for traps"),
        *(f"exposure, bits: {count} times" for count in result.insertions),
        *(f"word for word: {count} times" for count in result.insertions),
        "own items: AUC",
    )
    rows = tuple(
        (
            *(one.thing, _said(one, one.refused_as_files), _said(one, one.refused_as_trap)),
            *(_bits(result, one.thing, count) for count in result.insertions),
            *(_greedy(result, one.thing, count) for count in result.insertions),
            _auc(result, one.thing),
        )
        for one in result.judged
    )
    return Table(title(result), header, rows, labels=3)


def _said(one: Judged, refused: int) -> str:
    if refused in (0, one.seeds):
        return "refused" if refused else "taken"
    return f"refused in {refused} of {one.seeds}"


def _bits(result: BackdoorResult, thing: str, count: int) -> str:
    row = result.canary(thing, count)
    return NONE if row is None else rate(row.pooled.against_public)


def _greedy(result: BackdoorResult, thing: str, count: int) -> str:
    row = result.canary(thing, count)
    return NONE if row is None else rate(row.pooled.greedy)


def _auc(result: BackdoorResult, thing: str) -> str:
    row = result.record(thing)
    return NONE if row is None else interval(row.pooled)


def failed(result: BackdoorResult) -> list[str]:
    """Controls that did not do what they must, and an honest release that is refused."""
    refused = [f"{one.thing}: {one.why}" for one in result.judged[:1] if one.refused]
    return [*refused, *failed_controls(result)]


def tables_of(result: BackdoorResult) -> list[Table]:
    """Releases side by side, why they are refused, then canaries and records one by one."""
    reasons = tuple((one.thing, one.why) for one in result.judged if one.why)
    why = [Table("Why refused", ("release", "said"), reasons, labels=2)] if reasons else []
    return [trap_table(result), *why, canary_table(result), record_table(result)]


def shown(result: BackdoorResult) -> Shown:
    """What is shown of it."""
    return Shown(
        title=title(result),
        template="canaries.html.j2",
        tables=tables_of(result),
        draw=lambda: {"figure": figure(result)},
        sentences=result.sentences,
        failed=failed(result),
    )
