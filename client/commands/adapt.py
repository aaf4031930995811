"""`proper adapt`: from a history to a private adapter."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import typer

from client.commands import options as o
from client.commands.outcome import outcome, plan_of, took
from client.commands.reading import check_there, read_items, read_options
from client.commands.training_run import Spent, learner_for, new_state, say_cost, store, train
from client.person.stores import VaultStore, stored
from client.person.workspace import Memory
from client.terminal.console import print_line, progress_bars, say
from client.terminal.document import gives
from proper_model.tasks import (
    Depth,
    HistoryItem,
    OwnItems,
    Task,
    counted,
    load_task,
    parse_depth,
)

if TYPE_CHECKING:
    from client.person.cost import Cost
    from client.person.learner import Learner
    from client.person.state import PersonalState
    from client.person.workspace import Workspace
    from client.releases.content import InstalledRelease
    from client.releases.store import InstalledBundle
    from proper_model.settings import ItemPrivacy

Chosen = tuple[Task, tuple[HistoryItem, ...]]
Plan = Annotated[bool, typer.Option("--plan", help="Only say what it would cost.")]


@gives("adapt")
def adapt(
    context: typer.Context,
    history: o.History,
    task: o.TaskName = None,
    form: o.Form = None,
    column: o.Columns = None,
    scale: o.Scale = None,
    date_order: o.DateOrder = None,
    no_date: o.NoDate = False,
    sender: o.Sender = None,
    max_items: o.MaxItems = None,
    lenient: o.Lenient = False,
    retrieve: o.Retrieve = None,
    private_epsilon: o.PrivateEpsilon = None,
    private_delta: o.PrivateDelta = None,
    yes: o.Yes = False,
    max_memory: o.MaxMemory = None,
    base_weights: o.BaseWeights = None,
    recompute: o.Recompute = False,
    plan: Plan = False,
    resume: o.Resume = False,
) -> dict[str, Any]:
    """Train your private adapter from your whole HISTORY; what was stored before stays until done.

    Ctrl-C stops it; the same command with --resume goes on.
    """
    check_there(history)
    from client.person.item_promise import asked_privacy

    workspace = o.workspace(context)
    memory = Memory(o.bytes_of(max_memory), base_weights, recompute)
    how = read_options(
        form, column, scale, date_order, sender, max_items, no_date=no_date, lenient=lenient
    )
    newest = workspace.installed()
    depth = None if retrieve is None else parse_depth(retrieve)
    with progress_bars() as show:
        if private_epsilon is not None:
            show("accounting for privacy", 0, 0)
        privacy = asked_privacy(private_epsilon, private_delta)

    def chosen_items(state: PersonalState | None, bundle: InstalledBundle) -> Chosen:
        chosen = choose_task(task, workspace.releases.read(bundle), state, depth)
        return chosen, read_items(history, chosen, how, yes=yes)

    # A new person hears what is wrong with the items before choosing a passphrase.
    first = None if workspace.has_vault else chosen_items(None, newest)
    asked = Asked(first, chosen_items, privacy)
    if plan:
        return {"plan": plan_of(say_plan(workspace, asked, memory))}
    trained, name, least, spent = train_whole(workspace, newest, asked, memory, resume=resume)
    say_outcome(trained, name, least)
    say_comparison(trained, name)
    spent.say()
    return outcome(trained, name, least) | {"took": took(spent)}


@dataclass(frozen=True)
class Asked:
    """What is to be adapted to.

    Attributes:
        first: task and items of a person without a vault; None: `choose` reads them by what is stored.
        privacy: of single items, as `client.person.item_promise.asked_privacy` gives it.
    """

    first: Chosen | None
    choose: Callable[[PersonalState | None, InstalledBundle], Chosen]
    privacy: ItemPrivacy | str | None

    def check_first(self) -> None:
        """Raise ConfigError where items that were read already cannot be protected as asked."""
        from client.person.item_promise import check_promise, privacy_after

        privacy = privacy_after(None, self.privacy)
        if self.first is not None and privacy is not None:
            check_promise(privacy, {self.first[0].name: self.first})


def train_whole(
    workspace: Workspace, newest: InstalledBundle, asked: Asked, memory: Memory, *, resume: bool
) -> tuple[PersonalState, str, int | None, Spent]:
    """Train and store; the state, the task's name, how many items an adapter needs, and what it took."""
    from client.person import adapting
    from client.person.item_promise import check_promise, with_privacy

    asked.check_first()
    with workspace.changing() as vault:
        before = stored(VaultStore(vault)) or new_state(newest, vault)
        state = with_privacy(before, asked.privacy)
        bundle = workspace.bundle_of(state)
        chosen, items = asked.first or asked.choose(state, bundle)
        histories = {**adapting.histories_of(state), chosen.name: (chosen, items)}
        if state.privacy is not None:
            check_promise(state.privacy, histories)
        say_dropped(state, chosen.name, items)
        say_left_without(before, state)
        with learner_for(workspace, bundle, state, memory) as learner:
            say_room(learner, chosen, items)
            cost = say_cost(workspace, learner, histories, memory, compared=chosen.name)
            step = partial(adapting.adapt_comparing, chosen.name)
            trained, spent = train(
                vault, learner, state, histories, "adapt", step, cost, resume=resume
            )
            least = learner.least_items
        store(vault, trained, what="adapt", task=chosen.name, items=len(items))
    return trained, chosen.name, least, spent


