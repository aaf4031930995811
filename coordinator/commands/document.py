"""`--json` of `proper-coordinator`: one JSON document on stdout, of an error too, and all else on stderr.

`proper` and `proper-sim` have the same in `client.terminal.document`.
"""

from __future__ import annotations

import functools
import inspect
import io
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stdout, suppress
from dataclasses import dataclass, field
from typing import Annotated, Any, ParamSpec

import click
import typer

from coordinator.commands.options import tell
from proper_model.errors import StorageError
from proper_model.json_output.document import document, error_document

JSON, PARAMETER = "--json", "as_json"
AsJson = Annotated[bool, typer.Option(JSON, help="For programs: one JSON document on stdout.")]
Arguments = ParamSpec("Arguments")


@dataclass
class Session:
    """What is known of one command line while it runs.

    Attributes:
        words: the command line, without the program's name.
        command, found: the command that runs with `--json`, and what an error's document tells beside
            the error.
        answered: its document is printed.
    """

    words: Sequence[str] = ()
    debug: bool = False
    command: str | None = None
    found: Mapping[str, Any] = field(default_factory=dict)
    answered: bool = False


class _Remarks(io.TextIOBase):
    """stderr; what it does not take is lost, and the command goes on."""

    def write(self, text: str, /) -> int:
        with suppress(OSError, ValueError, AttributeError):
            sys.stderr.write(text)
        return len(text)


def gives(
    command: str,
) -> Callable[[Callable[Arguments, dict[str, Any]]], Callable[..., None]]:
    """A command that returns its document; it gets `--json`.

    One that shows less with it has a parameter `as_json` itself.
    """

    def decorated(run: Callable[Arguments, dict[str, Any]]) -> Callable[..., None]:
        signature = inspect.signature(run, eval_str=True)
        asks = PARAMETER in signature.parameters

        @functools.wraps(run)
        def called(*args: Any, **kwargs: Any) -> None:
            as_json = kwargs[PARAMETER] if asks else kwargs.pop(PARAMETER)
            if not as_json:
                run(*args, **kwargs)
                return
            session = session_of()
            session.command = command
            with redirect_stdout(_Remarks()):
                found = run(*args, **kwargs)
            session.answered = True  # an error after this has no document
            tell(document(command, found))

        if not asks:
            option = inspect.Parameter(
                PARAMETER, inspect.Parameter.KEYWORD_ONLY, default=False, annotation=AsJson
            )
            signature = signature.replace(parameters=[*signature.parameters.values(), option])
        called.__signature__ = signature  # type: ignore[attr-defined] # what typer reads
        return called

    return decorated


def print_error(session: Session, *, code: int, kind: str, message: str, hint: str) -> None:
    """The document of an error, where the command line, understood or not, asks for one."""
    words = session.words
    asked = JSON in (words[: words.index("--")] if "--" in words else words)
    if not asked or session.answered:
        return
    told = error_document(
        session.command, session.found, code=code, kind=kind, message=message, hint=hint
    )
    with suppress(StorageError):  # stdout takes no more, and stderr has the error
        tell(told)


def session_of() -> Session:
    """Of the command that is running."""
    session = click.get_current_context().find_object(Session)
    assert session is not None
    return session
