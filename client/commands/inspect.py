"""`proper inspect`: what the adapter is, in numbers, and which experts its person leans on."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from client.commands import options as o
from client.console import print_line, print_table, progress_bars
from client.tables import Table
from client.workspace import Workspace, read_state
from proper_model.records import counted

if TYPE_CHECKING:
    from client.personal_state import PersonalState, TaskState

PREVIEW = 60  # characters of an item
ROUTED_ITEMS = 64  # newest items whose routing is shown

ShowItems = Annotated[
    bool, typer.Option("--items", help="List your items with numbers, as forget takes them.")
]


def inspect(
    context: typer.Context,
    task: o.TaskName = None,
    items: ShowItems = False,
    as_json: o.AsJson = False,
) -> None:
    """Show the adapter's size and norm, its data in counts, its release and age, and its experts.

    Routing weights say much about a person: this is for your own eyes.
    """
    workspace = o.workspace(context)
    state = read_state(workspace.open())
    name, task_state = state.task_named(task)
    if items:
        list_items(task_state, as_json=as_json)
        return
    facts = adapter_facts(state, name, task_state)
    leans = routing_of(workspace, state, name)
    if as_json:
        print_line(json.dumps(facts | {"routing": leans}, sort_keys=True))
        return
    rows = tuple((key, str(value)) for key, value in facts.items())
    print_table(Table("Your adapter", ("", ""), rows, labels=2))
    print_events(state)
    if leans is None:
        print_line("Stage 3 is not there yet, so there is no routing of your own to show.")
        return
    experts = len(next(iter(leans.values())))
    table = Table(
        f"Where your last {counted(min(ROUTED_ITEMS, len(task_state.items)), 'item')} went",
        ("linear", *(f"expert {n}" for n in range(experts))),
        tuple((site, *(f"{w:.2f}" for w in weights)) for site, weights in leans.items()),
    )
    print_table(table)
    print_line("Expert n of one linear has nothing to do with expert n of another.")


def adapter_facts(state: PersonalState, name: str, task: TaskState) -> dict[str, Any]:
    """Counts, sizes and norms; no text."""
    numbers = sum(tensor.numel() for tensor in task.adapter.values())
    factors = [
        (tensor, task.adapter[f"{key[:-2]}.B"])
        for key, tensor in task.adapter.items()
        if key.endswith(".A")
    ]
    norm = sum(float((b.double() @ a.double()).square().sum()) for a, b in factors) ** 0.5
    dates = [item.date for item in task.items if item.date is not None]
    facts: dict[str, Any] = {
        "task": name,
        "items": len(task.items),
        "release": f"{state.bundle_version} ({state.bundle_id[:16]})",
        "adapted": task.adapted_at,
        "adapter numbers": numbers,
        "adapter size": o.readable_bytes(4 * numbers),
        "adapter norm |B A|": f"{norm:.4g}",
        "embedding": str(state.embedding_report.get("embedding_source", "none")),
    }
    if "embedding_distance" in state.embedding_report:
        facts["embedding, distance from the mean"] = (
            f"{float(state.embedding_report['embedding_distance']):.4g}"
        )
    if dates:
        facts["items from"], facts["items to"] = min(dates), max(dates)
    named = {
        "lora_learning_rate": "learning rate",
        "lora_epochs": "epochs kept",
        "lora_loss_before": "held-back loss before",
        "lora_loss_after": "held-back loss after",
        "items_held_back": "items held back to choose",
    }
    for key, words in named.items():
        if key in task.report:
            value = task.report[key]
            facts[words] = f"{value:.4g}" if isinstance(value, float) else value
    return facts


def print_events(state: PersonalState) -> None:
    """What was done when."""
    rows = tuple(
        (event.at, event.what, event.task, str(event.items), event.bundle_id[:16])
        for event in state.events
    )
    print_table(
        Table("What was done", ("when", "what", "task", "items", "release"), rows, labels=3)
    )


def list_items(task: TaskState, *, as_json: bool) -> None:
    """Numbers, ids, dates and the first words of every item."""
    rows = []
    for number, item in enumerate(task.items, start=1):
        text = " | ".join(" ".join(value.split()) for value in item.fields.values())
        rows.append((str(number), item.id, item.date or "", text[:PREVIEW]))
    if as_json:
        keys = ("number", "id", "date", "preview")
        for row in rows:
            print_line(json.dumps(dict(zip(keys, row, strict=True)), ensure_ascii=False))
        return
    print_table(Table("Your items", ("number", "id", "date", "begins"), tuple(rows), labels=4))


def routing_of(
    workspace: Workspace, state: PersonalState, name: str
) -> dict[str, list[float]] | None:
    """Mean weight of every expert at every linear over the newest items, at stage 3."""
    from client.answering import Personal

    bundle = workspace.bundle_of(state)
    with progress_bars() as show:
        show("loading the model", 0, 0)
        release = workspace.load(bundle, base_weights=state.base_weights)
        mine = Personal.of(release, state, name)
        if "3" not in mine.stages:
            return None
        items = state.tasks[name].items[-ROUTED_ITEMS:]
        weights = mine.routing([mine.task.history_example(item) for item in items], stage="3")
    return {
        site.path: [round(float(w), 4) for w in row]
        for site, row in zip(mine.model.sites, weights, strict=True)
    }
