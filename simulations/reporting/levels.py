"""Synthetic people only: how often each arm is right on queries that population, group or user decide.

`truth.json` says for every query what decides its answer (docs/method.md 5.1), so a level that works shows
exactly where it should: stage 1 on `pop`, stage 2 on `pop` and `group`, stage 3 on all three.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

from proper_model.errors import ReportError
from proper_model.evaluation import Scored
from simulations.outcome.details import Levels

LEVELS = ("pop", "group", "user")
# The first of these that the task reports: share of right answers, error, overlap.
MEASURES = ("accuracy", "mae", "rougeL")


def read_levels(truths: Iterable[Path]) -> dict[str, str] | None:
    """Level by query id, or None unless every file is there."""
    levels: dict[str, str] = {}
    for path in truths:
        if not path.is_file():
            return None
        try:
            levels |= dict(json.loads(path.read_text(encoding="utf-8"))["level"])
        except (ValueError, KeyError, TypeError):
            raise ReportError(f"{path}: expected the truth of a synthetic population") from None
    return levels


def by_level(scored: Mapping[str, Scored], level: Mapping[str, str]) -> Levels | None:
    """Mean of the first fitting measure over the queries of each level, for every arm."""
    metrics = next(iter(scored.values())).metrics
    measure = next((m for m in MEASURES if m in metrics), None)
    if measure is None:
        return None
    arms: dict[str, dict[str, float]] = {}
    for arm, table in scored.items():
        for name in LEVELS:
            values = [
                value
                for query, value in zip(table.query_ids, table.values[measure], strict=True)
                if level.get(query) == name
            ]
            if values:
                arms.setdefault(arm, {})[name] = sum(values) / len(values)
    return Levels(metric=measure, arms=arms) if arms else None
