"""The commands that follow `prepare`, to be typed as they stand."""

from __future__ import annotations

import shlex
from pathlib import Path


def launch_command(out: Path) -> str:
    """The command that runs what `prepare` wrote into `out`."""
    return _command("launch", out)


def score_command(out: Path) -> str:
    """The command that scores the run in `out`."""
    return _command("score", out)


def _command(name: str, out: Path) -> str:
    given = str(out)
    return shlex.join(["proper-sim", name, f"./{given}" if given.startswith("-") else given])
