"""`proper update`: go on from the adapter with new items."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import typer

from client.commands import options as o
from client.commands.adapt import say_outcome
from client.commands.outcome import outcome, took
from client.commands.reading import check_there, read_items, read_options
from client.commands.training_run import learner_for, store, tell_cost, train
from client.person.stores import VaultStore
from client.person.workspace import Memory
from client.terminal.console import print_line
from client.terminal.document import gives
from proper_model.tasks import counted

if TYPE_CHECKING:
    from client.person.adapting import Histories
    from client.person.learner import Learner
    from client.person.state import PersonalState
    from client.person.updating import Update


@gives("update")
def update(
    context: typer.Context,
    history: o.History,
    task: o.StoredTask = None,
    form: o.Form = None,
    column: o.Columns = None,
    scale: o.Scale = None,
    date_order: o.DateOrder = None,
    no_date: o.NoDate = False,
    sender: o.Sender = None,
    max_items: o.MaxItems = None,
    lenient: o.Lenient = False,
    yes: o.Yes = False,
    max_memory: o.MaxMemory = None,
    base_weights: o.BaseWeights = None,
    recompute: o.Recompute = False,
    resume: o.Resume = False,
) -> dict[str, Any]:
    """Train with the items of HISTORY that are new, rehearsing old ones; kept only if it helps.

    HISTORY may hold old items as well. New items that are held back decide, and old ones that would
    lose by it can refuse. Where there were too few items for an adapter so far, all are adapted to.
    """
    check_there(history)
    from client.person import adapting, item_promise, updating
    from client.person.cost import estimate_update

    workspace = o.workspace(context)
    how = read_options(
        form, column, scale, date_order, sender, max_items, no_date=no_date, lenient=lenient
    )
    memory = Memory(o.bytes_of(max_memory), base_weights, recompute)
    with workspace.changing() as vault:
        state = VaultStore(vault).read()
        item_promise.check_update(state)
        name, task_state = state.task_named(task)
        chosen = task_state.task()
        items = read_items(history, chosen, how, yes=yes)
        everything = updating.with_items(task_state, items)
        count = len(everything.items) - len(task_state.items)
        new = {name: (chosen, items)}
        if not count:
            print_line("There is no new item, so your adapter stays as it is.")
            return {"task": name, "new_items": 0, "updated": None, "adapted": None, "took": None}
        grown = adapting.histories_of(state.with_task(name, everything))
        with learner_for(workspace, workspace.bundle_of(state), state, memory) as learner:
            cost = estimate_update(learner, state, name, everything)
            tell_cost(workspace, cost, memory)

            def step(learner: Learner, own: PersonalState, _: Histories) -> PersonalState | Update:
                if not task_state.adapter:  # there were too few items, or training diverged
                    return adapting.adapt(learner, own, grown)
                return updating.update(learner, own, name, everything)

            done, spent = train(vault, learner, state, new, "update", step, cost, resume=resume)
        changed = done.state if isinstance(done, updating.Update) else done
        store(vault, changed, what="update", task=name, items=count)
    told = tell(done, name, learner.least_items) | {"task": name, "new_items": count}
    spent.say()
    return told | {"took": took(spent)}


def tell(done: Update | PersonalState, name: str, least: int | None) -> dict[str, Any]:
    """What became of it, in words on stdout and as the document says it."""
    from client.person.updating import Update

    if isinstance(done, Update):
        say_update(done)
        return {"updated": update_facts(done), "adapted": None}
    say_outcome(done, name, least)
    return {"updated": None, "adapted": outcome(done, name, least)}


def update_facts(result: Update) -> dict[str, Any]:
    """What became of the update, in numbers; no loss where nothing judged."""
    facts = {
        field.name: getattr(result, field.name)
        for field in dataclasses.fields(result)
        if field.name != "state"
    }
    missing = [] if result.judged else ["loss_before", "loss_after"]
    missing += [] if result.old_judged else ["old_loss_before", "old_loss_after"]
    return facts | dict.fromkeys(missing)


def say_update(result: Update) -> None:
    """What became of the update, in plain words on stdout."""
    if not result.judged:
        print_line(
            "One new item alone cannot train and judge: it is stored, and counts as new when the "
            "next ones come."
        )
        return
    from client.person.updating import OLD_LOSS_TOLERANCE

    new = counted(result.new_items, "new item")
    if not result.kept and not result.harmed:
        print_line(
            f"{new} did not make held-back ones likelier, so your adapter stays as it was; they are "
            "stored, and count as new when the next ones come."
        )
        return
    gained = (
        f"loss on new items that were held back {result.loss_before:.3f} before, "
        f"{result.loss_after:.3f} after"
    )
    if result.old_judged:
        gained += (
            f"; on {counted(result.old_judged, 'old item')} left out of the training "
            f"{result.old_loss_before:.3f} before, {result.old_loss_after:.3f} after"
        )
    if not result.harmed:
        print_line(f"Your adapter went on with {new} and {result.rehearsed} old ones: {gained}.")
        return
    print_line(
        f"{new} would cost too much of what your adapter knows of the old ones, so it stays as it "
        f"was: {gained}, and at most {OLD_LOSS_TOLERANCE:g} more is taken. They are stored, and count as "
        "new when the next ones come. If the old answers hold no longer, forget those items (proper "
        "forget), or train anew on everything (proper adapt HISTORY)."
    )