def say_left_without(before: PersonalState, state: PersonalState) -> None:
    """Warn of what was trained without privacy and lies where this training does not reach."""
    adapters = any(task.adapter for task in before.tasks.values())
    if state.privacy is not None and before.privacy is None and adapters:
        say(
            "warning: the adapter of before was trained without privacy; it stays for proper rollback until "
            "the training after this one, and exports and backups of it promise nothing"
        )


def choose_task(
    name: str | None,
    release: InstalledRelease,
    state: PersonalState | None,
    retrieve: Depth | None = None,
) -> Task:
    """The named task, by default the release's. A task adapted before keeps its own wording.

    It also keeps how many own items stand before a question, unless `retrieve` says how many.

    Read before anything heavy is loaded, so that a faulty history is told at once.

    Raises TaskError for a name that is neither stored, shipped, nor a file.
    """
    own = release.task
    wanted = own.name if name is None else name
    if state is not None and wanted in state.tasks:
        chosen = state.tasks[wanted].task()
    else:
        chosen = own if wanted == own.name else load_task(wanted)
    return chosen if retrieve is None else replace(chosen, retrieve=retrieve)


def say_plan(workspace: Workspace, asked: Asked, memory: Memory) -> Cost:
    """What adapting would cost. Nothing is changed."""
    from client.person import adapting
    from client.person.item_promise import check_promise, privacy_after

    state = stored(VaultStore(workspace.open())) if asked.first is None else None
    bundle = workspace.bundle_of(state)
    chosen, items = asked.first or asked.choose(state, bundle)
    known = {} if state is None else adapting.histories_of(state)
    privacy = privacy_after(state, asked.privacy)
    with learner_for(workspace, bundle, state, memory) as release_learner:
        learner = release_learner.under(privacy)
        if privacy is not None:
            check_promise(privacy, {chosen.name: (chosen, items)})
        say_room(learner, chosen, items)
        histories = {**known, chosen.name: (chosen, items)}
        return say_cost(workspace, learner, histories, memory, compared=chosen.name)


def say_dropped(state: PersonalState, name: str, items: Sequence[HistoryItem]) -> None:
    """Warn of stored items that the new history does not hold: adapting replaces the whole."""
    if name not in state.tasks:
        return
    given = {item.id for item in items}
    lost = sum(item.id not in given for item in state.tasks[name].items)
    if lost:
        say(
            f"warning: {counted(lost, 'stored item')} of this task are not in this history and will "
            "be dropped; to add items, proper update; proper rollback brings them back"
        )


