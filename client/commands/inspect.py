"""`proper inspect`: what the adapter is, in numbers, and how much each expert weighs in it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from client.commands import options as o
from client.person.stores import VaultStore
from client.person.workspace import Workspace
from client.terminal.console import print_line, print_table, progress_bars
from client.terminal.document import gives
from client.terminal.tables import Table
from client.terminal.terminal_text import for_stdout, preview
from proper_model.data import date_key
from proper_model.settings import presets
from proper_model.tasks import counted

if TYPE_CHECKING:
    from client.person.state import PersonalState, TaskState

PREVIEW = 60  # characters of an item
ROUTED_ITEMS = 64  # newest items whose routing is shown

# What a training's report says, and what a person reads for every fact.
REPORTED = (
    "items_held_back",
    "lora_learning_rate",
    "lora_epochs",
    "lora_loss_before",
    "lora_loss_after",
    "loss_without_own_items_before",
    "private_epsilon",
    "private_delta",
    "private_accountant",
    "private_steps",
    "private_sampling_rate",
    "private_clip_norm",
    "private_noise_multiplier",
    "private_trainings",
    "private_epsilon_all",
    "private_delta_all",
)
WORDS = {
    "task": "task",
    "items": "items",
    "items_waiting": "items that wait for an update",
    "items_from": "items from",
    "items_to": "items to",
    "retrieve": "own items before a question",
    "release_version": "release",
    "adapted_at": "adapted",
    "adapter_numbers": "adapter, numbers",
    "adapter_bytes": "adapter, size",
    "adapter_norm": "adapter, norm |B A|",
    "embedding_source": "embedding",
    "embedding_distance": "embedding, distance from the mean",
    "items_held_back": "items held back to choose",
    "lora_learning_rate": "learning rate",
    "lora_epochs": "epochs kept",
    "lora_loss_before": "held-back loss before",
    "lora_loss_after": "held-back loss after",
    "loss_without_own_items_before": "held-back loss without own items before",
    "private_epsilon": "privacy of an item, epsilon",
    "private_delta": "privacy of an item, delta",
    "private_accountant": "privacy, accounted by",
    "private_steps": "privacy, steps",
    "private_sampling_rate": "privacy, an item is in a step with probability",
    "private_clip_norm": "privacy, an item's gradient is cut to",
    "private_noise_multiplier": "privacy, noise in multiples of that",
    "private_trainings": "privacy, trainings so far",
    "private_epsilon_all": "privacy of all these together, epsilon",
    "private_delta_all": "privacy of all these together, delta",
}

ShowItems = Annotated[
    bool, typer.Option("--items", help="List your items with numbers, as forget takes them.")
]


@gives("inspect")
def inspect(
    context: typer.Context,
    task: o.StoredTask = None,
    items: ShowItems = False,
    as_json: o.AsJson = False,
) -> dict[str, Any]:
    """Show the adapter's size and norm, its data in counts, its release and age, and its experts.

    Routing weights say much about a person: this is for your own eyes.
    """
    workspace = o.workspace(context)
    vault = workspace.open()
    state = VaultStore(vault).read()
    name, task_state = state.task_named(task)
    if items:
        return list_items(task_state, shown=not as_json)
    facts = adapter_facts(state, name, task_state)
    routing, (weight, temperature) = stage_three(workspace, state, name)
    if as_json:
        events = [dataclasses.asdict(event) for event in state.events]
        answers = {"stage3_weight": weight, "temperature": temperature}
        told = {"routing": routing, "events": events, "warnings": list(vault.warnings)}
        return facts | answers | told
    print_table(Table("Your adapter", ("", ""), fact_rows(facts), labels=2))
    print_events(state)
    if routing is not None and (weight, temperature) != (1, 1):
        below = "stage 2" if routing else "stage 1"
        print_line(
            f"Answers are stage 3 with weight {weight:g} and {below} with {1 - weight:g}, mixed in "
            f"probability, at temperature {temperature:g}: so the release is calibrated."
        )
    if not routing:
        none_yet = "Stage 3 is not there yet, so there is no routing of your own to show."
        never = presets.POPULATION_ONLY_NOTE.capitalize() + "."
        print_line(none_yet if routing is None else never)
        return facts
    experts = len(next(iter(routing.values())))
    table = Table(
        f"Where your last {counted(min(ROUTED_ITEMS, len(task_state.items)), 'item')} went",
        ("linear", *(f"expert {n}" for n in range(experts))),
        tuple((site, *(f"{w:.2f}" for w in weights)) for site, weights in routing.items()),
    )
    print_table(table)
    print_line("Expert n of one linear has nothing to do with expert n of another.")
    return facts


def adapter_facts(state: PersonalState, name: str, task: TaskState) -> dict[str, Any]:
    """Counts, sizes in bytes, norms and losses; no text of the person's."""
    factors = [
        (tensor, task.adapter[f"{key[:-2]}.B"])
        for key, tensor in task.adapter.items()
        if key.endswith(".A")
    ]
    norm = sum(float((b.double() @ a.double()).square().sum()) for a, b in factors) ** 0.5
    dates = sorted(
        (i.date for i in task.items if i.date is not None), key=lambda d: date_key(d) or ()
    )
    numbers = sum(tensor.numel() for tensor in task.adapter.values())
    facts: dict[str, Any] = {
        "task": name,
        "items": len(task.items),
        "items_waiting": len(task.waiting),
        "items_from": dates[0] if dates else None,
        "items_to": dates[-1] if dates else None,
        "retrieve": task.retrieve,
        "release_version": state.bundle_version,
        "bundle_id": state.bundle_id,
        "adapted_at": task.adapted_at,
        "adapter_numbers": numbers,
        "adapter_bytes": 4 * numbers,
        "adapter_norm": norm,
        "embedding_source": state.embedding_report.get("embedding_source"),
        "embedding_distance": state.embedding_report.get("embedding_distance"),
    }
    return facts | {key: task.report.get(key) for key in REPORTED}


