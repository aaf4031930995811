"""What a training command tells with `--json`: what there is now, and what it took."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from client.commands.inspect import REPORTED

if TYPE_CHECKING:
    from client.commands.training_run import Spent
    from client.person.cost import Cost
    from client.person.state import PersonalState


def outcome(state: PersonalState, name: str, least: int | None) -> dict[str, Any]:
    """One task in counts and losses; no text of the person's.

    `least`: how many items an adapter needs; None: this release makes none.
    """
    task = state.tasks[name]
    return {
        "task": name,
        "items": len(task.items),
        "items_waiting": len(task.waiting),
        "adapter": bool(task.adapter),
        "least_items": least,
        "embedding_source": state.embedding_report.get("embedding_source"),
        "report": {key: task.report.get(key) for key in REPORTED},
    }


def plan_of(cost: Cost) -> dict[str, Any]:
    """What a training will cost."""
    return dataclasses.asdict(cost)


def took(spent: Spent) -> dict[str, Any]:
    """What a training took, and what had been expected."""
    return dataclasses.asdict(spent)
