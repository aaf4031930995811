"""`proper-sim privacy report`: finished attacks on one page, all on one scale first."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from client.terminal.console import print_line, print_table, say
from proper_model.errors import ConfigError
from simulations.setup import cli_options as o

if TYPE_CHECKING:
    from simulations.privacy.results.leaving import Shown
    from simulations.privacy.results.summary import Line, Result
    from simulations.reporting.figures import Figure


def report(
    sources: Annotated[list[Path], typer.Argument(metavar="RESULT...", help="Result files.")],
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="The page, .html.")] = None,
    before: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="RESULT",
            help="A file of before a default changed: what it found stands beside what is found now.",
        ),
    ] = None,
    markdown: o.Markdown = False,
) -> dict[str, Any]:
    """Print all attacks on one scale, from guessing (0) to certainty (1), and write one page of them."""
    from proper_model.storage.files import storage_errors, write_atomic
    from simulations.privacy.results import summary
    from simulations.privacy.results.kinds import read_result
    from simulations.privacy.results.told import told_lines

    o.check_page(out)
    found = [read_result(path) for path in dict.fromkeys(path.resolve() for path in sources)]
    lines = [line for result, _ in found for line in summary.lines_of(result)]
    older = [line for path in before or () for line in summary.lines_of(read_result(path)[0])]
    keys = {line.key for line in lines}
    if older and not any(line.key in keys for line in older):
        raise ConfigError(
            "--before: no attack on the same thing is in it and in the results",
            hint="give a file of the same command, made before a default changed",
        )
    lines = summary.with_before(lines, older)
    print_table(summary.summary_table(lines), markdown=markdown)
    failed = [f"{shown.title}: {line}" for _, shown in found for line in shown.failed]
    for line in failed:
        said = f"a control failed: {line}"
        print_line(f"\n- {said}" if markdown else f"note: {said}")
    if out is not None:
        names = [path.stem for path in dict.fromkeys(path.resolve() for path in sources)]
        text = page(found, lines, names)
        with storage_errors(out.parent):
            out.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(out, text.encode())
        say(f"page: {out}")
    return {
        "lines": told_lines(lines),
        "failed": failed,
        "page": None if out is None else str(out),
    }


def page(found: Sequence[tuple[Result, Shown]], lines: Sequence[Line], names: Sequence[str]) -> str:
    """One page: figure and tables of all, then every file's own tables by its name; its figures are on its own page."""
    from simulations.privacy.results.leaving import page_template
    from simulations.privacy.results.summary import record_tables

    return page_template("all_attacks.html.j2").render(
        first=first_sentence(lines),
        figure=overview(lines),
        tables=record_tables(lines),
        sections=[(*one, name) for one, name in zip(found, names, strict=True)],
        lines=len(lines),
    )


def strongest(lines: Sequence[Line]) -> list[Line]:
    """Of every attack, set of people and question the thing that gives most away."""
    asked: dict[tuple[str, str, str], list[Line]] = {}
    for line in lines:
        if line.advantage is not None:
            asked.setdefault((line.experiment, line.task, line.asked), []).append(line)
    return [max(own, key=_value) for own in asked.values()]


def first_sentence(lines: Sequence[Line]) -> str:
    """How many answers are clear of guessing, how many are not, and how many there was nothing to attack for."""
    found = [line.advantage for line in lines if line.advantage is not None]
    clear = sum(one.low > 0 for one in found)
    most = sum(one.low > 0.5 for one in found)
    nothing = len(lines) - len(found)
    said = (
        f"Of {len(found)} answers that attacks gave, {clear} are clear of guessing, {most} of them more than half "
        f"the way to certainty, and {len(found) - clear} cannot be told from guessing"
    )
    return (
        f"{said}; {nothing} more are of things that devices refuse or nobody releases."
        if nothing
        else f"{said}."
    )


def overview(lines: Sequence[Line]) -> Figure:
    """The thing that gives most away, of every question, with its interval."""
    from simulations.reporting.charts import Mark, Row, intervals
    from simulations.reporting.figures import charted

    rows, said = [], []
    for line in sorted(strongest(lines), key=_value, reverse=True):
        marks = [
            Mark(one.value, one.low, one.high, f"{one}{words}", tone)
            for one, words, tone in (
                (line.advantage, "", "one"),
                (line.without, " without", "rest"),
            )
            if one is not None
        ]
        rows.append(Row(_label(line), tuple(marks)))
        said.append(f"{_label(line)}: {line.advantage}")
    note = (
        "The thing that gives most away, with 95% intervals over people: 0 is guessing, 1 is certain. A ring is "
        "the same attack without the defence."
    )
    chart = intervals(rows, "advantage", zero=0.0, limits=(-0.25, 1.05))
    title = "Most by attack and question"
    return charted("overview", title, f"With intervals: {'; '.join(said)}", chart, note)


def _value(line: Line) -> float:
    return -1.0 if line.advantage is None else line.advantage.value


def _label(line: Line) -> str:
    return f"{line.experiment}, {line.task}, {line.asked}: {line.thing}"
