"""A privacy result as a table, a figure and one self-contained HTML page."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol

from client.terminal.tables import Table
from proper_model.evaluation import holm
from proper_model.tasks import counted
from simulations.privacy.results.leaving import CALLED, TONES, Shown
from simulations.privacy.results.schema import (
    MERGED,
    PUBLISHED,
    Attack,
    Measured,
    PrivacyResult,
)
from simulations.privacy.results.sentences import SIGNIFICANT, bias_sentence
from simulations.privacy.statistics.shares import Control
from simulations.reporting.charts import Mark, Row, intervals
from simulations.reporting.figures import Figure, charted


def title(result: PrivacyResult) -> str:
    """What was attacked, in one line."""
    return (
        f"membership: {result.task}, {result.preset}/{result.profile}, base {result.base}, "
        f"{result.people} people, {counted(len(result.seeds), 'seed')}"
    )


def advantage_table(result: PrivacyResult) -> Table:
    """A row an attack, its controls beside it."""
    header = (
        *("thing", "level", "attack", "AUC", "positive control", "negative control"),
        *("TPR at 1% FPR", "worst decile (others)", "p, Holm"),
    )
    rows = tuple(
        (
            *(row.thing, row.level, row.attack, interval(row.pooled)),
            *(_control(result, row, control) for control in ("positive", "negative")),
            "–" if row.pooled.tpr_at_1 is None else f"{row.pooled.tpr_at_1:.3f}",
            f"{row.pooled.worst_decile:.3f} ({row.pooled.worst_decile_control:.3f})",
            "–" if math.isnan(row.p_holm) else f"{row.p_holm:.3f}",
        )
        for row in attacks(result)
    )
    return Table(title(result), header, rows, labels=3)


def attacks(result: PrivacyResult) -> list[Attack]:
    """What is no control."""
    return [row for row in result.attacks if row.control == "none"]


def interval(found: Measured) -> str:
    """AUC with its interval."""
    return f"{found.auc:.3f} [{found.low:.3f}, {found.high:.3f}]"


def _control(result: PrivacyResult, row: Attack, control: str) -> str:
    """The control of the same attack, or of any other attack on the same thing and level."""
    of = [
        other
        for other in result.attacks
        if other.control == control and (other.thing, other.level) == (row.thing, row.level)
    ]
    same = [other for other in of if other.attack == row.attack] or of
    return interval(same[0].pooled) if same else "–"


def strongest_rows(result: PrivacyResult) -> list[Attack]:
    """By thing and level the attack that found most."""
    best: dict[tuple[str, str], Attack] = {}
    for row in attacks(result):
        if row.thing == MERGED:
            continue
        key = (row.thing, row.level)
        if key not in best or row.pooled.auc > best[key].pooled.auc:
            best[key] = row
    return list(best.values())


def sentences(result: PrivacyResult) -> list[str]:
    """One sentence a thing and level."""
    return [row.sentence for row in strongest_rows(result)]


def failed_controls(result: PrivacyResult) -> list[str]:
    """Controls that did not do what they must; what stands beside them proves nothing.

    One interval of twenty misses .5 by chance, so negative controls are corrected (Holm) over all of them.
    """
    rows = [row for row in result.attacks if (row.thing, row.attack) != (MERGED, PUBLISHED)]
    return failed_of([(f"{row.thing}, {row.level}, {row.attack}", row) for row in rows])


class AucRow(Protocol):
    """What rows of all files have whose attacks give an AUC."""

    @property
    def control(self) -> Control:
        """Whether it must succeed, must not, or is the attack itself."""

    @property
    def pooled(self) -> Measured:
        """Over all seeds."""

    @property
    def p(self) -> float:
        """Two-sided against .5, uncorrected."""


def failed_of(rows: Sequence[tuple[str, AucRow]]) -> list[str]:
    """See `failed_controls`, of rows beside their names."""
    negative = {str(n): row.p for n, (_, row) in enumerate(rows) if row.control == "negative"}
    corrected = holm(negative)
    said = []
    for place, (name, row) in enumerate(rows):
        found = row.pooled
        if row.control == "positive" and not (found.auc > 0.5 and row.p < SIGNIFICANT):
            said.append(f"{name}: the positive control was not recognised ({interval(found)})")
        if corrected.get(str(place), 1.0) < SIGNIFICANT:
            said.append(f"{name}: the negative control is not at .5 ({interval(found)})")
    return said


def protocol_bias(result: PrivacyResult) -> str | None:
    """What the published protocol measures where there is nothing; None where it was not tried."""
    for row in result.attacks:
        if (row.thing, row.attack, row.control) == (MERGED, PUBLISHED, "negative"):
            return bias_sentence(row.pooled)
    return None


def figure(result: PrivacyResult) -> Figure:
    """AUC of every attack with its interval, its controls on the same line."""
    rows = [(f"{row.thing}, {row.level}, {row.attack}", row) for row in result.attacks]
    return auc_figure(rows, "Membership", "membership")


def auc_figure(rows: Sequence[tuple[str, AucRow]], name: str, of: str) -> Figure:
    """AUC of attacks with intervals, beside names; those of one name, which are its controls, on one line."""
    lines: dict[str, list[AucRow]] = {}
    for label, row in rows:
        lines.setdefault(label, []).append(row)
    drawn = [
        Row(
            label,
            tuple(
                Mark(
                    *(row.pooled.auc, row.pooled.low, row.pooled.high),
                    f"{CALLED[row.control]} {interval(row.pooled)}",
                    TONES[row.control],
                )
                for row in own
            ),
        )
        for label, own in lines.items()
    ]
    said = "; ".join(
        f"{label}{'' if row.control == 'none' else f' ({row.control} control)'}: "
        f"{interval(row.pooled)}"
        for label, own in lines.items()
        for row in own
    )
    note = (
        f"AUC of {of} with 95% intervals over people: .5 is guessing, 1 is certain. A disc is an attack, a "
        "diamond a control that must succeed, a ring one that must not."
    )
    chart = intervals(drawn, f"AUC of {of}", zero=0.5, limits=(0.0, 1.02))
    return charted("auc", name, f"AUC of {of}, with intervals. {said}", chart, note)


def shown(result: PrivacyResult) -> Shown:
    """What is shown of it."""
    bias = protocol_bias(result)
    return Shown(
        title=title(result),
        template="membership.html.j2",
        tables=[advantage_table(result)],
        draw=lambda: {"figure": figure(result)},
        sentences=sentences(result),
        failed=failed_controls(result),
        also_said=[] if bias is None else [bias],
        more={"bias": bias},
    )
