"""Files of results/, and what their rows say of two ways of training."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def committed(repository: Path, name: str) -> dict[str, Any]:
    """A file of results/, by its name without .json."""
    found: dict[str, Any] = json.loads((repository / f"results/{name}.json").read_text())
    return found


def comparison(result: dict[str, Any], a: str, b: str, metric: str) -> dict[str, Any]:
    """The one row of a table that compares two methods in a metric."""
    (row,) = (r for r in result["comparisons"] if (r["a"], r["b"], r["metric"]) == (a, b, metric))
    return row


def side(row: dict[str, Any]) -> int:
    """On which side of zero an interval lies: 1 above, -1 below, 0 if zero is in it."""
    return (row["low"] > 0) - (row["high"] < 0)


def compared(result: dict[str, Any]) -> dict[tuple[str, str, str], int]:
    """Of every comparison in a table whether the first is better (1), worse (-1) or neither (0)."""
    found = {}
    for row in result["comparisons"]:
        lower = row["metric"] in ("nll", "mae", "mae_expected", "rmse")
        found[row["a"], row["b"], row["metric"]] = -side(row) if lower else side(row)
    return found
