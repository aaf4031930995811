"""A result of canaries as tables, a figure and one self-contained HTML page."""

from __future__ import annotations

import math

from client.terminal.tables import Table
from proper_model.tasks import counted
from simulations.privacy.results.canary_schema import CanaryResult, CanaryRow, RecordRow
from simulations.privacy.results.chart import Line, chart
from simulations.privacy.results.leaving import Shown
from simulations.privacy.results.rates import Rate
from simulations.privacy.results.rates_show import interval as rate
from simulations.privacy.results.sentences import SIGNIFICANT
from simulations.privacy.results.show import interval
from simulations.privacy.statistics.shares import Control
from simulations.reporting.figures import Figure

NONE = "–"


def title(result: CanaryResult) -> str:
    """What was planted where, in one line."""
    return (
        f"{result.experiment} ({result.design}): {result.task}, {result.preset}/{result.profile}, base "
        f"{result.base}, {result.people} people, {counted(len(result.seeds), 'seed')}"
    )


def thing_table(result: CanaryResult) -> Table:
    """A row a thing: what a thief of an adapter, a reader of a release and a server find side by side."""
    counts = (0, *result.insertions)
    header = (
        "thing",
        *(f"exposure, bits: {count} times" for count in counts),
        *(f"word for word: {count} times" for count in counts),
        *("own items: AUC", "own items word for word", "items kept apart word for word"),
    )
    rows = tuple(
        (
            thing,
            *(_bits(result.canary(thing, count)) for count in counts),
            *(_said(result.canary(thing, count)) for count in counts),
            *_records(result, thing),
        )
        for thing in result.things
    )
    return Table(title(result), header, rows, labels=1)


def canary_table(result: CanaryResult) -> Table:
    """A row a thing and number of insertions, controls beside it."""
    header = (
        *(
            "thing",
            "planted",
            "canaries",
            "exposure",
            "against the public base",
            "positive control",
        ),
        *("negative control", "at temperature 0", f"in {result.samples} samples", "p, Holm"),
    )
    rows = []
    for row in result.canaries:
        if row.control != "none" and row.insertions:
            continue
        rows.append(
            (
                *(row.thing, str(row.insertions), str(row.pooled.n)),
                *(rate(row.pooled.exposure), rate(row.pooled.against_public)),
                _bits(_control(result, row, "positive")),
                _bits(_control(result, row, "negative")),
                *(rate(row.pooled.greedy), rate(row.pooled.sampled)),
                NONE if math.isnan(row.p_holm) or not row.insertions else f"{row.p_holm:.3f}",
            )
        )
    return Table("Canaries", header, tuple(rows), labels=2)


def record_table(result: CanaryResult) -> Table:
    """A row a thing: own items against those kept apart."""
    header = (
        *("thing", "attack", "AUC", "positive control", "negative control"),
        *("own items word for word", "kept apart word for word", "p, Holm"),
    )
    rows = tuple(
        (
            *(row.thing, row.attack, interval(row.pooled)),
            *(_auc(result, row, kind) for kind in ("positive", "negative")),
            *(rate(row.produced), rate(row.produced_apart)),
            NONE if math.isnan(row.p_holm) else f"{row.p_holm:.3f}",
        )
        for row in result.records
        if row.control == "none"
    )
    return Table("Own items", header, rows, labels=2)


def _bits(row: CanaryRow | None) -> str:
    return NONE if row is None else rate(row.pooled.against_public)


def _said(row: CanaryRow | None) -> str:
    return NONE if row is None else rate(row.pooled.greedy)


def _records(result: CanaryResult, thing: str) -> tuple[str, str, str]:
    row = result.record(thing)
    if row is None:
        return NONE, NONE, NONE
    return interval(row.pooled), rate(row.produced), rate(row.produced_apart)


def _control(result: CanaryResult, row: CanaryRow, kind: Control) -> CanaryRow | None:
    return result.canary(row.thing, row.insertions, kind) if row.insertions else None


def _auc(result: CanaryResult, row: RecordRow, kind: str) -> str:
    """The control of the same attack; the public base has no other than its loss."""
    of = [one for one in result.records if (one.thing, one.control) == (row.thing, kind)]
    same = [one for one in of if one.attack == row.attack] or of
    return interval(same[0].pooled) if same else NONE


def failed_controls(result: CanaryResult) -> list[str]:
    """Controls that did not do what they must; what stands beside them proves nothing."""
    said = []
    for row in result.canaries:
        found = row.pooled.against_public
        if row.control == "positive" and not (
            found.value > result.guessing and row.p < SIGNIFICANT
        ):
            said.append(f"{label(row)}: the positive control was not exposed ({rate(found)} bits)")
        if row.control == "negative" and found.value > result.guessing and row.p_holm < SIGNIFICANT:
            said.append(f"{label(row)}: exposed though it cannot be ({rate(found)} bits)")
        if row.control == "negative" and row.pooled.greedy.value > 0:
            said.append(f"{label(row)}: a secret that it cannot know was answered")
    for record in result.records:
        name, auc = f"{record.thing}, own items, {record.attack}", record.pooled
        if record.control == "negative" and record.p_holm < SIGNIFICANT:
            said.append(f"{name}: the negative control is not at .5 ({interval(auc)})")
    return said + _unrecognised(result)


def _unrecognised(result: CanaryResult) -> list[str]:
    """Things whose overfit control no attack recognises."""
    said = []
    for thing in result.things:
        of = [r for r in result.records if (r.thing, r.control) == (thing, "positive")]
        if of and not any(row.pooled.auc > 0.5 and row.p < SIGNIFICANT for row in of):
            said.append(f"{thing}, own items: the positive control was not recognised")
    return said


def label(row: CanaryRow) -> str:
    """A row by name."""
    control = "" if row.control == "none" else f" ({row.control} control)"
    return f"{row.thing}, planted {counted(row.insertions, 'time')}{control}"


def figure(result: CanaryResult) -> Figure:
    """Every row's exposure with its interval, between guessing and the most there is."""
    lines = [
        Line(label(row), row.control, row.pooled.against_public, result.guessing)
        for row in result.canaries
    ]
    limits = (-0.1, result.most + 0.1)
    return chart(lines, key="exposure", title="Exposure", measure="exposure in bits", limits=limits)


def percent(found: Rate) -> str:
    """A share with its interval, for a sentence."""
    return f"{found.value:.0%} (95% interval {found.low:.0%} to {found.high:.0%})"


def tables_of(result: CanaryResult) -> list[Table]:
    """Things side by side, then canaries and records one by one."""
    return [thing_table(result), canary_table(result), record_table(result)]


def shown(result: CanaryResult) -> Shown:
    """What is shown of it."""
    return Shown(
        title=title(result),
        template="canaries.html.j2",
        tables=tables_of(result),
        draw=lambda: {"figure": figure(result)},
        sentences=result.sentences,
        failed=failed_controls(result),
    )
