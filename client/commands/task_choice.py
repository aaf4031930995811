"""Which task a person's items answer: the release's own, one adapted before, or a task file.

Read before anything heavy is loaded, so that a faulty history is told at once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from client.releases.content import recipe_of, small_file
from client.releases.store import InstalledBundle
from proper_model.bundle.file_names import TASK
from proper_model.release.recipe import parse_release_task
from proper_model.tasks import Task, load_task

if TYPE_CHECKING:
    from client.person.state import PersonalState


def release_task(bundle: InstalledBundle) -> Task:
    """The task a release was made for. Raises BundleError if its files were altered."""
    return parse_release_task(small_file(bundle, TASK), recipe_of(bundle).template)


def choose_task(name: str | None, bundle: InstalledBundle, state: PersonalState | None) -> Task:
    """The named task, by default the release's. A task adapted before keeps its own wording.

    Raises TaskError for a name that is neither stored, shipped, nor a file.
    """
    own = release_task(bundle)
    wanted = own.name if name is None else name
    if state is not None and wanted in state.tasks:
        return state.tasks[wanted].task()
    return own if wanted == own.name else load_task(wanted)
