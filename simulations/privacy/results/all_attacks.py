"""`proper-sim privacy report`: finished attacks on one page, all on one scale first."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

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
) -> None:
    """Print all attacks on one scale, from guessing (0) to certainty (1), and write one page of them."""
    from proper_model.storage.files import storage_errors, write_atomic
    from simulations.privacy.results import summary
    from simulations.privacy.results.kinds import read_result

    check_page(out)
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
    for _, shown in found:
        for line in shown.failed:
            said = f"a control failed: {shown.title}: {line}"
            print_line(f"\n- {said}" if markdown else f"note: {said}")
    if out is not None:
        text = page(found, lines)
        with storage_errors(out.parent):
            out.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(out, text.encode())
        say(f"page: {out}")


def check_page(out: Path | None) -> None:
    """Raise ConfigError for a page that cannot be one, before anything is read."""
    if out is not None and (out.suffix != ".html" or out.is_dir()):
        raise ConfigError(
            f"--out: {out.name} is {'a folder' if out.is_dir() else 'no .html file'}",
            hint="name a file, such as --out runs/leaks.html",
        )


def page(found: Sequence[tuple[Result, Shown]], lines: Sequence[Line]) -> str:
    """One page: figure and table of all, then every attack's own tables; its figures are on its own page."""
    from simulations.privacy.results.leaving import page_template
    from simulations.privacy.results.summary import summary_table

    return page_template("all_attacks.html.j2").render(
        figure=overview(lines), table=summary_table(lines), sections=found, lines=len(lines)
    )


def overview(lines: Sequence[Line]) -> Figure:
    """Of every attack, set of people and question the thing that gives most away, with its interval."""
    from simulations.reporting.figures import BLUE, GREY, INK, drawing, inline

    asked: dict[tuple[str, str, str], list[Line]] = {}
    for line in lines:
        if line.advantage is not None:
            asked.setdefault((line.experiment, line.task, line.asked), []).append(line)
    rows = [max(own, key=_value) for own in asked.values()]
    with drawing(7.8, 0.9 + 0.22 * len(rows)) as (canvas, axes):
        for place, line in enumerate(reversed(rows)):
            for one, colour in ((line.without, GREY), (line.advantage, BLUE)):
                if one is not None:
                    axes.plot([one.low, one.high], [place, place], color=colour, linewidth=2)
                    axes.plot([one.value], [place], marker="o", color=colour, markersize=4)
        axes.axvline(0, color=INK, linewidth=0.8, linestyle=":")
        axes.set_yticks(range(len(rows)), [_label(line) for line in reversed(rows)], fontsize=7)
        axes.set_xlim(-0.25, 1.05)
        axes.set_xlabel("advantage: 0 is guessing, 1 is certain (grey: without the defence)")
        said = "; ".join(f"{_label(line)}: {line.advantage}" for line in rows)
        title = "What gives most away, by attack and question"
        return inline(canvas, "overview", title, f"{title}, with intervals. {said}.")


def _value(line: Line) -> float:
    return -1.0 if line.advantage is None else line.advantage.value


def _label(line: Line) -> str:
    return f"{line.experiment}, {line.task}, {line.asked}: {line.thing}"
