"""`proper start`: a release of one's own over any base, for a person without a coordinator."""

from __future__ import annotations

import shlex
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from client.commands import completing
from client.commands import options as o
from client.terminal.console import print_line, progress_bars, say
from client.terminal.document import gives
from proper_model.errors import TaskError
from proper_model.tasks import Task, load_task

if TYPE_CHECKING:
    from proper_model.settings import StageSettings


Base = Annotated[
    str,
    typer.Option(
        "--base",
        autocompletion=completing.base,
        metavar="BASE",
        help="The language model: its folder, FILE.gguf, or a name that `base list` shows (smollm2).",
        show_default=False,
    ),
]
AskedTask = Annotated[
    str,
    typer.Option(
        "--task",
        autocompletion=completing.task,
        metavar="T",
        help="What your items ask and answer: a shipped task, or a TOML file (`new-task` writes one).",
        show_default=False,
    ),
]
Profile = Annotated[
    str | None,
    typer.Option(
        "--profile",
        autocompletion=completing.profile,
        help="How your adapter is trained: a shipped profile or a TOML file. (default: by the base's size)",
    ),
]
TemplateSet = Annotated[
    str | None,
    typer.Option(
        "--template",
        help="The task's template set. (default: the profile's, where the task has it)",
    ),
]
Out = Annotated[
    Path | None,
    typer.Option("--out", help="A new folder for a copy of the release, for your other devices."),
]


@gives("start")
def start(
    context: typer.Context,
    base: Base,
    task: AskedTask,
    profile: Profile = None,
    template: TemplateSet = None,
    out: Out = None,
) -> dict[str, Any]:
    """Begin without a coordinator: make a release of your own over any base, and install it.

    Nobody was pooled for it, so all that personalizes is your adapter; its key is thrown away after
    signing. A publisher's release may take its place: proper bundle add, then proper rebase.
    """
    from client.bases.finding import folder_of
    from client.releases.own import (
        check_no_publisher,
        check_out,
        place_in,
        start_release,
        usual_settings,
    )
    from proper_model.settings import load_profile

    home = o.workspace(context).home
    check_no_publisher(home)  # before a base is fetched
    if out is not None:
        check_out(home, out)
    settings = None if profile is None else load_profile(profile)
    load_task(task, template=template)
    with progress_bars() as show:
        folder = folder_of(base, show)
        settings = settings or usual_settings(folder)
        chosen = choose(task, template, settings)
        started = start_release(home, folder, chosen, settings, out=out, progress=show)
    bundle, installed = started.bundle, "installed" if started.changed else "installed already"
    say(f"base: {folder}, which stays where it is; move it, and `proper start` has to be told")
    say(f"task {chosen.name}, template set {chosen.template}, profile {_profile(settings)}")
    say(
        "nobody was pooled: it is the base as it is, and all that personalizes it will be your adapter"
    )
    if not started.changed:
        say("it is what you had already: the same base, task and profile")
    print_line(f"{bundle.called} ({bundle.bundle_id[:16]}) {installed}")
    if out is not None:
        copy = shlex.quote(str(place_in(out, bundle)))
        say(f"on another device of yours: proper bundle add {copy} --base FOLDER")
    fields = sorted(chosen.required_fields)
    say(f"next: proper adapt HISTORY, a file of items with the fields {', '.join(fields)}")
    say("for a publisher's release later: proper bundle add PATH_OR_URL, then proper rebase")
    return {
        "release_version": bundle.version,
        "bundle_id": bundle.bundle_id,
        "changed": started.changed,
        "base": str(folder),
        "task": chosen.name,
        "template": chosen.template,
        "profile": settings.name,
        "copied_to": None if out is None else str(place_in(out, bundle)),
        "fields": fields,
    }


def choose(name: str, template: str | None, settings: StageSettings) -> Task:
    """The task under the template asked for, else the profile's where it has that. Raises TaskError."""
    if template is None and settings.template is not None:
        with suppress(TaskError):
            return load_task(name, template=settings.template)
    return load_task(name, template=template)


def _profile(settings: StageSettings) -> str:
    """Its name, and in what it has the base computed where that is not a device's own choice."""
    return settings.name + ", computed in bfloat16" * (settings.dtype == "bfloat16")
