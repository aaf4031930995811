"""`proper evaluate`: what personalization brought, on the person's own newest items."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping
from typing import Any

import typer

from client.commands import options as o
from client.commands.outcome import took
from client.commands.training_run import Spent, learner_for, say_cost
from client.person.stores import VaultStore
from client.person.workspace import Memory
from client.terminal.console import print_line, print_table, say
from client.terminal.document import gives
from client.terminal.tables import Table

STAGE_NAMES = {"1": "1 population", "2": "2 group", "3": "3 personal"}
# Metrics under names that a person who is no researcher can read.
METRIC_NAMES = {
    "accuracy": "right answers",
    "f1_macro": "F1, all labels alike",
    "mae": "mean error",
    "mae_expected": "mean error of the expected score",
    "rmse": "root mean square error",
    "rouge1": "shared words (ROUGE-1)",
    "rougeL": "shared word order (ROUGE-L)",
    "nll": "loss a token",
    "parse_failure_rate": "unreadable answers",
}


@gives("evaluate")
def evaluate(
    context: typer.Context,
    task: o.StoredTask = None,
    max_memory: o.MaxMemory = None,
    base_weights: o.BaseWeights = None,
    recompute: o.Recompute = False,
    as_json: o.AsJson = False,
) -> dict[str, Any]:
    """Train once more without your newest items, ask about them, and say what it brought.

    Costs about as much as adapt; stores nothing.
    """
    from client.person import evaluation

    workspace = o.workspace(context)
    memory = Memory(o.bytes_of(max_memory), base_weights, recompute)
    vault = workspace.open()
    state = VaultStore(vault).read()
    name, _ = state.task_named(task)
    bundle = workspace.bundle_of(state)
    with learner_for(workspace, bundle, state, memory) as learner:
        cut = evaluation.cut(learner, state, name)
        cost = say_cost(workspace, learner, cut.histories, memory, stored=False)
        begin = time.monotonic()
        found = evaluation.evaluate(learner, state, name, cut)
        spent = Spent.since(begin, cost)
    spent.say()
    say_unusable(found.unusable)
    told = {
        "took": took(spent),
        "task": name,
        "verdict": found.verdict(),
        "warnings": list(vault.warnings),
    }
    if as_json:
        return dataclasses.asdict(found) | told
    metrics = list(next(iter(found.scores.values())))
    rows = [
        (STAGE_NAMES[stage], *(f"{scores[metric]:.3f}" for metric in metrics))
        for stage, scores in found.scores.items()
    ]
    highest, gains = max(found.scores), list(found.gains.values())
    rows.append((f"{highest} minus 1", *(f"{gain.delta:+.3f}" for gain in gains)))
    rows.append(("by chance alone", *(f"{gain.p:.0%}" for gain in gains)))
    title = f"{name}: {found.tested} newest items, trained on the {found.trained} before"
    print_table(Table(title, ("stage", *(METRIC_NAMES.get(m, m) for m in metrics)), tuple(rows)))
    print_line(found.verdict())
    say("by chance alone: how often stages that are alike would differ as much; below 5 % counts")
    return told


def say_unusable(shares: Mapping[str, float]) -> None:
    """Warn of answers that say nothing, by stage, where there are some."""
    told = ", ".join(f"{share:.0%} at stage {stage}" for stage, share in shares.items() if share)
    if told:
        say(f"warning: answers that are empty, or none of the task's labels: {told}")
