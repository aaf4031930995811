"""`proper rebase`: the same history over the installed release."""

from __future__ import annotations

import dataclasses

import typer

from client.commands import options as o
from client.commands.adapt import say_outcome
from client.commands.work import Memory, installed_bundle, learner_for, say_cost, store, train
from client.console import print_line, say
from client.workspace import read_state


def rebase(
    context: typer.Context,
    max_memory: o.MaxMemory = None,
    base_weights: o.BaseWeights = None,
    recompute: o.Recompute = False,
    resume: o.Resume = False,
) -> None:
    """Train your adapters again, from the stored history, over the release installed now.

    An adapter fits only the release it was trained over. The old pair stays until this is done.
    """
    from client import personal

    workspace = o.workspace(context)
    bundle = installed_bundle(workspace)
    memory = Memory(o.bytes_of(max_memory), base_weights, recompute)
    with workspace.changing() as vault:
        state = read_state(vault)
        if state.bundle_id == bundle.bundle_id:
            print_line(f"Your adapter is over release {bundle.version} already.")
            return
        moved = dataclasses.replace(
            state, bundle_id=bundle.bundle_id, bundle_version=bundle.version
        )
        histories = personal.histories_of(state)
        with learner_for(workspace, bundle, memory) as learner:
            say_cost(learner, histories)
            trained, spent = train(
                vault,
                learner,
                moved,
                histories,
                "rebase",
                lambda: personal.adapt(learner, moved, histories),
                resume=resume,
            )
        items = sum(len(task.items) for task in trained.tasks.values())
        store(vault, trained, what="rebase", task=", ".join(sorted(trained.tasks)), items=items)
    for name in sorted(trained.tasks):
        say_outcome(trained, name)
    say(f"took {o.readable_seconds(spent.seconds)}, {o.readable_bytes(spent.peak_bytes)} of memory")
