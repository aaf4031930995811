"""`proper generate`: the person's own model answers one question, or a file of them.

A file is read a line at a time, so that memory is bounded however many questions it holds.
"""

from __future__ import annotations

import codecs
import os
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import IO, Annotated, Any

import typer

from client.commands import options as o
from client.history.text_input import shown_name
from client.person.stores import VaultStore, stored
from client.person.workspace import Memory, Workspace
from client.terminal.console import progress_bars, say, stdin_bytes
from client.terminal.document import gives
from client.terminal.terminal_text import for_stdout, json_line
from proper_model.data import whole_text
from proper_model.errors import ConfigError, DataError
from proper_model.storage.documents import DocumentError, parse_json
from proper_model.tasks import Depth, counted, parse_depth

MAX_QUESTION_BYTES = 1 << 20
MAX_LINE_BYTES = 4 << 20  # of a file of questions
LINE_HINT = 'one JSON object a line, such as {"id": "1", "input": "..."}'

Text = Annotated[
    str | None,
    typer.Argument(
        metavar="TEXT",
        help="The question; - reads it from stdin, out of sight of `ps` and the shell's history.",
        show_default=False,
    ),
]
Input = Annotated[
    Path | None,
    typer.Option(
        "--input", help='JSONL with "input" (and "id") in every line; - reads it from stdin.'
    ),
]
Output = Annotated[Path | None, typer.Option("--output", help="JSONL to write; must not exist.")]
MaxTokens = Annotated[int | None, typer.Option("--max-tokens", min=1)]


@gives("generate")
def generate(
    context: typer.Context,
    text: Text = None,
    stage: o.Stage = None,
    task: o.StoredTask = None,
    max_tokens: MaxTokens = None,
    source: Input = None,
    output: Output = None,
    retrieve: o.Retrieve = None,
    max_memory: o.MaxMemory = None,
    as_json: o.AsJson = False,
) -> dict[str, Any]:
    """Answer TEXT as your own model would; --stage 1 or 2 shows what others would get."""
    if (text is None) == (source is None):
        raise ConfigError("give a question, or a file with --input")
    if output is not None and source is None:
        raise ConfigError("--output goes with --input")
    if as_json and source is not None and output is None:
        raise ConfigError(
            "--input prints JSON already, a line an answer, as they come",
            hint="leave --json out, or name a file with --output",
        )
    if text is not None and any("\ud800" <= sign <= "\udfff" for sign in text):
        # What Python makes of bytes in an argument that are no text; no tokenizer takes it.
        raise DataError("the question is not UTF-8 text", hint="give it in UTF-8, or with --input")
    depth = None if retrieve is None else parse_depth(retrieve)
    workspace, memory = o.workspace(context), Memory(o.bytes_of(max_memory))
    if output is not None and output.exists():
        raise ConfigError(f"{output.name} exists already", hint="give a new file to --output")
    if source is not None:
        with open_questions(source) as questions:
            mine = personal_model(workspace, task, memory, depth)
            chosen = stage or mine.stages[-1]
            count = answer_all(mine, questions, chosen, max_tokens, output)
        return {
            "stage": chosen,
            "answers": count,
            "output": None if output is None else str(output),
        }
    if text == "-":
        text = read_stdin()
    assert text is not None
    mine = personal_model(workspace, task, memory, depth)
    say_unknown(mine, text)
    chosen, pieces = stage or mine.stages[-1], []
    for piece in mine.generate(text, stage=chosen, max_tokens=max_tokens):
        pieces.append(piece)
        if not as_json:
            sys.stdout.write(for_stdout(piece))
            sys.stdout.flush()
    if not as_json:
        sys.stdout.write("\n")
    return {"stage": chosen, "answer": "".join(pieces)}


@dataclass(frozen=True)
class Asked:
    """One question of a file; `id` is the line's number where it has none."""

    id: str
    input: str


@dataclass(frozen=True)
class Questions:
    """`rows` can be read once; `total` is 0 if it is not known before the end."""

    total: int
    rows: Iterator[Asked]


@contextmanager
def open_questions(path: Path) -> Iterator[Questions]:
    """All lines of a regular file are checked before the first is handed on; a pipe's as they come.

    Raises DataError, here or while `rows` is read, with the line that is not as expected.
    """
    if str(path) == "-":
        yield Questions(0, _rows(stdin_bytes(), "stdin"))
        return
    name = shown_name(path)
    try:
        handle = path.open("rb")
    except OSError as error:
        raise DataError(
            f"{name}: {error.strerror}; expected a file of questions",
            hint="check the path given to --input",
        ) from None
    with handle:
        total = 0
        if stat.S_ISREG(os.fstat(handle.fileno()).st_mode):
            total = sum(1 for _ in _rows(handle, name))
            handle.seek(0)
        yield Questions(total, _rows(handle, name))


