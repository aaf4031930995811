"""Examples at the end of a command's help."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import typer
from rich.markup import escape


def add_examples(app: typer.Typer, program: str, examples: Mapping[str, Sequence[str]]) -> None:
    """End the help of the commands with examples.

    Args:
        examples: by the words of a command, such as `bundle add`, what stands after the program's name.
    """
    for command in app.registered_commands:
        called = command.name or (command.callback.__name__ if command.callback else "")
        name = called.replace("_", "-")
        if name in examples:
            command.epilog = epilog(program, examples[name])
    for group in app.registered_groups:
        if group.typer_instance is None:
            continue
        name = group.name if isinstance(group.name, str) else str(group.typer_instance.info.name)
        below = {
            words.removeprefix(f"{name} "): lines
            for words, lines in examples.items()
            if words.startswith(f"{name} ")
        }
        add_examples(group.typer_instance, program, below)
        if name in examples:
            group.epilog = epilog(program, examples[name])


def epilog(program: str, examples: Sequence[str]) -> str:
    """The last lines of a help text. Empty lines keep lines apart, which are joined otherwise."""
    lines = [f"  {program} {example}" for example in examples]
    return "\n\n".join(["Examples:" if len(lines) > 1 else "Example:", *map(escape, lines)])
