"""`--json`: one JSON document on stdout, whatever becomes of the command, and all else on stderr.

A command returns what it found and prints its sentences as ever; with `--json` these go to stderr
and the document to stdout. An error is a document too. The fields of every command: docs/json.md.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stdout
from typing import Annotated, Any, ParamSpec

import click
import typer

from client.terminal.console import Remarks, print_line
from client.terminal.session import Session
from client.terminal.usage import JSON
from proper_model.json_output.document import document, error_document

PARAMETER = "as_json"
AsJson = Annotated[bool, typer.Option(JSON, help="For programs: one JSON document on stdout.")]
Arguments = ParamSpec("Arguments")


def gives(
    command: str,
) -> Callable[[Callable[Arguments, dict[str, Any] | None]], Callable[..., None]]:
    """A command that returns its document, or None where it printed that itself; it gets `--json`.

    One that shows something else for it, or nothing besides, has a parameter `as_json` itself.
    """

    def decorated(run: Callable[Arguments, dict[str, Any] | None]) -> Callable[..., None]:
        signature = inspect.signature(run, eval_str=True)
        asks = PARAMETER in signature.parameters

        @functools.wraps(run)
        def called(*args: Any, **kwargs: Any) -> None:
            as_json = kwargs[PARAMETER] if asks else kwargs.pop(PARAMETER)
            if not as_json:
                run(*args, **kwargs)
                return
            session_of().command = command
            with redirect_stdout(Remarks()):
                found = run(*args, **kwargs)
            if found is not None:
                print_document(command, found)

        if not asks:
            option = inspect.Parameter(
                PARAMETER, inspect.Parameter.KEYWORD_ONLY, default=False, annotation=AsJson
            )
            signature = signature.replace(parameters=[*signature.parameters.values(), option])
        called.__signature__ = signature  # type: ignore[attr-defined] # what typer reads
        return called

    return decorated


def print_document(command: str, found: Mapping[str, Any]) -> None:
    """The document on stdout; an error after this has none."""
    session_of().answered = True
    print_line(document(command, found))


def print_error(session: Session, *, code: int, kind: str, message: str, hint: str) -> None:
    """The document of an error, with what the command found before it."""
    if session.answered:
        return
    found = session.found
    print_line(
        error_document(session.command, found, code=code, kind=kind, message=message, hint=hint)
    )


def asked_for_json(words: Sequence[str]) -> bool:
    """Whether a command line, understood or not, asks for a document."""
    return JSON in options_of(words)


def options_of(words: Sequence[str]) -> Sequence[str]:
    """The words that may be options: those before `--`."""
    return words[: words.index("--")] if "--" in words else words


def session_of() -> Session:
    """Of the command that is running."""
    session = click.get_current_context().find_object(Session)
    assert session is not None
    return session