def _rows(handle: IO[bytes], name: str) -> Iterator[Asked]:
    for number in count(1):
        place = f"{name}, line {number}"
        try:
            line = handle.readline(MAX_LINE_BYTES + 1)
        except OSError as error:
            raise DataError(
                f"{place}: cannot be read ({error.strerror})",
                hint="check the disk, then repeat the command",
            ) from None
        if not line:
            return
        if len(line) > MAX_LINE_BYTES:
            raise DataError(f"{place}: more than {MAX_LINE_BYTES} bytes", hint=LINE_HINT)
        if not line.strip():
            continue
        text = line.removeprefix(codecs.BOM_UTF8) if number == 1 else line
        try:
            row = parse_json(text, surrogates=True)
        except DocumentError as error:
            raise DataError(f"{place}: {error}", hint=LINE_HINT) from None
        if not isinstance(row, dict) or not isinstance(row.get("input"), str):
            raise DataError(f"{place}: no text in field input", hint=LINE_HINT)
        yield Asked(whole_text(str(row.get("id", number))), whole_text(row["input"]))


def answer_all(
    mine: Any, questions: Questions, stage: str, max_tokens: int | None, output: Path | None
) -> int:
    """A line of JSON for every question: on stdout at once, or in a file that appears when whole.

    Returns how many.
    """
    from proper_model.storage.durable import create_file
    from proper_model.storage.files import storage_errors

    done, quality = 0, Quality()

    def lines() -> Iterator[str]:
        nonlocal done
        for asked in questions.rows:
            show("answering", done, questions.total)
            answer = "".join(mine.generate(asked.input, stage=stage, max_tokens=max_tokens))
            quality.take(mine, asked.input, answer)
            yield json_line({"id": asked.id, "output": answer}) + "\n"
            done += 1

    with progress_bars() as show:
        if output is None:
            for line in lines():
                sys.stdout.write(line)
                sys.stdout.flush()
        else:
            with storage_errors(output):
                create_file(output, (line.encode() for line in lines()))
    if output is not None:
        say(f"{counted(done, 'answer')} in {output}")
    quality.say()
    return done


@dataclass
class Quality:
    """What is wrong with the questions and answers of a file, in counts."""

    answers: int = 0
    unknown: int = 0
    words: int = 0
    unread: int = 0  # questions of mostly unknown words
    unusable: int = 0

    def take(self, mine: Any, text: str, answer: str) -> None:
        """Count one question and its answer."""
        unknown, words = mine.unknown_words(text)
        self.answers, self.unknown, self.words = (
            self.answers + 1,
            self.unknown + unknown,
            self.words + words,
        )
        self.unread += 2 * unknown > words
        self.unusable += mine.unusable(text, answer)

    def say(self) -> None:
        """Warn where something is."""
        if self.unread:
            say(
                f"warning: {self.unread} of {counted(self.answers, 'question')} are mostly of words that the "
                f"base does not know ({self.unknown / self.words:.0%} of all words); their answers tell little"
            )
        if self.unusable:
            say(
                f"warning: {self.unusable} of {counted(self.answers, 'answer')} "
                f"({self.unusable / self.answers:.0%}) are empty, or none of the task's labels"
            )


def say_unknown(mine: Any, text: str) -> None:
    """Warn of a question most of whose words the base does not know; none of them is repeated."""
    unknown, words = mine.unknown_words(text)
    if 2 * unknown > words:
        say(
            f"warning: the base does not know {unknown} of the {counted(words, 'word')} of this question "
            f"({unknown / words:.0%}), so the answer tells little; ask in words like those of your items"
        )


def personal_model(
    workspace: Workspace, task: str | None, memory: Memory, retrieve: Depth | None = None
) -> Any:
    """The person's model over its release; without a vault, the population's."""
    from client.person.answering import Personal, check_retrieve
    from client.person.load_for_training import load_within

    state = stored(VaultStore(workspace.open())) if workspace.has_vault else None
    bundle = workspace.bundle_of(state)
    if state is None and task is not None:
        raise ConfigError(
            "--task names a task adapted before, and none was",
            hint="leave it out, or run proper adapt first",
        )
    check_retrieve(state, retrieve)
    release, _ = load_within(workspace, bundle, state, memory)
    return Personal.of(release, state, task, retrieve=retrieve)


def read_stdin() -> str:
    """All of stdin as text. Raises DataError if it is no UTF-8 or too long."""
    data = stdin_bytes().read(MAX_QUESTION_BYTES + 1)
    if len(data) > MAX_QUESTION_BYTES:
        raise DataError(
            f"stdin: a question of more than {MAX_QUESTION_BYTES} bytes",
            hint="many questions go into a file of JSON lines: --input FILE",
        )
    try:
        return data.decode().strip()
    except UnicodeDecodeError:
        raise DataError("stdin: not UTF-8 text", hint="give it in UTF-8, or with --input") from None
