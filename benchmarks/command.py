"""How every command of the benchmarks starts: quiet libraries, PROPER's error lines and codes."""

from __future__ import annotations

import os

import typer

from client.console import QUIET, say_error
from proper_model.errors import ProperError


def start(app: typer.Typer) -> None:
    """Run the command; what goes wrong on purpose leaves with its own exit code."""
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    try:
        app(standalone_mode=True)
    except ProperError as error:
        say_error(error)
        raise SystemExit(error.exit_code) from None
