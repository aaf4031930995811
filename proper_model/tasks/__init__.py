"""Tasks and records: how a history becomes prompts, answers and labels."""

from proper_model.tasks import new_task
from proper_model.tasks.records import (
    HistoryItem, Place, Population, Query, Report, User, counted, user_to_json, users_to_json,
)
from proper_model.tasks.retrieval import (
    ALL, MOST_RETRIEVED, OwnItems, Retriever, Room, check_depth, lines_before, parse_depth,
)
from proper_model.tasks.task import (
    Depth, Example, Task, example_tasks, folded, load_task, shipped_tasks, short_id, task_from_toml,
)

__all__ = [
    "ALL", "Depth", "Example", "HistoryItem", "MOST_RETRIEVED", "OwnItems", "Place", "Population",
    "Query", "Report", "Retriever", "Room", "Task", "User", "check_depth", "counted", "example_tasks", "folded", "lines_before",
    "load_task", "new_task", "parse_depth", "shipped_tasks", "short_id", "task_from_toml", "user_to_json",
    "users_to_json",
]