def say_room(learner: Learner, task: Task, items: Sequence[HistoryItem]) -> None:
    """Warn where own items are to stand before a question, and the newest one leaves them no room."""
    if not task.retrieve or len(items) < 2:
        return
    own = OwnItems(task, tuple(items), learner.encoder.room)
    if not own.history_example(items[-1]).lines:
        say(
            "warning: a question like your newest item leaves no room for own items before it; this "
            f"release's prompts have {learner.encoder.room.prompt} tokens"
        )


def say_outcome(state: PersonalState, name: str, least: int | None) -> None:
    """What became of the adaptation, in plain words on stdout.

    `least`: how many items an adapter needs; None: this release makes none.
    """
    from client.person.item_promise import promise_sentences

    report = state.tasks[name].report
    source = state.embedding_report.get("embedding_source", "mean")
    if not report.get("lora_trained"):
        say_none(int(report.get("items", 0)), str(source), least)
        return
    if promised := promise_sentences(report):
        print_line(
            f"Your adapter is trained on {counted(int(report['items']), 'item')} under privacy, as fixed "
            "before: none was held back to choose or to judge. Your embedding is the average user's. "
            "What personalization brings, proper evaluate tells."
        )
        for sentence in promised:
            print_line(sentence)
        return
    before, after = report.get("lora_loss_before"), report.get("lora_loss_after")
    groups = source != "none"
    rest = "the group's model with your embedding" if groups else "the population's model"
    if report.get("lora_failed"):
        print_line(f"Training your adapter diverged; you get {rest}.")
    elif report.get("lora_doubted"):
        print_line(
            f"Trained without your newest {counted(int(report['items_held_back']), 'item')}, an "
            f"adapter made them less likely: loss {before:.3f} without it, {after:.3f} with it. "
            f"So there is none; you get {rest}."
        )
    elif report.get("lora_epochs") and before is None:
        print_line(
            f"Your adapter is trained on {counted(int(report['items']), 'item')}, as the release says "
            "for a history of that length; there are too few to hold some back and compare. "
            "What personalization brings on items that nothing has seen, proper evaluate tells."
        )
    elif not report.get("lora_epochs"):
        print_line(
            "No training made the answers to your held-back items likelier, so your adapter changes "
            f"nothing{'; your embedding does' if groups else ''}."
        )
    else:
        without = "with your embedding alone" if groups else "without it"
        print_line(
            f"Your adapter is trained on {counted(int(report['items']), 'item')}: loss on items held "
            f"back from it {before:.3f} {without}, {after:.3f} with the adapter. "
            "What personalization brings on items that nothing has seen, proper evaluate tells."
        )


def say_none(count: int, source: str, least: int | None) -> None:
    """That there is no adapter, and what there is instead; the other arguments as in `say_outcome`."""
    start = {
        "mean": "the average user's embedding",
        "prototype": "the embedding of the nearest kind of user",
        "fitted": "an embedding of your own",
        "inferred": "an embedding of your own",
        "none": "the population's model, which is all that this release holds",
    }[source]
    if least is None:
        print_line(
            f"There is no adapter of your own: you get {start}. This release makes none, since "
            "an adapter did not help the people whom it was calibrated with."
        )
        return
    print_line(
        f"With {counted(count, 'item')} there is no adapter of your own yet: you get {start}. "
        f"Come back with {least} or more."
    )


def say_comparison(state: PersonalState, name: str) -> None:
    """Whether own items before a question help, or that nobody knows; nothing where there are none."""
    from client.person.adapting import LOSS_WITHOUT, held_back_loss

    task = state.tasks[name]
    if not task.retrieve:
        return
    report = task.report
    loss = held_back_loss(report)
    if LOSS_WITHOUT not in report or loss is None:
        say(
            "warning: whether own items before a question help was not compared, since no item was "
            "held back; proper evaluate tells, once with them and once after adapting with --retrieve 0"
        )
        return
    without = float(report[LOSS_WITHOUT])
    told = (
        f"loss on the same held-back items {loss:.3f} with own items before a question, "
        f"{without:.3f} trained and asked without"
    )
    if loss > without:
        say(f"warning: {told}: here they hurt; adapt again with --retrieve 0")
        return
    print_line(told[0].upper() + told[1:] + ".")
