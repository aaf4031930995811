"""Reading a history for a command: what was found is said, and what is a guess is asked about."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import typer

from client.commands.options import columns_of
from client.terminal.console import progress_bars, say
from proper_model.errors import DataError
from proper_model.storage.files import expanded
from proper_model.tasks import HistoryItem, Task, counted

if TYPE_CHECKING:
    from client.history.reading import History, ReadOptions


def read_options(
    form: str | None,
    column: list[str] | None,
    scale: str | None,
    date_order: str | None,
    sender: str | None,
    max_items: int | None,
    *,
    no_date: bool,
    lenient: bool,
) -> ReadOptions:
    """The options of a command as one value. Raises ConfigError for a malformed `--column`."""
    from client.history.reading import ReadOptions

    return ReadOptions(
        form=form,
        columns=columns_of(column),
        max_items=max_items,
        lenient=lenient,
        scale=scale,
        date_order=date_order,
        use_date=not no_date,
        sender=sender,
    )


def check_there(source: str) -> None:
    """Raise DataError at once for a history file that is not there, before anything heavy is loaded."""
    from client.history.text_input import check_readable

    if source != "-":
        check_readable(expanded(source))


def read_items(
    source: str, task: Task, options: ReadOptions, *, yes: bool
) -> tuple[HistoryItem, ...]:
    """The items of a history file or of stdin, with warnings said.

    Raises DataError where what a known export holds is not what the task asks about, nobody can be
    asked, and `yes` is not given.
    """
    from client.history.reading import read_history

    with progress_bars() as show:
        found = read_history(
            None if source == "-" else expanded(source), task, options, progress=show
        )
    for warning in found.warnings:
        say(f"warning: {warning}")
    if found.layout is not None:
        say(described(found))
    for reason, count in found.left_out.items():
        say(f"left out: {counted(count, 'item')} ({reason})")
    if found.layout is not None and not found.asked and not yes:
        agree(found, interactive=source != "-" and sys.stdin.isatty() and sys.stderr.isatty())
    return found.items


def described(found: History) -> str:
    """What of a known export becomes which field."""
    assert found.layout is not None
    places = ", ".join(f"{field} from {' or '.join(at)}" for field, at in found.places.items())
    items = counted(len(found.items), "item")
    text = f"{found.name}: recognized as {found.layout.name}; {places}; {items}"
    return text if found.layout.sure else f"{text}; but {found.layout.note}"


def agree(found: History, *, interactive: bool) -> None:
    """Ask whether the items are what is meant; without a terminal, take only what is sure."""
    layout = found.layout
    assert layout is not None
    columns = " ".join(
        f'--column "{field}={at[0]}"' for field, at in found.places.items() if field != "date"
    )
    if interactive:
        if not typer.confirm("Take these items?", default=layout.sure, err=True):
            say(f"nothing was read; another NAME in {columns} takes something else")
            raise typer.Abort
        return
    if layout.sure:
        return
    raise DataError(
        f"{found.name}: {layout.name}: {layout.note}",
        hint=f"if that is what you want: --yes, or {columns}",
    )
