"""`proper rebase`: the same history over the installed release."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import typer

from client.commands import options as o
from client.commands.adapt import say_outcome
from client.commands.outcome import outcome, took
from client.commands.training_run import learner_for, say_cost, store, train
from client.person.stores import VaultStore
from client.person.workspace import Memory, Workspace
from client.terminal.console import print_line, say
from client.terminal.document import gives
from proper_model.errors import ProperError

if TYPE_CHECKING:
    from client.releases.store import InstalledBundle
    from client.vault.opening import Vault


@gives("rebase")
def rebase(
    context: typer.Context,
    max_memory: o.MaxMemory = None,
    base_weights: o.BaseWeights = None,
    recompute: o.Recompute = False,
    resume: o.Resume = False,
) -> dict[str, Any]:
    """Train your adapters again, from the stored history, over the release installed now.

    An adapter fits only the release it was trained over, and goes on over that one until this is
    done. The pair before stays for `proper rollback`; releases older than that are removed.
    """
    from client.person import adapting

    workspace = o.workspace(context)
    memory = Memory(o.bytes_of(max_memory), base_weights, recompute)
    bundle = workspace.installed()
    with workspace.changing() as vault:
        state = VaultStore(vault).read()
        if state.bundle_id == bundle.bundle_id:
            print_line(f"Your adapter is over {bundle.called} already.")
            return _moved(bundle, changed=False)
        moved = dataclasses.replace(
            state, bundle_id=bundle.bundle_id, bundle_version=bundle.version
        )
        histories = adapting.histories_of(state)
        with learner_for(workspace, bundle, state, memory) as learner:
            least = learner.least_items
            cost = say_cost(workspace, learner, histories, memory)
            trained, spent = train(
                vault, learner, moved, histories, "rebase", adapting.adapt, cost, resume=resume
            )
        items = sum(len(task.items) for task in trained.tasks.values())
        store(vault, trained, what="rebase", task=", ".join(sorted(trained.tasks)), items=items)
        remove_unneeded(workspace, vault)
    for name in sorted(trained.tasks):
        say_outcome(trained, name, least)
    spent.say()
    learned = [outcome(trained, name, least) for name in sorted(trained.tasks)]
    return _moved(bundle, changed=True) | {"tasks": learned, "took": took(spent)}


def _moved(bundle: InstalledBundle, *, changed: bool) -> dict[str, Any]:
    return {
        "release_version": bundle.version,
        "bundle_id": bundle.bundle_id,
        "changed": changed,
        "tasks": [],
        "took": None,
    }


def remove_unneeded(workspace: Workspace, vault: Vault) -> None:
    """Remove releases that neither of the two stored generations was made over."""
    from client.releases.installed_list import remove_old_bundles

    generations = (vault.read(), vault.read_previous())
    try:
        freed = remove_old_bundles(workspace.home, {one.bundle_id for one in generations if one})
    except ProperError as error:  # the rebase itself is stored
        say(f"warning: older releases were not removed: {error.message}")
        return
    if freed:
        say(f"older releases that nothing needs any more are removed: {o.readable_bytes(freed)}")
