"""Which task a person's items answer: the release's own, one adapted before, or a task file.

Read before anything heavy is loaded, so that a faulty history is told at once.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from client.bundle_store import InstalledBundle, read_checked
from proper_model.tasks import Task, load_task, task_from_toml

if TYPE_CHECKING:
    from client.personal_state import PersonalState


def release_task(bundle: InstalledBundle) -> Task:
    """The task a release was made for. Raises BundleIntegrityError if its files were altered."""
    toml = read_checked(bundle.path, bundle.manifest, "task.toml").decode()
    recipe = json.loads(read_checked(bundle.path, bundle.manifest, "recipe.json"))
    return task_from_toml(toml, template=recipe["template"], where="task.toml")


def choose_task(name: str | None, bundle: InstalledBundle, state: PersonalState | None) -> Task:
    """The named task, by default the release's. A task adapted before keeps its own wording.

    Raises TaskError for a name that is neither stored, shipped, nor a file.
    """
    own = release_task(bundle)
    wanted = own.name if name is None else name
    if state is not None and wanted in state.tasks:
        return state.tasks[wanted].task()
    return own if wanted == own.name else load_task(wanted)
