"""Which task a person's items answer: the release's own, one adapted before, or a task file.

Read before anything heavy is loaded, so that a faulty history is told at once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from client.releases.content import InstalledRelease
from proper_model.tasks import Task, load_task

if TYPE_CHECKING:
    from client.person.state import PersonalState


def choose_task(name: str | None, release: InstalledRelease, state: PersonalState | None) -> Task:
    """The named task, by default the release's. A task adapted before keeps its own wording.

    Raises TaskError for a name that is neither stored, shipped, nor a file.
    """
    own = release.task
    wanted = own.name if name is None else name
    if state is not None and wanted in state.tasks:
        return state.tasks[wanted].task()
    return own if wanted == own.name else load_task(wanted)
