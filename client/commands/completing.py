"""What a shell completes behind options and arguments, without loading a model or opening a vault."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import click

from client.settings.names import SETTINGS

Completer = Callable[[str], list[str]]


def one_of(*choices: str) -> Completer:
    """These, where they begin so."""
    return lambda incomplete: _beginning(incomplete, choices)


def task(incomplete: str) -> list[str]:
    """Shipped tasks; a task of one's own stands in the vault or in a file."""
    from proper_model.tasks import example_tasks, shipped_tasks

    return _beginning(incomplete, (*shipped_tasks(), *example_tasks()))


def base(incomplete: str) -> list[str]:
    """Bases that come by name, their short names first."""
    from client.bases.known import KNOWN

    return _beginning(
        incomplete, [name for one in KNOWN.values() for name in (*one.aliases, one.name)]
    )


def profile(incomplete: str) -> list[str]:
    """Shipped profiles."""
    from proper_model.settings import profile_names

    return _beginning(incomplete, profile_names())


def setting(incomplete: str) -> list[str]:
    """Names of settings."""
    return _beginning(incomplete, SETTINGS)


def value(context: click.Context, incomplete: str) -> list[str]:
    """What the setting that stands before may be, where that is a short list."""
    named = SETTINGS.get(context.params.get("name") or "")
    return [] if named is None else _beginning(incomplete, named.choices)


def _beginning(incomplete: str, choices: Iterable[str]) -> list[str]:
    return [choice for choice in choices if choice.startswith(incomplete)]
