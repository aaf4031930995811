"""How every command of the benchmarks starts, what it makes sure of first, and how it ends."""

from __future__ import annotations

import errno
import importlib.metadata
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import click
import typer

from client.terminal.command_line import (
    OUTPUT_CLOSED,
    flush_output,
    is_of_output,
    stand_in_for_no_output,
    tell_refused,
)
from client.terminal.console import QUIET, say, say_error
from proper_model.errors import InterruptedRunError, ProperError, StorageError
from proper_model.storage.files import storage_errors

VERSIONS = ("torch", "transformers", "peft", "accelerate", "flwr", "numpy")
BEGINNING_BYTES = 1 << 16


def start(app: typer.Typer) -> None:
    """Run the command of this process and leave with its exit code."""
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    sys.exit(run_command(app, sys.argv[1:]))


def run_command(app: typer.Typer, arguments: list[str]) -> int:
    """Run one command line; its exit code. What goes wrong on purpose is said in a line or two."""
    stand_in_for_no_output()
    return flush_output(_run(app, arguments))


def _run(app: typer.Typer, arguments: list[str]) -> int:
    try:
        with storage_errors(Path.cwd()):
            try:
                code = app(args=arguments, standalone_mode=False)
            except OSError as error:
                if not is_of_output(error):
                    raise
                return tell_refused(error)
    except SystemExit:  # typer's answer to a reader of stdout that went away
        return OUTPUT_CLOSED
    except KeyboardInterrupt:
        code = InterruptedRunError.exit_code
    except ProperError as error:
        say_error(error)
        return error.exit_code
    except click.ClickException as error:
        say(f"error: {error.format_message()}")
        say("hint: --help lists arguments and options")
        return error.exit_code
    # Typer makes this code of Ctrl-C.
    if code == InterruptedRunError.exit_code:
        say("interrupted")
    return code if isinstance(code, int) else 0


def mark_of(benchmark: str) -> str:
    """What all JSON files of a benchmark have in their beginning; see `ready_file`."""
    return f'"benchmark": "{benchmark}"'


def where(seed: int) -> dict[str, Any]:
    """What every report says of its run: the machine, the versions of libraries, the seed."""
    from simulations.outcome.environment import hardware

    found = {name: importlib.metadata.version(name) for name in VERSIONS}
    return {"hardware": hardware(), "versions": found, "seed": seed}


def ready_file(path: Path, mark: str) -> None:
    """Make the folder of a file to come and write there once: before hours of measuring.

    A file that is there will be replaced, so it has to be empty, or to have `mark` in its beginning, as all
    files of the same command do: a wrong path must not cost what was measured, or anything else.

    Raises StorageError.
    """
    with storage_errors(path):
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
        if path.is_file():
            with path.open("rb") as file:
                begins = file.read(BEGINNING_BYTES)
            if begins and mark.encode() not in begins:
                raise StorageError(
                    f"{path}: is there already and would be lost; expected nothing there, or a file "
                    "that this command wrote",
                    hint="give another name, or move it away",
                )
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            # Permissions alone would not tell of a disk that is full or mounted to be read.
            with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".proper-"):
                pass
        except OSError as error:
            error.filename = str(path.parent)  # else the name of a file that nobody asked for
            raise
