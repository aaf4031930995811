"""`proper forget`: remove items and retrain from the rest, or remove everything, keys included."""

from __future__ import annotations

from typing import Annotated

import typer

from client.commands import options as o
from client.commands.training_run import learner_for, say_cost, train
from client.person.stores import VaultStore
from client.person.workspace import Memory
from client.terminal.console import agreed, print_line, say, stdin_bytes
from proper_model.errors import ConfigError
from proper_model.tasks import counted

# What no program can take back; said every time.
REMAINS = (
    "What cannot be recalled: exports and backups you made, copies of the whole folder from before "
    "(they open with the passphrase of that time), and what you sent somewhere yourself. Your items "
    "never left this machine through this program."
)
Items = Annotated[
    list[str] | None,
    typer.Option(
        "--items",
        metavar="WHICH",
        help="Ids, numbers as `proper inspect --items` shows them (3, 5-9), before:DATE, "
        "after:DATE, on:DATE, contains:TEXT; repeatable. - reads them from stdin, one a line, out "
        "of sight of `ps` and the shell's history.",
    ),
]
Everything = Annotated[bool, typer.Option("--all", help="Everything, keys included.")]
Yes = Annotated[bool, typer.Option("--yes", help="Do not ask before removing everything.")]


def forget(
    context: typer.Context,
    items: Items = None,
    everything: Everything = False,
    yes: Yes = False,
    task: o.StoredTask = None,
    max_memory: o.MaxMemory = None,
    base_weights: o.BaseWeights = None,
    recompute: o.Recompute = False,
    resume: o.Resume = False,
) -> None:
    """Remove items from your history and train again without them, or remove everything.

    After forgetting items the adapter is what it would be had they never been there; the stored
    generations that knew them are removed, and the vault gets a new master key, which opens no copy
    of them.
    """
    if bool(items) == everything:
        raise ConfigError("say what to forget: --items WHICH, or --all")
    if everything:
        forget_everything(context, yes=yes)
        return
    from client.commands.forget_match import read_selectors, select_items
    from client.person import adapting

    selectors = [selector for selector in items or [] if selector != "-"]
    if "-" in (items or []):
        selectors += read_selectors(stdin_bytes())
    workspace = o.workspace(context)
    memory = Memory(o.bytes_of(max_memory), base_weights, recompute)
    with workspace.changing() as vault:
        state = VaultStore(vault).read()
        bundle = workspace.bundle_of(state)
        name, task_state = state.task_named(task)
        vault.check_forgetting()  # before the minutes of training
        gone = select_items(task_state.items, selectors)
        left = adapting.without(state, name, gone)
        histories = adapting.histories_of(left)
        with learner_for(workspace, bundle, state, memory) as learner:
            say_cost(workspace, learner, histories, memory, alone=True)
            trained, spent = train(
                vault, learner, left, histories, "forget", adapting.adapt, resume=resume
            )
        VaultStore(vault).write_without(trained, task=name, items=len(gone))
    print_line(
        f"Forgot {counted(len(gone), 'item')}; {counted(len(trained.tasks[name].items), 'item')} "
        "left. The adapter is what it would be had they never been there."
    )
    print_line(REMAINS)
    spent.say()


def forget_everything(context: typer.Context, *, yes: bool) -> None:
    """Remove the vault and its keys. The release and the trust root stay: they are not private."""
    from client.vault.opening import destroy_vault

    workspace = o.workspace(context)
    if not workspace.has_vault and not workspace.home.vault.exists():
        print_line("Nothing private is stored here.")
        return
    if not yes and not agreed("Remove your history, adapter and keys for good?"):
        raise typer.Abort
    with workspace.home.working():
        remarks = destroy_vault(workspace.home.vault)
    for remark in remarks:
        say(f"warning: {remark}")
    print_line("Everything private is removed, keys included.")
    print_line(REMAINS)
