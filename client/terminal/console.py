"""What `proper` and `proper-sim` show: data on stdout, progress and errors on stderr."""

from __future__ import annotations

import io
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import BinaryIO, TextIO

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bars

from client.terminal.tables import Table, to_markdown, to_rich
from client.terminal.time_left import ExpectedPhase, Watch, readable_seconds
from proper_model.errors import ConfigError, DataError, ProperError
from proper_model.progress import Progress

Naming = Callable[[str], str]
"""What a person reads for a phase."""

# Set before any of these libraries is imported, which commands do late; what the user has set stays.
QUIET = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "DO_NOT_TRACK": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "TRANSFORMERS_VERBOSITY": "error",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "TQDM_DISABLE": "1",
    # Packed passes differ in length, and oneDNN keeps a compiled product for each of 1024 shapes: a
    # hundred megabytes and no measurable time more than for 64.
    "ONEDNN_PRIMITIVE_CACHE_CAPACITY": "64",
    # How often a thread that waits for the others looks before it sleeps. By default it hardly ever sleeps,
    # and where another program wants the same cores the waiting takes most of the time.
    "GOMP_SPINCOUNT": "1000",
}
# Set to 1, transformers is imported without what no command runs (`proper_model/kernels/transformers_parts.py`).
FEWER_PARTS = "PROPER_FEWER_PARTS"
EVERY_S = 30.0  # how often a log has a line on a phase that goes on
WIDE = 240  # of a file or pipe: nothing in a table is cut there


def print_table(table: Table, *, markdown: bool = False) -> None:
    """A table on stdout."""
    if markdown:
        sys.stdout.write(to_markdown(table) + "\n")
        return
    width = None if sys.stdout.isatty() or "COLUMNS" in os.environ else WIDE
    Console(file=sys.stdout, width=width, highlight=False).print(to_rich(table))


def print_line(text: str = "") -> None:
    """A line of data on stdout, as it is."""
    sys.stdout.write(text + "\n")


def say(text: str) -> None:
    """A remark on stderr; where that takes nothing more, it is lost and the command goes on."""
    say_as_it_is(f"proper: {text}\n")


def say_as_it_is(text: str) -> None:
    """As `say`, without the program's name before it."""
    try:
        remarks().write(text)
    except (OSError, ValueError):  # a full disk, a reader that went away, a closed file
        sys.stderr = _Nowhere()


class _Nowhere(io.StringIO):
    """Takes everything and keeps nothing."""

    def write(self, text: str, /) -> int:
        return len(text)


class Remarks(io.TextIOBase):
    """stderr for what is data without `--json`: what it does not take is lost too."""

    def write(self, text: str, /) -> int:
        say_as_it_is(text)
        return len(text)

    def flush(self) -> None:
        with suppress(OSError, ValueError):
            remarks().flush()

    def isatty(self) -> bool:
        return remarks().isatty()

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return remarks().encoding or "utf-8"


def remarks() -> TextIO:
    """stderr, or what keeps nothing where the program was started without one."""
    stderr: TextIO | None = sys.stderr
    return _Nowhere() if stderr is None else stderr


def agreed(question: str) -> bool:
    """Ask on stderr and read the answer from stdin. Raises ConfigError where there is none."""
    if _stdin() is None:
        raise ConfigError(
            "there is no input to answer a question from", hint="--yes answers it beforehand"
        )
    return bool(typer.confirm(question, default=False, err=True))


def asks() -> bool:
    """Whether a person can be asked: stdin is a terminal."""
    stdin = _stdin()
    return stdin is not None and stdin.isatty()


def stdin_bytes() -> BinaryIO:
    """Standard input. Raises DataError where the program was started without one."""
    stdin = _stdin()
    if stdin is None:
        raise DataError("stdin: closed", hint="give what is asked for as an argument or a file")
    return stdin.buffer


def _stdin() -> TextIO | None:
    """None where the program was started without one."""
    return sys.stdin


def say_error(error: ProperError) -> None:
    """`proper: error:` and, where there is one, `proper: hint:` on stderr."""
    say(f"error: {error.message}")
    if error.hint:
        say(f"hint: {error.hint}")


def stopping(_number: int, _frame: object) -> None:
    """Answer Ctrl-C at once: ending Flower takes seconds.

    Writes past Python's buffers, which the interrupted code may be in the middle of.
    """
    with suppress(OSError):
        os.write(2, (b"\n" if os.isatty(2) else b"") + b"proper: stopping...\n")
    raise KeyboardInterrupt


def package_version() -> str:
    """The version of the installed package, or that it is not installed."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("proper")
    except PackageNotFoundError:
        return "(a checkout, not installed)"


@contextmanager
def progress_bars(
    naming: Naming = str, expected: Sequence[ExpectedPhase] = ()
) -> Iterator[Progress]:
    """One bar a phase on a terminal, lines elsewhere, with the time left until the end of all.

    `expected`: the phases to come, where somebody knows; it may be filled in until they begin.
    """
    watch = Watch(expected)
    console = Console(stderr=True, highlight=False)
    if not console.is_terminal:
        yield plain_progress(naming, watch=watch)
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[left]}"),
    )
    with Bars(*columns, console=console) as bars:
        tasks: dict[str, TaskID] = {}

        def end_all() -> None:
            """A phase that another one follows is over, whatever its last count was."""
            for task in tasks.values():
                bars.update(task, total=1, completed=1, left="")
                bars.stop_task(task)

        def show(phase: str, done: int, total: int) -> None:
            if phase not in tasks:
                end_all()
                tasks[phase] = bars.add_task(escape(naming(phase)), total=None, left="")
            left = told_left(watch.step(phase, done, total))
            bars.update(tasks[phase], completed=done, total=total or None, left=left)

        yield show
        end_all()


def told_left(seconds: float | None) -> str:
    """The time left in words, nothing where it is not known."""
    return "" if seconds is None else f"about {readable_seconds(seconds)} left"


def plain_progress(
    naming: Naming = str,
    clock: Callable[[], float] = time.monotonic,
    watch: Watch | None = None,
) -> Progress:
    """A line on stderr when the phase changes, and how far it is twice a minute; for logs."""
    last, said_at = "", clock()

    def show(phase: str, done: int, total: int) -> None:
        nonlocal last, said_at
        name = naming(phase)
        left = told_left(None if watch is None else watch.step(phase, done, total))
        if name != last:
            say(name)
        elif done and clock() - said_at >= EVERY_S:
            far = f"{name} {done}/{total}" if total else f"{name} {done}"
            say(f"{far}, {left}" if left else far)
        else:
            return
        last, said_at = name, clock()

    return show
