"""`proper generate`: an answer in one person's way, one at a time or a file of them."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from client.commands import options as o
from client.commands.work import Memory, load_within, stored_state
from client.console import progress_bars, say
from client.workspace import Workspace
from proper_model.errors import ConfigError, DataError

MAX_QUESTION_BYTES = 1 << 20

Text = Annotated[
    str | None,
    typer.Argument(metavar="TEXT", help="The question; - reads stdin.", show_default=False),
]
Input = Annotated[
    Path | None, typer.Option("--input", help='JSONL with "input" (and "id") in every line.')
]
Output = Annotated[Path | None, typer.Option("--output", help="JSONL to write; must not exist.")]
MaxTokens = Annotated[int | None, typer.Option("--max-tokens", min=1)]


def generate(
    context: typer.Context,
    text: Text = None,
    stage: o.Stage = None,
    task: o.TaskName = None,
    max_tokens: MaxTokens = None,
    source: Input = None,
    output: Output = None,
    max_memory: o.MaxMemory = None,
) -> None:
    """Answer TEXT as your own model would; --stage 1 or 2 shows what others would get."""
    if (text is None) == (source is None):
        raise ConfigError("give a question, or a file with --input")
    if output is not None and source is None:
        raise ConfigError("--output goes with --input")
    workspace = o.workspace(context)
    questions = [] if source is None else read_questions(source)
    if output is not None and output.exists():
        raise ConfigError(f"{output.name} exists already", hint="give a new file to --output")
    if text == "-":
        text = read_stdin()
    mine = personal_model(workspace, task, Memory(o.bytes_of(max_memory)))
    chosen = stage or mine.stages[-1]
    if text is not None:
        for piece in mine.generate(text, stage=chosen, max_tokens=max_tokens):
            sys.stdout.write(piece)
            sys.stdout.flush()
        sys.stdout.write("\n")
        return
    with progress_bars() as show:
        rows = []
        for done, question in enumerate(questions):
            show("answering", done, len(questions))
            pieces = mine.generate(question["input"], stage=chosen, max_tokens=max_tokens)
            rows.append({"id": question["id"], "output": "".join(pieces)})
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    if output is None:
        sys.stdout.write(lines)
        return
    from proper_model.durable import create_file
    from proper_model.files import storage_errors

    with storage_errors(output):
        create_file(output, lines.encode())
    say(f"{len(rows)} answers in {output}")


def personal_model(workspace: Workspace, task: str | None, memory: Memory) -> Any:
    """The person's model over its release; without a vault, the population's."""
    from client.answering import Personal

    state = stored_state(workspace.open()) if workspace.has_vault else None
    bundle = workspace.bundle_of(state)
    if state is None and task is not None:
        raise ConfigError(
            "--task names a task adapted before, and none was",
            hint="leave it out, or run proper adapt first",
        )
    release, _ = load_within(workspace, bundle, state, memory)
    return Personal.of(release, state, task)


def read_stdin() -> str:
    """All of stdin as text. Raises DataError if it is no UTF-8 or too long."""
    data = sys.stdin.buffer.read(MAX_QUESTION_BYTES + 1)
    if len(data) > MAX_QUESTION_BYTES:
        raise DataError(f"stdin: a question of more than {MAX_QUESTION_BYTES} bytes")
    try:
        return data.decode().strip()
    except UnicodeDecodeError:
        raise DataError("stdin: not UTF-8 text") from None


def read_questions(path: Path) -> list[dict[str, str]]:
    """`id` and `input` of every line. Raises DataError with the line that is not as expected."""
    return list(_questions(path))


def _questions(path: Path) -> Iterator[dict[str, str]]:
    hint = 'one JSON object a line, such as {"id": "1", "input": "..."}'
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise DataError(f"{path.name}: {error.strerror}") from None
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            raise DataError(f"{path.name}, line {number}: not UTF-8 JSON", hint=hint) from None
        if not isinstance(row, dict) or not isinstance(row.get("input"), str):
            raise DataError(f"{path.name}, line {number}: no text in field input", hint=hint)
        yield {"id": str(row.get("id", number)), "input": row["input"]}
