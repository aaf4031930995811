"""`proper update`: go on from the adapter with new items."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from client.commands import options as o
from client.commands.adapt import read_items
from client.commands.work import Memory, check_limit, learner_for, store, train
from client.console import print_line, say
from client.workspace import read_state
from proper_model.records import counted

if TYPE_CHECKING:
    from client.personal_state import PersonalState


def update(
    context: typer.Context,
    history: o.History,
    task: o.TaskName = None,
    form: o.Form = None,
    column: o.Columns = None,
    lenient: o.Lenient = False,
    max_memory: o.MaxMemory = None,
    base_weights: o.BaseWeights = None,
    recompute: o.Recompute = False,
    resume: o.Resume = False,
) -> None:
    """Train with the items of HISTORY that are new, rehearsing old ones; kept only if it helps.

    HISTORY may hold old items as well; they are recognized. Your own held-back items decide.
    """
    from client import personal
    from client.cost import memory_needed

    workspace = o.workspace(context)
    memory = Memory(o.bytes_of(max_memory), base_weights, recompute)
    with workspace.changing() as vault:
        state = read_state(vault)
        bundle = workspace.bundle_of(state)
        name, task_state = state.task_named(task)
        chosen = task_state.task()
        items = read_items(history, chosen, form, column, None, lenient=lenient)
        done: list[personal.Update] = []
        with learner_for(workspace, bundle, state, memory) as learner:
            check_limit(memory_needed(learner, {name: (chosen, task_state.items + items)}), memory)

            def step() -> PersonalState:
                done.append(personal.update(learner, state, name, items))
                return done[-1].state

            histories = {name: (chosen, items)}
            changed, spent = train(vault, learner, state, histories, "update", step, resume=resume)
        result = done[-1]
        store(vault, changed, what="update", task=name, items=result.new_items)
    compared = (
        f"loss on held-back items {result.loss_before:.3f} before, {result.loss_after:.3f} after"
    )
    if result.kept:
        print_line(
            f"Your adapter went on with {counted(result.new_items, 'new item')} and "
            f"{result.rehearsed} old ones: {compared}."
        )
    else:
        print_line(
            f"{counted(result.new_items, 'new item')} did not make the answers better, so your "
            "adapter stays as it was; the items are stored for the next adapt."
        )
    say(f"took {o.readable_seconds(spent.seconds)}, {o.readable_bytes(spent.peak_bytes)} of memory")
