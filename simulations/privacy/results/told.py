"""What an attack's result says in a document of `--json`: its lines on the common scale, and its facts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from simulations.privacy.results.kinds import shown_of
from simulations.privacy.results.leaving import Shown, leave
from simulations.privacy.results.summary import Line, Result, lines_of
from simulations.setup.documents import Attack, fields_of


def leave_result(result: Result, out: Path) -> dict[str, Any]:
    """Write OUT/EXPERIMENT.json, .md and .html, and print table, sentences and failed controls.

    Returns what programs are told.
    """
    shown = shown_of(result)
    files = leave(result, out / f"{result.experiment}.json", shown)
    return files | told_of(result, shown)


def told_of(result: Result, shown: Shown) -> dict[str, Any]:
    """What a result's file says."""
    return fields_of(Attack, result) | {
        "lines": told_lines(lines_of(result)),
        "sentences": list(shown.sentences),
        "failed": list(shown.failed),
    }


def told_lines(lines: Sequence[Line]) -> list[dict[str, Any]]:
    """Lines for programs; `instead` says something only where there is nothing to attack."""
    return [
        asdict(line) | {"instead": line.instead if line.advantage is None else None}
        for line in lines
    ]
