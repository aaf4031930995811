"""A result of `rates` as a table, a figure and one self-contained HTML page."""

from __future__ import annotations

import math

from client.terminal.tables import Table
from proper_model.evaluation import holm
from simulations.privacy.results.chart import Line, chart
from simulations.privacy.results.leaving import Shown
from simulations.privacy.results.rates import Rate, Rated, RateResult
from simulations.privacy.results.sentences import SIGNIFICANT
from simulations.reporting.figures import Figure


def title(result: RateResult) -> str:
    """What was attacked, in one line."""
    return (
        f"{result.experiment}: {result.task}, {result.preset}/{result.profile}, {result.people} people, "
        f"{len(result.seeds)} seeds"
    )


def rate_table(result: RateResult) -> Table:
    """A row an attack, its controls beside it."""
    header = (
        *("asked", "thing", "attack", "success", "guessing", "positive control"),
        *("negative control", "worst decile (control)", "mean rank (guessing)", "p, Holm"),
    )
    rows = tuple(
        (
            *(row.scope, row.thing, row.attack, interval(row.pooled), f"{row.chance:.3f}"),
            *(_control(result, row, kind) for kind in ("positive", "negative")),
            _decile(result, row),
            _rank(row),
            "–" if math.isnan(row.p_holm) else f"{row.p_holm:.3f}",
        )
        for row in result.attacks
        if row.control == "none"
    )
    return Table(title(result), header, rows, labels=3)


def interval(found: Rate) -> str:
    """A share with its interval."""
    return f"{found.value:.3f} [{found.low:.3f}, {found.high:.3f}]"


def _decile(result: RateResult, row: Rated) -> str:
    same = _same(result, row, "negative")
    return f"{row.worst_decile:.3f} ({f'{same[0].worst_decile:.3f}' if same else '–'})"


def _rank(row: Rated) -> str:
    if row.rank is None or row.ranked is None:
        return "–"
    return f"{row.rank.value:.1f} ({(row.ranked + 1) / 2:.1f})"


def _same(result: RateResult, row: Rated, kind: str) -> list[Rated]:
    """The control of the same attack on the same thing."""
    key = kind, row.scope, row.thing, row.attack
    return [one for one in result.attacks if (one.control, one.scope, one.thing, one.attack) == key]


def _control(result: RateResult, row: Rated, kind: str) -> str:
    """The same attack's control, or a positive one of the whole question."""
    found = _same(result, row, kind)
    if not found and kind == "positive":
        found = [one for one in result.attacks if (one.control, one.scope) == (kind, row.scope)]
    return interval(found[0].pooled) if found else "–"


def failed_controls(result: RateResult) -> list[str]:
    """Controls that did not do what they must; what stands beside them proves nothing.

    One interval of twenty misses by chance, so negative controls are corrected (Holm) over all of them.
    One below guessing found nothing: whoever knows nothing may do worse than name what is most frequent.
    """
    negative = {str(n): row.p for n, row in enumerate(result.attacks) if row.control == "negative"}
    corrected = holm(negative)
    said = []
    for place, row in enumerate(result.attacks):
        found = f"{interval(row.pooled)}, guessing {row.chance:.3f}"
        if row.control == "positive" and not (
            row.pooled.value > row.chance and row.p < SIGNIFICANT
        ):
            said.append(f"{_label(row)} did not succeed ({found})")
        if corrected.get(str(place), 1.0) < SIGNIFICANT and row.pooled.value > row.chance:
            said.append(f"{_label(row)} found something ({found})")
    return said


def figure(result: RateResult) -> Figure:
    """Every attack's and control's success with its interval, beside what guessing reaches."""
    lines = [Line(_label(row), row.control, row.pooled, row.chance) for row in result.attacks]
    title = result.experiment.capitalize()
    return chart(lines, key="rates", title=title, measure="success", limits=(-0.02, 1.02))


def _label(row: Rated) -> str:
    control = "" if row.control == "none" else f" ({row.control} control)"
    return f"{row.scope}: {row.thing}, {row.attack}{control}"


def shown(result: RateResult) -> Shown:
    """What is shown of it."""
    return Shown(
        title=title(result),
        template="rates.html.j2",
        tables=[rate_table(result)],
        draw=lambda: {"figure": figure(result)},
        sentences=result.sentences,
        failed=failed_controls(result),
    )
