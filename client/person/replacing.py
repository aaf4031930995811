"""What a person would lose by putting a backup in the place of what is stored, in counts.

Nothing of a backup is trusted to be newer, fuller or even the same person's. Tasks are compared by
name, items by id and content: an id that a file names may stand for another text.
"""

from __future__ import annotations

from contextlib import suppress
from datetime import datetime

from client.history.newest import content_digest
from client.person.state import PersonalState, TaskState
from proper_model.bundle.signed_time import parse_time
from proper_model.tasks import counted


def losses(present: PersonalState | None, backup: PersonalState, created: datetime) -> list[str]:
    """Remarks, empty if everything stored is in the backup too.

    Args:
        present: what is stored, None where it cannot be read.
    """
    if present is None:
        return ["what is stored here cannot be read; whatever it is, the backup takes its place"]
    found: list[str] = []
    if item_count(backup) == 0 and item_count(present):
        found.append(
            f"the backup holds no item; here are {counted(len(present.tasks), 'task')} with "
            f"{counted(item_count(present), 'item')}"
        )
    if backup.seed != present.seed:
        found.append("the backup is of another vault, perhaps another person's")
    changed = last_change(present)
    if changed is not None and changed > created:
        found.append(
            f"the backup was made {_day(created)}, before the last change here, {_day(changed)}"
        )
    return [*found, *_missing(present, backup), *_brought_back(present, backup, created)]


def item_count(state: PersonalState) -> int:
    """Of all tasks."""
    return sum(len(task.items) for task in state.tasks.values())


def last_change(state: PersonalState) -> datetime | None:
    """The latest line of history, None without one."""
    return max((time for _, time in _events(state)), default=None)


def _missing(present: PersonalState, backup: PersonalState) -> list[str]:
    tasks = items = adapters = 0
    for name, task in present.tasks.items():
        other = backup.tasks.get(name)
        tasks += other is None
        items += _more(task, other)
        adapters += bool(task.adapter) and (other is None or not other.adapter)
    words = ((tasks, "task"), (items, "item"), (adapters, "adapter"))
    told = [counted(count, word) for count, word in words if count]
    return [f"not in the backup: {', '.join(told)} stored here"] if told else []


def _more(task: TaskState, other: TaskState | None) -> int:
    """How many items of a task the other one does not hold."""
    held = set() if other is None else {(item.id, content_digest(item)) for item in other.items}
    return sum((item.id, content_digest(item)) not in held for item in task.items)


def _brought_back(present: PersonalState, backup: PersonalState, created: datetime) -> list[str]:
    """Items that were perhaps forgotten on purpose."""
    if not any(what == "forget" and time >= created for what, time in _events(present)):
        return []
    count = 0
    for name, task in backup.tasks.items():
        count += _more(task, present.tasks.get(name))
    if not count:
        return []
    return [f"items were forgotten here since; the backup brings {counted(count, 'item')} back"]


def _events(state: PersonalState) -> list[tuple[str, datetime]]:
    """What was done when; a backup of another program may hold any text as a time."""
    found: list[tuple[str, datetime]] = []
    for event in state.events:
        with suppress(ValueError):
            found.append((event.what, parse_time(event.at)))
    return found


def _day(time: datetime) -> str:
    return f"{time:%Y-%m-%d %H:%M}"