def fact_rows(facts: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    """The facts that there are, in words and units."""
    shown: list[tuple[str, str]] = []
    for key, words in WORDS.items():
        value = facts[key]
        if value is None or (key in ("items_waiting", "retrieve") and not value):
            continue
        if key == "release_version":
            value = f"{value} ({facts['bundle_id'][:16]})"
        elif key == "adapter_bytes":
            value = o.readable_bytes(value)
        elif isinstance(value, float):
            value = f"{value:.4g}"
        shown.append((words, str(value)))
    return tuple(shown)


def print_events(state: PersonalState) -> None:
    """What was done when."""
    rows = tuple(
        (event.at, event.what, event.task, str(event.items), event.bundle_id[:16])
        for event in state.events
    )
    print_table(
        Table("What was done", ("when", "what", "task", "items", "release"), rows, labels=3)
    )


def list_items(task: TaskState, *, shown: bool = True) -> dict[str, Any]:
    """Numbers, ids, dates and the first words of every item."""
    rows = [
        (str(number), item.id, item.date or "", preview(item.fields, PREVIEW))
        for number, item in enumerate(task.items, start=1)
    ]
    if shown:
        cells = tuple(tuple(map(for_stdout, row)) for row in rows)
        print_table(Table("Your items", ("number", "id", "date", "begins"), cells, labels=4))
    keys = ("number", "id", "date", "preview")
    listed = [dict(zip(keys, (int(row[0]), *row[1:]), strict=True)) for row in rows]
    return {"listed": listed}


def stage_three(
    workspace: Workspace, state: PersonalState, name: str
) -> tuple[dict[str, list[float]] | None, tuple[float, float]]:
    """Mean weight of every expert at every linear over the newest items, and `Personal.share`.

    No weights where there is no stage 3: None; nothing over a release without experts.
    """
    from client.person.answering import Personal

    bundle = workspace.bundle_of(state)
    with progress_bars() as show:
        show("loading the model", 0, 0)
        release = workspace.load(bundle, base_weights=state.base_weights)
        mine = Personal.of(release, state, name)
        if "3" not in mine.stages:
            return None, mine.share
        if release.structure.population_only:
            return {}, mine.share
        items = state.tasks[name].items[-ROUTED_ITEMS:]
        examples = [mine.own_items("3").history_example(item) for item in items]
        weights = mine.routing(examples, stage="3")
    routing = {
        site.path: [round(float(w), 4) for w in row]
        for site, row in zip(mine.model.sites, weights, strict=True)
    }
    return routing, mine.share
