"""Tasks and records: how a history becomes prompts, answers and labels."""

from proper_model.tasks.records import (
    HistoryItem, Place, Population, Query, Report, User, counted, user_to_json, users_to_json,
)
from proper_model.tasks.task import (
    Example, Task, folded, load_task, shipped_tasks, short_id, task_from_toml,
)

__all__ = [
    "Example", "HistoryItem", "Place", "Population", "Query", "Report", "Task", "User", "counted",
    "folded", "load_task", "shipped_tasks", "short_id", "task_from_toml", "user_to_json",
    "users_to_json",
]
