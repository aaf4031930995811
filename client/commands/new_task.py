"""`proper new-task`: a task file out of four questions, or of the options that answer them."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from client.terminal.console import asks, print_line, say, say_error
from client.terminal.document import gives
from proper_model.errors import ConfigError, StorageError, TaskError
from proper_model.storage.durable import create_file
from proper_model.storage.files import expanded, storage_errors
from proper_model.tasks import Task
from proper_model.tasks import new_task as writing

SUFFIX = ".toml"


Out = Annotated[
    Path, typer.Argument(metavar="OUT.toml", help="The file to write.", show_default=False)
]
Name = Annotated[
    str | None, typer.Option("--name", help="Of the task: letters, digits and _ . - only.")
]
Item = Annotated[
    str | None,
    typer.Option(
        "--item",
        metavar="LINE",
        help="One item as a line, its fields in braces, the answer's at the end: 'note: {text} mood: {mood}'.",
    ),
]
Answer = Annotated[
    str | None,
    typer.Option(
        "--answer", help="text, scores such as 1-5, or labels with commas: 'calm, angry'."
    ),
]
Metric = Annotated[
    str | None,
    typer.Option(
        "--metric", help="What counts. (default: accuracy of labels, mae of scores, rougeL of text)"
    ),
]


@gives("new-task")
def new_task(
    out: Out,
    name: Name = None,
    item: Item = None,
    answer: Answer = None,
    metric: Metric = None,
) -> dict[str, Any]:
    """Write a task file: four questions, of which options answer some beforehand.

    A file that is there is never written over.
    """
    target = _place(out)
    task = _answered(name, item, answer, metric)
    with storage_errors(target):
        try:
            create_file(target, task.toml_text.encode())
        except FileExistsError:
            raise _taken(out) from None
    fields = ", ".join(sorted(task.required_fields))
    say(f"a history for it has the fields {fields}: JSON, JSONL or CSV, an item a line")
    say(f"next: proper start --base BASE --task {shlex.quote(str(out))}")
    print_line(str(out))
    return {"file": str(out), "task": task.name, "fields": sorted(task.required_fields)}


def _answered(name: str | None, item: str | None, answer: str | None, metric: str | None) -> Task:
    """The task of the options, and of questions where they leave something open.

    Raises ConfigError if nobody can be asked, TaskError for an option that says what no task may.
    """
    if metric is not None:
        _check_metric(metric, answer)
    given = {"--name": name, "--item": item, "--answer": answer}
    missing = [option for option, value in given.items() if value is None]
    if missing and not asks():
        raise ConfigError(
            f"nobody can be asked for {', '.join(missing)}: stdin is no terminal",
            hint="give them as options; proper new-task --help has an example",
        )
    if name is None:
        name = _ask("What is the task called?", _name)
    if item is None:
        say(
            "one item as a line, its fields in braces, the answer's last: note: {text} mood: {mood}"
        )
        item = _ask("How is an item asked and answered?", _item)
    if answer is None:
        say("text for any text; scores such as 1-5; or labels with commas: calm, angry")
        answer = _ask("What may the answer be?", _answer)
    kind = writing.read_answers(answer).kind
    if metric is None and missing:  # who gave all the others has read what is usual
        metric = _ask(
            f"What counts ({', '.join(writing.metrics_of(kind))})?",
            lambda said: writing.read_metric(said, kind)[0],
            writing.USUAL_METRIC[kind],
        )
    return writing.make_task(name, item, answer, metric)


def _check_metric(metric: str, answer: str | None) -> None:
    """Raises TaskError before anything is asked: for a metric of no task, or not of one with such answers."""
    if answer is not None:
        writing.read_metric(metric, writing.read_answers(answer).kind)
    elif not any(metric.strip() in writing.metrics_of(kind) for kind in writing.USUAL_METRIC):
        every = {name for kind in writing.USUAL_METRIC for name in writing.metrics_of(kind)}
        raise TaskError(
            "metric: not one of any task", hint=f"choose from {', '.join(sorted(every))}"
        )


def _place(out: Path) -> Path:
    """Where the file goes. Raises ConfigError for another suffix, StorageError if something is there."""
    if out.suffix != SUFFIX:
        raise ConfigError(
            f"{out.name}: expected a name that ends in {SUFFIX}",
            hint=f"for example: proper new-task moods{SUFFIX}",
        )
    target = expanded(out).absolute()
    with storage_errors(target):
        taken = target.exists() or target.is_symlink()
    if taken:
        raise _taken(out)
    return target


def _taken(out: Path) -> StorageError:
    return StorageError(
        f"{out}: there is something already, which is never written over",
        hint="name another file, or remove this one first",
    )


def _name(given: str) -> str:
    """The name, if a task may have it. Raises TaskError."""
    return writing.make_task(given, "item: {text} answer: {answer}", "text").name


def _item(given: str) -> str:
    """The line, if it can be taken apart. Raises TaskError."""
    return writing.read_line(given).whole


def _answer(given: str) -> str:
    """The answer to what answers may be, if it says that. Raises TaskError."""
    writing.read_answers(given)
    return given


def _ask(question: str, check: Callable[[str], str], usual: str | None = None) -> str:
    """Ask on stderr until `check` takes the answer."""
    while True:
        given = typer.prompt(question, default=usual, err=True)
        try:
            return check(given)
        except TaskError as error:
            say_error(error)
