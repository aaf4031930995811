"""A privacy result as a table, a figure and one self-contained HTML page."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from client.terminal.tables import Table
from proper_model.storage.files import make_private_folder, write_atomic
from simulations.privacy.results.schema import Attack, Measured, PrivacyResult
from simulations.privacy.results.sentences import SIGNIFICANT
from simulations.reporting.figures import BLUE, GREY, INK, ORANGE, Figure, drawing, inline
from simulations.reporting.report import TEMPLATES as SHARED_TEMPLATES
from simulations.reporting.report import page_environment

TEMPLATES = Path(__file__).resolve().parent / "templates"
COLOURS = {"none": BLUE, "positive": ORANGE, "negative": GREY}


def title(result: PrivacyResult) -> str:
    """What was attacked, in one line."""
    return (
        f"membership: {result.task}, {result.preset}/{result.profile}, base {result.base}, "
        f"{result.people} people, {len(result.seeds)} seeds"
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


def sentences(result: PrivacyResult) -> list[str]:
    """One sentence a thing and level: of the attack that found most."""
    best: dict[tuple[str, str], Attack] = {}
    for row in attacks(result):
        key = (row.thing, row.level)
        if key not in best or row.pooled.auc > best[key].pooled.auc:
            best[key] = row
    return [row.sentence for row in best.values()]


def failed_controls(result: PrivacyResult) -> list[str]:
    """Controls that did not do what they must; what stands beside them proves nothing."""
    said = []
    for row in result.attacks:
        found, name = row.pooled, f"{row.thing}, {row.level}, {row.attack}"
        if row.control == "positive" and not (found.auc > 0.5 and row.p < SIGNIFICANT):
            said.append(f"{name}: the positive control was not recognised ({interval(found)})")
        if row.control == "negative" and not found.low <= 0.5 <= found.high:
            said.append(f"{name}: the negative control is not at .5 ({interval(found)})")
    return said


def figure(result: PrivacyResult) -> Figure:
    """AUC of every attack and control with its interval."""
    rows: Sequence[Attack] = result.attacks
    with drawing(7.6, 0.9 + 0.2 * len(rows)) as (canvas, axes):
        for place, row in enumerate(reversed(rows)):
            colour, found = COLOURS[row.control], row.pooled
            axes.plot([found.low, found.high], [place, place], color=colour, linewidth=2)
            axes.plot([found.auc], [place], marker="o", color=colour, markersize=4)
        axes.axvline(0.5, color=INK, linewidth=0.8, linestyle=":")
        axes.set_yticks(range(len(rows)), [_label(row) for row in reversed(rows)], fontsize=7)
        axes.set_xlim(0, 1.02)
        axes.set_xlabel(
            "AUC of membership (.5: nothing; blue: attack, orange: overfit, grey: untrained)"
        )
        said = "; ".join(f"{_label(row)}: {interval(row.pooled)}" for row in rows)
        return inline(canvas, "auc", "Membership", f"AUC of membership, with intervals. {said}.")


def _label(row: Attack) -> str:
    control = "" if row.control == "none" else f" ({row.control} control)"
    return f"{row.thing}, {row.level}, {row.attack}{control}"


def render(result: PrivacyResult) -> str:
    """The page as text."""
    template = page_environment(TEMPLATES, SHARED_TEMPLATES).get_template("privacy.html.j2")
    return template.render(
        result=result,
        title=title(result),
        table=advantage_table(result),
        figure=figure(result),
        sentences=sentences(result),
        failed=failed_controls(result),
    )


def write_page(result: PrivacyResult, target: Path) -> None:
    """Write the page whole or not at all."""
    make_private_folder(target.parent)
    write_atomic(target, render(result).encode())
