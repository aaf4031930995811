"""`--json`: one JSON document on stdout, whatever becomes of the command, and all else on stderr.

A command returns what it found and prints its sentences as ever; with `--json` these go to stderr
and the document to stdout. An error is a document too. The fields of every command: docs/json.md.
"""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stdout
from typing import Annotated, Any, ParamSpec

import click
import typer

from client.terminal.console import print_line, remarks
from client.terminal.session import Session
from client.terminal.terminal_text import json_line
from client.terminal.usage import JSON

SCHEMA = 1  # raised when a field goes or changes its meaning; new ones come without
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
            with redirect_stdout(remarks()):
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
    _print({"schema": SCHEMA, "command": command, **found})


def print_error(session: Session, *, code: int, kind: str, message: str, hint: str) -> None:
    """The document of an error, with what the command found before it."""
    if session.answered:
        return
    error = {"code": code, "kind": kind, "message": message, "next": hint}
    told = {"schema": SCHEMA, "command": session.command, **session.found, "error": error}
    _print(told)


def _print(document: Mapping[str, Any]) -> None:
    print_line(json_line(_finite(document), ascii_only=True))


def _finite(value: Any) -> Any:
    """The same with null for what is no number: JSON has neither NaN nor infinity."""
    if isinstance(value, Mapping):
        return {name: _finite(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


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
