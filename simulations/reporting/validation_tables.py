"""A validation report as a table and lines: counts, lengths, labels, problems. No user text."""

from __future__ import annotations

from collections.abc import Iterator

from client.terminal.tables import Table
from proper_model.data import GroupSummary, Lengths, ValidationReport
from proper_model.tasks import counted


def summary_table(found: ValidationReport) -> Table:
    """Pooled and test users side by side."""
    groups = (found.pooled, found.test)
    rows: list[tuple[str, ...]] = [
        ("users", *(str(g.users) for g in groups)),
        ("history items", *(str(g.items) for g in groups)),
        ("queries", *(str(g.queries) for g in groups)),
        ("items a user", *(_spread(g.items_a_user) for g in groups)),
        ("queries a user", *(_spread(g.queries_a_user) for g in groups)),
        ("words a question", *(_spread(g.question_words) for g in groups)),
        ("words an answer", *(_spread(g.answer_words) for g in groups)),
    ]
    rows += [
        (f"label '{label}'", *(_label(g, label) for g in groups))
        for label in found.pooled.gold_labels
    ]
    title = (
        f"{found.name}: {found.form} files, task {found.task}, template {found.template}, "
        f"{counted(found.errors, 'error')}, {counted(found.warnings, 'warning')}"
    )
    return Table(title, ("", "pooled", "test"), tuple(rows))


def problem_lines(found: ValidationReport) -> Iterator[str]:
    """One line a problem, repeated or not: severity, file, record, field, what is wrong."""
    for group in found.groups:
        yield f"{group.severity}: {group}"
    left = found.errors + found.warnings - sum(group.count for group in found.groups)
    if left > 0:
        yield f"... and {left} more"


def _label(group: GroupSummary, label: str) -> str:
    return f"{group.gold_labels.get(label, 0)} + {group.history_labels.get(label, 0)} in history"


def _spread(lengths: Lengths) -> str:
    return f"{lengths.low} / {lengths.median} / {lengths.high}"
